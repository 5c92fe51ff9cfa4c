import pytest

from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.store.foreign_bucket import ForeignBucket, Object, bucket_and_key
from tests.fake_s3 import BUCKET, Answer

pytest_plugins = ["tests.s3_fixtures"]

KEYS = ["a b/ä.png", "a b/A.png", "-rf", "x/../y.png", "a b/deep/!*'().png", "nothing", "ab"]


@pytest.fixture
def bucket(s3_server, s3_connections):
    s3_server.objects.update({key: key.encode() * 3 for key in KEYS})
    s3_server.objects["nothing"] = b""
    opened = ForeignBucket(BUCKET)
    opened._store._connection = s3_connections.get("fake")
    opened.check("")
    s3_connections["fake"] = opened._store._connection
    return opened


@pytest.mark.parametrize("page_size", [1000, 2])
def test_all_objects_are_found_whatever_their_keys(page_size, bucket, s3_server):
    """Catches keys that our own stores refuse, and a listing that ends with its first page."""
    s3_server.page_size = page_size
    found = {one.key: one.size for one in bucket.objects("")}
    assert found == {key: len(content) for key, content in s3_server.objects.items()}
    assert [one.key for one in bucket.objects("a b/")] == sorted(KEYS[:2] + KEYS[4:5])
    assert list(bucket.objects("none")) == []


def test_parts_of_objects_are_read(bucket):
    """Catches ranges that are off by one."""
    for key in KEYS:
        if key != "nothing":
            content = key.encode() * 3
            assert bucket.read(key, 0, len(content)) == content
            assert bucket.read(key, 1, 2) == content[1:3]


def test_an_object_that_changed_is_never_mixed(bucket, s3_server):
    """Catches the beginning of one object and the end of another; and half of one as the whole."""
    found = next(one for one in bucket.objects("ab"))
    assert found == Object("ab", 6, found.etag)
    assert bucket.read("ab", 0, 6, etag=found.etag) == b"ababab"
    with pytest.raises(DataError, match=r'key "ab", has 6 bytes from byte 0 on, 7 were listed'):
        bucket.read("ab", 0, 7)
    s3_server.objects["ab"] = b"cdcdcd"
    with pytest.raises(DataError, match="has been replaced since it was listed"):
        bucket.read("ab", 0, 6, etag=found.etag)
    del s3_server.objects["ab"]
    with pytest.raises(DataError, match="has gone since it was listed"):
        bucket.read("ab", 0, 6)


def test_an_outage_is_no_empty_bucket(bucket, s3_server):
    """Catches an empty data set while the server is down."""
    s3_server.fault = lambda _method, _key, _answer: Answer(403, code="AccessDenied")
    with pytest.raises(StorageError, match=r"cannot list s3://pictures: AccessDenied"):
        list(bucket.objects(""))
    with pytest.raises(StorageError, match=r'key "ab": cannot read s3://pictures: AccessDenied'):
        bucket.read("ab", 0, 6)


URIS = {
    "s3://some-bucket": ("some-bucket", ""),
    "s3://some-bucket/": ("some-bucket", ""),
    "s3://some-bucket/a b/ä/x.zip": ("some-bucket", "a b/ä/x.zip"),
    "s3://some-bucket/a/": ("some-bucket", "a"),
}


@pytest.mark.parametrize(("uri", "expected"), URIS.items(), ids=URIS)
def test_a_uri_is_a_bucket_and_a_key(uri, expected):
    """Catches a slash too many at the end of a prefix."""
    assert bucket_and_key(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "s3://", "s3:/b/c", "s3:///a", "s3://B_/x", "s3://user:canary@bucket/x", "s3://b/x",
        "s3://bucket/x?canary=1", "s3://bucket/x#canary", "s3://bucket/" + "x" * 1025,
    ],
)  # fmt: skip
def test_a_uri_that_is_none_is_refused_without_its_secrets(uri):
    """Catches a password in a log."""
    with pytest.raises(ConfigError, match="not s3://bucket/prefix; give that") as caught:
        bucket_and_key(uri)
    assert "canary" not in str(caught.value)


@pytest.mark.s3
def test_a_real_server_lists_and_reads_keys_of_any_letters(real_s3_store):
    """Catches keys that come back otherwise than they went, and an If-Match that is ignored."""
    bucket, prefix = bucket_and_key(real_s3_store.uri)
    odd = [
        *KEYS,
        "caf\u00e9",
        "cafe\u0301",
        "+&=%20 '\"<>",
        "new\nline",
        "x//y",
        "*?",
        "tab\t",
        "😀",
    ]
    for key in odd:
        real_s3_store._filesystem().call_s3(
            "put_object", Bucket=bucket, Key=f"{prefix}/{key}", Body=key.encode()
        )
    opened = ForeignBucket(bucket)
    found = {one.key: one for one in opened.objects(f"{prefix}/")}
    assert found.keys() == {f"{prefix}/{key}" for key in odd}
    for key in odd:
        one = found[f"{prefix}/{key}"]
        assert opened.read(one.key, 0, one.size, etag=one.etag) == key.encode()
    real_s3_store._filesystem().call_s3("put_object", Bucket=bucket, Key=f"{prefix}/ab", Body=b"cd")
    with pytest.raises(DataError, match="has been replaced"):
        opened.read(f"{prefix}/ab", 0, 2, etag=found[f"{prefix}/ab"].etag)
