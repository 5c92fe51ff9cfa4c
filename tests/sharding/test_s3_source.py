"""A source in a bucket of a real server: each byte crosses the network once, counted on the way."""

import re
import uuid
from collections import Counter
from urllib.parse import unquote

import pytest

from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import S3Store, open_store
from tests.faults.proxy import proxying
from tests.images.image_files import files
from tests.own_cache import cache_folder
from tests.real_s3 import BUCKET
from tests.sampling.tiny import in_process
from tests.sharding.test_collection import config_of
from tests.sharding.test_ledger import shards_of

__all__ = ["cache_folder", "in_process"]
pytestmark = pytest.mark.s3
pytest_plugins = ["tests.s3_fixtures"]


class Place:
    """A prefix, and the requests that go to its server through a proxy."""

    def __init__(self, proxy):
        self.prefix, self._proxy = uuid.uuid4().hex, proxy
        self._sizes = {}
        self._client = S3Store(f"s3://{BUCKET}/{self.prefix}")._filesystem()

    def uri(self, name):
        return f"s3://{BUCKET}/{self.prefix}/{name}"

    def call(self, method, name, **words):
        words |= {"Bucket": BUCKET, "Key": f"{self.prefix}/{name}"}
        return self._client.call_s3(method, **words)

    def put(self, content):
        for name, data in content.items():
            self.call("put_object", name, Body=data)
            self._sizes[name] = len(data)
        self.counted()

    def copy_in_parts(self, name):
        """Give an object the ETag of an upload in parts, as a copy of a large one has it."""
        upload = self.call("create_multipart_upload", name)["UploadId"]
        source = {"Bucket": BUCKET, "Key": f"{self.prefix}/{name}"}
        words = {"UploadId": upload, "PartNumber": 1, "CopySource": source}
        etag = self.call("upload_part_copy", name, **words)["CopyPartResult"]["ETag"]
        parts = {"Parts": [{"ETag": etag, "PartNumber": 1}]}
        self.call("complete_multipart_upload", name, UploadId=upload, MultipartUpload=parts)
        assert self.call("head_object", name)["ETag"].strip('"').endswith("-1")
        self.counted()

    def counted(self):
        """Return ({object: its bytes that were downloaded}, listings) since this was called."""
        proxy = self._proxy
        requests = list(zip(proxy.seen, proxy.ranges, strict=True))
        proxy.seen.clear(), proxy.ranges.clear()
        got, listings = Counter(), 0
        for line, wanted in requests:
            method, target = line.split()[:2]
            path = unquote(target.partition("?")[0])
            if method == "GET" and f"{BUCKET}/{self.prefix}/" in path:
                name = path.rpartition(f"{self.prefix}/")[2]
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                got[name] += int(last) - int(first) + 1 if wanted else self._sizes[name]
            elif method == "GET" and re.search(r"[?&]list-type=2", target):
                listings += 1
        return got, listings


@pytest.fixture
def place(real_s3_server, monkeypatch):
    with proxying(real_s3_server.port) as (endpoint, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        yield Place(proxy)


def test_an_object_is_downloaded_once_and_an_unchanged_bucket_is_a_listing(
    place, tmp_path, in_process, capfd
):
    """Catches a second download, by the making or by another run; and a copy that gives an object
    another ETag, and is taken for unchanged or for another image."""
    images = {f"photos/{name}": data for name, data in files().items()}
    sizes, copied = Counter({name: len(data) for name, data in images.items()}), list(images)[3]
    place.put(images)
    store = open_store(str(tmp_path / "a root"))
    made = run_shard(store, config_of(place.uri("photos")))
    assert place.counted()[0] == sizes
    again = run_shard(store, config_of(place.uri("photos")).replaced({"name": "again"}))
    got, listings = place.counted()
    assert (again, got) == (made, Counter())
    assert listings <= 4  # is it there, of what kind (for the seal, and to open it), its names
    place.copy_in_parts(copied)
    capfd.readouterr()
    for number in range(2):
        config = config_of(place.uri("photos")).replaced({"name": f"copied-{number}"})
        assert run_shard(store, config) == made
        assert place.counted()[0] == Counter({copied: sizes[copied]} if number == 0 else {})
    said = capfd.readouterr().out
    assert "13 have not changed since they were read; the others are new, were changed or" in said


def test_archives_are_downloaded_once_and_not_at_all_by_another_machine(
    place, tmp_path, in_process, monkeypatch
):
    """Catches a terabyte that is fetched to find what is there already."""
    tars = {f"tars/{path.name}": path.read_bytes() for path in shards_of(tmp_path).iterdir()}
    place.put(tars)
    store = open_store(str(tmp_path / "a root"))
    made = run_shard(store, config_of(place.uri("tars")))
    head = 512  # read before: is it a tar at all?
    assert place.counted()[0] == Counter({name: head + len(data) for name, data in tars.items()})
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    again = config_of(place.uri("tars")).replaced({"name": "again"})
    assert run_shard(store, again) == made
    got, listings = place.counted()
    assert (got, listings <= 2) == (Counter(), True)
