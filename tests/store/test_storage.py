"""URIs, and the store in S3: a fake one always, a real one where there is one."""

import hashlib
import pickle  # noqa: TID251 - how Ray sends things to workers
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ddpm_core.errors import ConfigError, RunConflictError, StorageError
from ddpm_core.inference.tensor_file import TensorFile
from ddpm_core.store import content, s3_client, source
from ddpm_core.store.commit import write_file
from ddpm_core.store.foreign_bucket import bucket_and_key
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.s3_operation import PART_BYTES
from ddpm_core.store.storage import KeyMissingError, LocalStore, S3Store, Store, open_store
from tests import real_s3
from tests.fake_s3 import BUCKET, SECRET, FakeS3

pytest_plugins = ["tests.s3_fixtures"]

TENSORS = {"a": torch.arange(200), "b": torch.arange(2.0**20 * 18)}


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "  ",
        "pipe:cat /etc/passwd",
        "gs://bucket/x",
        "http://host/x",
        "s3:/bucket",
        "s3://",
        "s3:///x",
        "s3://b",
        "s3://buck et/x",
        "s3://-bucket/x",
        "s3://a:b:bucket/x",
        "s3://:bucket/x",
        f"s3://{'b' * 256}/x",
        "s3://bucket/a#b",
        "s3://bucket/a%23b",
        "s3://bucket/a b",
        "file:///a#b",
        "file:///a?b",
        "s3://bucket//x",
        "s3://bucket/../x",
        "s3://bucket/x?versionId=3",
        "file://host/x",
        "file:x",
        "S3://bucket/x",
        "a\0b",
        "~nobody-has-this-name/x",
    ],
)
def test_a_uri_that_is_not_understood_is_refused_with_what_is(uri: str):
    """Catches a URI taken for a relative path: a root named 's3:' on the disk."""
    with pytest.raises(ConfigError, match=r"s3://bucket/prefix"):
        open_store(uri)


@pytest.mark.parametrize(
    "bucket", ["Old_Bucket-", "my_images", "b" * 255, "team:bucket", "team_2:Old_Bucket"]
)
def test_a_bucket_that_a_server_may_have_is_taken(bucket: str):
    """Catches the rule for new buckets of S3 held against old ones, and those of Ceph's tenants."""
    assert S3Store(f"s3://{bucket}/a/").uri == f"s3://{bucket}/a"
    assert bucket_and_key(f"s3://{bucket}/a b/") == (bucket, "a b")


@pytest.mark.parametrize(
    "uri", ["s3://user:hunter2@bucket/x", "gs://u:hunter2@b", "s3://b/x?k=hunter2"]
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str):
    """Catches a secret in an error message, and so in logs."""
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert "hunter2" not in str(caught.value)


def test_a_local_uri_becomes_one_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches a relative root, which would be another place in a worker's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a#b", "a?b", "a%20b", "a b", "a+b", "a;b", "a&b"):
        assert open_store(str(tmp_path / name)).uri == str(tmp_path / name)
    assert open_store(f"file://{tmp_path}/a%23b%3F%25").uri == str(tmp_path / "a#b?%")
    for uri in ("runs/x", "./runs/../runs/x/", "~/runs/x", f"file://{tmp_path}/runs/x"):
        assert open_store(uri).uri == str(tmp_path / "runs" / "x"), uri
    assert open_store(f"file://{tmp_path}/a%20b").uri == str(tmp_path / "a b")
    assert not (tmp_path / "runs").exists(), "opening makes nothing"


def test_a_root_that_is_a_file_is_refused(tmp_path: Path):
    """Catches the error coming only with the first write."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        open_store(str(tmp_path / "file"))


def test_importing_the_storage_loads_none_of_the_libraries():
    """Catches an import that makes every command line, and every flow, wait for s3fs."""
    code = (
        "import sys, ddpm_core.store.manifest; "
        "print([m for m in ('torch', 's3fs', 'fsspec', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- S3 ----------------------------------------------------------------------------------------


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.s3)])
def any_store(request: pytest.FixtureRequest) -> Store:
    if request.param == "fake":
        return request.getfixturevalue("s3_store")
    return request.getfixturevalue("real_s3_store")


def test_s3_keeps_the_promises_of_a_store(any_store: Store):
    """Catches keys outside the prefix, a stale listing, a wrong end of a partial read."""
    some = any_store
    with pytest.raises(KeyMissingError):
        some.read("a/b")
    assert not some.exists("a/b")
    assert some.names("a") == []
    some.write("a/b", b"hello")
    assert some.exists("a/b")
    assert not some.exists("a")
    assert some.read("a/b") == b"hello"
    assert some.read("a/b", at_most=5) == b"hello"
    assert some.read("a/b", at_most=2) == b"hel"
    assert some.read_part("a/b", 1, 3) == b"ell"
    assert some.read_part("a/b", 3, 9) == b"lo"
    assert some.read_part("a/b", 5, 1) == b""
    with pytest.raises(KeyMissingError):
        some.read_part("a/z", 0, 1)
    some.write("a/b", b"")
    assert some.read_part("a/b", 0, 1) == b""
    assert some.exists("a/b")
    assert some.read("a/b") == some.read("a/b", at_most=9) == b""
    some.write("a/c/d", b"1")
    some.write("ab", b"2")
    assert some.names("a") == ["b", "c"]
    assert some.names("") == ["a", "ab"]
    some.write("a/e", b"12345")
    some.write("a/c-e", b"123")
    assert some.sizes("a") == {"b": 0, "c-e": 3, "e": 5}
    assert some.sizes("") == {"ab": 1}
    assert some.sizes("none") == {}
    some.delete("a/e")
    some.delete("a/c-e")
    some.delete("a/b")
    some.delete("a/b")
    assert some.names("a") == ["c"]
    assert some.local_path("a/c/d") is None
    assert some.uri_of("a/c/d") == f"{some.uri}/a/c/d"


def test_s3_copies_what_is_there(any_store: Store):
    """Catches a copy of nothing, or of what stood there before."""
    some = any_store
    some.write("a/b", b"first")
    some.write("c/d", b"over it")
    some.copy("a/b", "c/d")
    some.write("a/b", b"second")
    assert some.read("c/d") == b"first"
    some.delete("a/b")
    assert some.read("c/d") == b"first"
    with pytest.raises(KeyMissingError):
        some.copy("a/b", "c/e")
    assert some.names("c") == ["d"]


def test_s3_create_puts_only_what_is_absent(any_store: Store):
    """Catches an overwriting create: two writers of one manifest."""
    assert any_store.create("manifest", b"one")
    assert not any_store.create("manifest", b"one")
    with pytest.raises(RunConflictError, match="manifest"):
        any_store.create("manifest", b"two")
    assert any_store.read("manifest") == b"one"


def test_s3_create_has_one_winner(any_store: Store):
    """Catches a create that looks first and puts then."""
    any_store.create("probe", b"")
    for number in range(5):

        def contend(who: int, key: str = f"race/{number}") -> str:
            try:
                return "won" if any_store.create(key, f"{who}".encode()) else "same"
            except RunConflictError:
                return "lost"

        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(contend, range(6)))
        assert sorted(results) == ["lost"] * 5 + ["won"]
        assert any_store.read(f"race/{number}") == f"{results.index('won')}".encode()


def test_s3_opens_again_in_another_process(any_store: Store):
    """Catches a store that cannot be sent to a worker."""
    any_store.write("a", b"1")
    assert _sent(any_store).read("a") == b"1"


def _sent(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))  # noqa: S301


def test_a_file_is_hashed_once_on_its_way_there_and_once_on_its_way_back(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch
):
    """Catches three digests of each checkpoint, while all ranks wait for it."""
    hashed: list[int] = []

    class Digest:
        def __init__(self) -> None:
            self._digest = hashlib.sha256()
            self.hexdigest = self._digest.hexdigest

        def update(self, data: bytes) -> None:
            hashed.append(len(data))
            self._digest.update(data)

    for module in (content, source):
        monkeypatch.setattr(module, "hashlib", SimpleNamespace(sha256=Digest))
    record = write_file(s3_store, "folder", "state", ".bin", b"12345")
    assert hashed == [5]
    hashed.clear()
    stored = Manifest("folder", {}, {"state": record})
    assert stored.read(s3_store, "state") == b"12345"
    assert hashed == [5]
    hashed.clear()
    stored.require_bytes(s3_store)
    assert hashed == [5]


def test_the_clock_of_a_request_counts_no_preparation(
    s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches the loading of a client's description, 0.2 s of a core and on a busy machine more
    than an answer may take, inside the first request of each store: "no answer in time".
    """
    from botocore.loaders import JSONFileLoader

    del s3_server
    threads = []
    load = JSONFileLoader.load_file

    def noted(self, path):
        content = load(self, path)
        if content is not None:  # there is such a file
            threads.append(threading.current_thread())
        return content

    monkeypatch.setattr(JSONFileLoader, "load_file", noted)
    s3_client.models_of_s3.cache_clear()
    open_store(f"s3://{BUCKET}/some")
    assert threads
    assert set(threads) == {threading.current_thread()}, "not the one that all requests share"
    threads.clear()
    open_store(f"s3://{BUCKET}/other")
    assert not threads


@pytest.mark.s3
def test_real_s3_takes_a_large_file_in_parts(real_s3_store: Store):
    """Catches parts that are mixed up, also of tensors that become bytes on the way; and a digest
    that is not kept with an object of parts.
    """
    data = b"".join(number.to_bytes(4, "big") * 2**18 for number in range(70))
    assert len(data) > 2 * PART_BYTES
    real_s3_store.write("large", data)
    assert real_s3_store.read("large") == data
    assert real_s3_store.read("large", at_most=len(data)) == data
    record = write_file(real_s3_store, "long", "state", ".safetensors", TensorFile(TENSORS))
    stored = Manifest("long", {}, {"state": record})
    stored.require_bytes(real_s3_store)
    assert stored.read(real_s3_store, "state") == TensorFile(TENSORS)[:]


@pytest.mark.s3
def test_real_s3_lists_more_than_a_page(real_s3_store: Store):
    """Catches a listing that ends after a thousand names: the newest checkpoint comes last."""
    names = [f"{number:04}" for number in range(1001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: real_s3_store.write(f"steps/{name}/file", b""), names))
        list(pool.map(lambda name: real_s3_store.write(f"sizes/{name}", name.encode()), names))
    assert real_s3_store.names("steps") == names
    assert real_s3_store.sizes("sizes") == dict.fromkeys(names, 4)


@pytest.mark.s3
@pytest.mark.usefixtures("real_s3_store")
def test_real_s3_refuses_wrong_credentials_and_missing_buckets(monkeypatch: pytest.MonkeyPatch):
    """Catches a refusal that reads as an empty storage."""
    with pytest.raises(StorageError, match=r"s3://no-such-bucket-here.*NoSuchBucket.*create the"):
        open_store("s3://no-such-bucket-here/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as caught:
        open_store(f"s3://{real_s3.BUCKET}/x")
    assert SECRET not in str(caught.value)


def test_the_two_stores_have_the_same_interface():
    """Catches a method that only one of them has: it would work on a laptop only."""
    public = [
        {name for name in dir(kind) if not name.startswith("_")}
        for kind in (Store, LocalStore, S3Store)
    ]
    assert public[0] - {"uri"} <= public[1] <= public[0]
    # The raw ones are for buckets of others, which `foreign_bucket` reads.
    assert public[2] - public[0] == {"check_bucket", "raw_check", "raw_page", "raw_read"}
