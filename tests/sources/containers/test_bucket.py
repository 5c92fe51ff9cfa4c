import hashlib
import json
import shutil

import pytest

from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.sources.containers import fetching
from ddpm_core.sources.containers.bucket import BucketFolder
from ddpm_core.sources.containers.container import Entry, PassedOver
from ddpm_core.sources.containers.opening import open_container, reopen
from ddpm_core.sources.listing import list_images
from ddpm_core.store import durable
from tests.fake_s3 import BUCKET, Answer
from tests.sources.containers.test_opening import FILES, packed
from tests.sources.containers.test_shard_files import sample
from tests.sources.containers.test_tarred import tar_of
from tests.sources.containers.test_zipped import zip_of

pytest_plugins = ["tests.s3_fixtures"]


def read_all(container):
    return {entry.name: container.read(entry) for entry in container.entries(PassedOver())}


def test_a_prefix_is_a_folder(s3_server, tmp_path):
    """Catches a neighbour of the prefix read with it, markers of folders read as images."""
    files = {"train/cat/a.png": b"1", "test/cat/ä b.png": b"22", "empty.png": b""}
    s3_server.objects.update({f"some data/{name}": content for name, content in files.items()})
    s3_server.objects.update({"some data/": b"", "some data/train/": b"", "some data2/x.png": b"3"})
    opened = open_container(f"s3://{BUCKET}/some data/", cache=tmp_path)
    assert isinstance(opened, BucketFolder)
    assert read_all(opened) == files
    again = reopen(json.loads(json.dumps(opened.description())))
    assert read_all(again) == files
    s3_server.objects["some data/train/cat/a.png"] = b""
    with pytest.raises(StorageError, match="InvalidRange"):
        opened.read(Entry("train/cat/a.png", 1))


def test_an_empty_prefix_is_no_data_set(s3_server, tmp_path):
    """Catches a mistyped prefix that trains on nothing."""
    opened = open_container(f"s3://{BUCKET}/none", cache=tmp_path)
    with pytest.raises(DataError, match=r"s3://pictures/none holds no image"):
        list_images(opened, num_test_images=1)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_an_archive_is_fetched_once(name, s3_server, tmp_path, capfd, monkeypatch):
    """Catches a download in every worker, and one machine's copy asked for on another."""
    content = {"x.zip": zip_of, "x.tar": tar_of}.get(name, packed)(FILES)
    monkeypatch.setattr(fetching, "_PART_BYTES", 1 + len(content) // 3)
    s3_server.objects[f"some/{name}"] = content
    source, digest = f"s3://{BUCKET}/some/{name}", hashlib.sha256(content).hexdigest()
    opened = open_container(source, cache=tmp_path, sha256=digest)
    assert read_all(opened) == FILES
    assert opened.uri == source
    assert f'/{len(content)} bytes  fetching "{name}"' in capfd.readouterr().out
    description = json.loads(json.dumps(opened.description()))
    s3_server.fault = lambda _method, _key, _answer: Answer(403, code="AccessDenied")
    assert read_all(reopen(description)) == FILES
    shutil.rmtree(tmp_path)
    with pytest.raises(StorageError, match="AccessDenied"):
        reopen(description)
    s3_server.fault = lambda _method, _key, answer: answer()
    assert read_all(reopen(description)) == FILES


def test_a_disk_without_room_for_an_archive_is_reported_first(s3_server, tmp_path, monkeypatch):
    """Catches hours of download that end with a full disk."""
    s3_server.objects["x.zip"] = zip_of(FILES)
    size = len(s3_server.objects["x.zip"])
    monkeypatch.setattr(durable, "free_bytes", lambda _path: size - 1)
    expected = rf"{size} bytes are needed \({size - 1} bytes are free\)\. Make room"
    with pytest.raises(StorageError, match=expected):
        open_container(f"s3://{BUCKET}/x.zip", cache=tmp_path)


def test_an_archive_is_fetched_on_from_where_it_was_cut(s3_server, tmp_path, monkeypatch):
    """Catches starting anew, and parts of two different archives put together."""
    monkeypatch.setattr(fetching, "_PART_BYTES", 100)
    content = zip_of(FILES)
    s3_server.objects["x.zip"] = content
    asked = []

    def cut(method, key, answer):
        if key == "x.zip":
            asked.append(key)
            if len(asked) == 4:  # the first is a look at the archive's end
                return Answer(403, code="AccessDenied")
        return answer()

    s3_server.fault = cut
    with pytest.raises(StorageError, match=r'key "x\.zip": .*AccessDenied'):
        open_container(f"s3://{BUCKET}/x.zip", cache=tmp_path)
    assert read_all(open_container(f"s3://{BUCKET}/x.zip", cache=tmp_path)) == FILES
    assert len(asked) == 2 + -(-len(content) // 100)
    s3_server.objects["x.zip"] = zip_of({"other.png": b"1"})
    assert read_all(open_container(f"s3://{BUCKET}/x.zip", cache=tmp_path)) == {"other.png": b"1"}


def test_an_archive_that_is_replaced_while_it_is_fetched_is_refused(
    s3_server, tmp_path, monkeypatch
):
    """Catches the beginning of one archive with the end of another."""
    content = zip_of(FILES)
    monkeypatch.setattr(fetching, "_PART_BYTES", 1 + len(content) // 2)
    s3_server.objects["x.zip"] = content

    def replace(_method, key, answer):
        answered = answer()
        if key == "x.zip":
            s3_server.objects[key] = content[::-1]
        return answered

    s3_server.fault = replace
    with pytest.raises(DataError, match="has been replaced since it was listed"):
        open_container(f"s3://{BUCKET}/x.zip", cache=tmp_path)
    assert not list((tmp_path / "fetched").glob("*.zip"))


def test_an_archive_with_another_digest_is_refused_and_forgotten(s3_server, tmp_path):
    """Catches a wrong archive that stays in the cache."""
    s3_server.objects["x.zip"] = zip_of(FILES)
    with pytest.raises(DataError, match=r"has the SHA-256 .* says 000"):
        open_container(f"s3://{BUCKET}/x.zip", cache=tmp_path, sha256="0" * 64)
    assert not list((tmp_path / "fetched").glob("*.zip"))


def test_shards_below_a_prefix_are_fetched(s3_server, tmp_path):
    """Catches shards read as files of a folder, and keys that hold the name of the copy."""
    for split in ("train", "val"):
        s3_server.objects[f"sets/some-{split}-0.tar"] = tar_of(sample("a", 1, split.encode()))
    opened = open_container(f"s3://{BUCKET}/sets", cache=tmp_path)
    listing = list_images(reopen(opened.description()), num_test_images=None)
    assert [item.key for item in listing.train] == ["train/some-train-0/a.jpg"]
    assert opened.read(listing.test[0].entry) == b"val"


def test_what_is_not_there_is_refused(s3_server, tmp_path):
    """Catches an archive that is not there, a bucket that is not, and a digest of a folder."""
    with pytest.raises(DataError, match=r"x\.zip is not there; correct data\.source"):
        open_container(f"s3://{BUCKET}/x.zip", cache=tmp_path)
    with pytest.raises(StorageError, match="NoSuchBucket"):
        open_container("s3://no-such-bucket/x", cache=tmp_path)
    with pytest.raises(ConfigError, match="a folder has no digest"):
        open_container(f"s3://{BUCKET}/x", cache=tmp_path, sha256="0" * 64)
    with pytest.raises(ConfigError, match="a folder has no digest"):
        open_container(str(tmp_path), cache=tmp_path, sha256="0" * 64)


def test_a_database_in_a_bucket_is_refused_with_what_to_do(s3_server, tmp_path):
    """Catches an advice to convert the database into images."""
    s3_server.objects["bedroom_lmdb/data.mdb"] = b"x"
    with pytest.raises(DataError, match=r"data\.mdb.*only be read on a disk; copy its folder"):
        open_container(f"s3://{BUCKET}/bedroom_lmdb", cache=tmp_path)


@pytest.mark.parametrize(
    "source",
    ["http://host/x.zip", "gs://b/x", "pipe:cat x", "file://host/x", "ftp://a/b.zip", "", " ",
     "a\0b", "https://user:canary@host/x.zip", "https:///x.zip",
     "https://host/x.zip#canary", "c:/x"],
)  # fmt: skip
def test_sources_of_another_kind_are_refused(source, tmp_path):
    """Catches a program started, a file read in the clear, a password shown."""
    with pytest.raises(ConfigError, match=r"is not understood; give a folder of images") as caught:
        open_container(source, cache=tmp_path, sha256="0" * 64)
    assert "canary" not in str(caught.value)


def test_what_comes_from_the_internet_needs_a_digest(tmp_path):
    """Catches whatever a host sends, taken for the data set."""
    with pytest.raises(ConfigError, match=r"data\.source_sha256 is not set"):
        open_container("https://host.invalid/x.zip", cache=tmp_path)
    with pytest.raises(ConfigError, match="64 of the digits"):
        open_container("https://host.invalid/x.zip", cache=tmp_path, sha256="ABC")
    with pytest.raises(DataError, match=r"no archive of a kind that is read"):
        open_container("https://host.invalid/x.rar", cache=tmp_path, sha256="0" * 64)
    with pytest.raises(DataError, match=r"127\.0\.0\.1, which is no public address"):
        open_container("https://127.0.0.1:9/x.zip", cache=tmp_path, sha256="0" * 64)
