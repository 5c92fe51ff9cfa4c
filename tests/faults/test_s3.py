"""What goes wrong between here and S3, and what is said about it."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.store import s3_operation, storage
from ddpm_core.store.storage import S3Store, Store, open_store
from tests.fake_s3 import BUCKET, SECRET, Answer, FakeS3

pytest_plugins = ["tests.s3_fixtures"]

OPERATIONS: tuple[Callable[[Store], object], ...] = (
    lambda s3_store: s3_store.read("a/b"),
    lambda s3_store: s3_store.read_part("a/b", 0, 1),
    lambda s3_store: s3_store.exists("a/b"),
    lambda s3_store: s3_store.names("a"),
    lambda s3_store: s3_store.sizes("a"),
    lambda s3_store: s3_store.write("a/b", b"1"),
    lambda s3_store: s3_store.create("a/b", b"1"),
    lambda s3_store: s3_store.delete("a/b"),
)


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "policy"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "renew the credentials"),
        (404, "NoSuchBucket", "create the bucket"),
        (501, "NotImplemented", "conditional writes"),
    ],
)
def test_a_refusal_is_a_storage_error_with_its_remedy(
    s3_store: Store, s3_server: FakeS3, status: int, code: str, remedy: str
):
    """Catches 'no such bucket' or 'no access' taken for 'no such key': a restart at step 0."""
    s3_server.fault = lambda _method, _key, _answer: Answer(status, code=code)
    expected = rf"s3://{BUCKET}/some/prefix.*{code}.*{remedy}"
    for operate in OPERATIONS:
        with pytest.raises(StorageError, match=expected) as caught:
            operate(s3_store)
        assert SECRET not in str(caught.value)


def test_an_outage_is_a_storage_error(
    s3_store: Store, s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches an outage taken for absence; and a wait without end."""
    monkeypatch.setattr(storage, "DEADLINE_S", 0.5)
    s3_server.fault = lambda _method, _key, _answer: Answer(503, code="ServiceUnavailable")
    for operate in OPERATIONS:
        with pytest.raises(StorageError, match="run again"):
            operate(s3_store)


def test_a_404_without_a_word_counts_only_if_the_bucket_answers(s3_store: Store, s3_server: FakeS3):
    """Catches a proxy's 404 taken for a missing key."""
    s3_server.fault = lambda _method, key, answer: Answer(404) if key else answer()
    assert not s3_store.exists("a/b")
    s3_server.fault = lambda _method, _key, _answer: Answer(404)
    with pytest.raises(StorageError):
        s3_store.exists("a/b")


def test_expired_credentials_are_looked_up_once_more(
    s3_store: Store, s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches a run of days that dies although somebody has renewed the credentials."""
    s3_store.write("a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")

    def expired(_method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        new = "Credential=renewed/" in s3_server.authorizations[-1]
        return answer() if new else Answer(403, code="ExpiredToken")

    s3_server.fault = expired
    assert s3_store.read("a") == b"1"


def test_credentials_that_come_later_are_found(s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch):
    """Catches a client that was made without credentials, or with wrong ones, and is kept."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    store = S3Store(f"s3://{BUCKET}/x")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        store.write("a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")

    def unknown(_method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        wrong = "Credential=wrong/" in s3_server.authorizations[-1]
        return Answer(403, code="InvalidAccessKeyId") if wrong else answer()

    s3_server.fault = unknown
    with pytest.raises(StorageError, match="check AWS_ACCESS_KEY_ID"):
        store.write("a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "right")
    store.write("a", b"1")
    assert s3_server.objects["x/a"] == b"1"


def test_a_program_that_gives_credentials_is_run_again(
    s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Catches a run that ends because the source of a machine's credentials was away once."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    program = tmp_path / "program"
    program.write_text(
        f"#!/bin/sh\nif [ -e '{tmp_path}/asked' ]; then\n"
        'echo \'{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}\'\n'
        f"else touch '{tmp_path}/asked'; exit 1; fi\n"
    )
    config = tmp_path / "config"
    config.write_text(f'[default]\ncredential_process = /bin/sh "{program}"\n')
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    store = S3Store(f"s3://{BUCKET}/x")
    store.write("a", b"1")
    assert (tmp_path / "asked").exists()
    assert s3_server.objects["x/a"] == b"1"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (503, "SlowDown"),
        (502, "502"),
        (429, "TooManyRequests"),
        (400, "RequestTimeout"),
        (409, "OperationAborted"),
        (400, "XAmzContentSHA256Mismatch"),
    ],
)
def test_two_bad_answers_in_a_row_are_survived(
    s3_store: Store,
    s3_server: FakeS3,
    status: int,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
):
    """Catches a run that ends with the first hiccup."""
    monkeypatch.setattr(s3_operation, "_FIRST_WAIT_S", 0.01)
    left = [2]

    def twice(_method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        left[0] -= 1
        return Answer(status, code=code) if left[0] >= 0 else answer()

    s3_server.fault = twice
    s3_store.write("a", b"1")
    assert s3_server.objects["some/prefix/a"] == b"1"


def test_the_waits_grow_and_a_wrong_key_does_not_wait(
    s3_store: Store, s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches a client that storms a server that asks it to slow down, and retries of a refusal."""
    waits = []

    async def noted(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(s3_operation.asyncio, "sleep", noted)
    left = [9]

    def slow_down(_method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        left[0] -= 1
        return Answer(503, code="SlowDown") if left[0] >= 0 else answer()

    s3_server.fault = slow_down
    s3_store.write("a", b"1")
    waits = [wait for wait in waits if wait != 0.1]  # those of s3fs, in vain: it tries once
    longest = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert len(waits) == len(longest)
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    s3_server.fault = lambda _method, _key, _answer: Answer(403, code="AccessDenied")
    with pytest.raises(StorageError, match="1 request in"):
        s3_store.write("a", b"1")


@pytest.mark.parametrize("lost", range(4))
def test_a_create_whose_reply_is_lost_succeeds(s3_store: Store, s3_server: FakeS3, lost: int):
    """Catches one's own object taken for somebody else's when the retry meets it."""
    seen = []

    def lose(method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        result = answer()
        seen.append(method)
        return Answer(reply=False) if len(seen) - 1 == lost else result

    s3_server.fault = lose
    s3_store.create("a/manifest", b"mine")
    assert s3_server.objects["some/prefix/a/manifest"] == b"mine"


def test_a_body_that_breaks_off_is_requested_again(
    s3_store: Store, s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches half a body returned as the whole."""
    s3_store.write("a", b"0123456789")
    left = [2]

    def cut(_method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        result = answer()
        left[0] -= 1
        result.cut_at = 4 if left[0] >= 0 else None
        return result

    s3_server.fault = cut
    assert s3_store.read("a") == b"0123456789"
    left[0] = 1000
    monkeypatch.setattr(storage, "DEADLINE_S", 1.0)
    with pytest.raises(StorageError, match="cannot read"):
        s3_store.read("a")


def test_a_dripping_body_ends_at_the_deadline(
    s3_store: Store, s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches the timeout that ten bytes a second never trip."""
    s3_store.write("a", b"x" * 600)
    monkeypatch.setattr(storage, "DEADLINE_S", 1.0)

    def drip(_method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        result = answer()
        result.bytes_per_s = 10
        return result

    s3_server.fault = drip
    with pytest.raises(StorageError, match="no answer in time"):
        s3_store.read("a")


def test_a_listing_in_pages_is_whole(s3_store: Store, s3_server: FakeS3):
    """Catches a listing that ends after the first page: the newest checkpoint is on the last."""
    for number in range(7):
        s3_store.write(f"steps/{number}/file", b"")
    for s3_server.page_size in (1, 3, 1000):
        assert s3_store.names("steps") == [str(number) for number in range(7)]
    for number in range(7):
        s3_store.write(f"units/{number}", b"x" * number)
    for s3_server.page_size in (1, 3, 1000):
        assert s3_store.sizes("units") == {str(number): number for number in range(7)}


def test_a_listing_with_duplicates_and_markers_is_cleaned(s3_store: Store, s3_server: FakeS3):
    """Catches a step counted twice, and a folder's own marker object listed as a child."""
    s3_server.objects.update(
        {"some/prefix/a/": b"", "some/prefix/a/x": b"", "some/prefix/a/x/y": b""}
    )
    assert s3_store.names("a") == ["x"]
    assert s3_store.sizes("a") == {"x": 0}


def test_a_listing_that_breaks_off_is_an_error(s3_store: Store, s3_server: FakeS3):
    """Catches a truncated listing taken for all there is."""
    text = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    s3_server.fault = lambda _method, _key, _answer: Answer(body=text)
    for listed in (s3_store.names, s3_store.sizes):
        with pytest.raises(StorageError, match="breaks its listing off"):
            listed("a")


def test_a_server_that_ignores_put_if_absent_is_refused(s3_store: Store, s3_server: FakeS3):
    """Catches two writers overwriting each other on a server that only seems to be S3."""

    def ignorant(method: str, key: str, answer: Callable[[], Answer]) -> Answer:
        if method == "PUT":
            s3_server.objects[key] = b""
            return Answer()
        return answer()

    s3_server.fault = ignorant
    with pytest.raises(StorageError, match="If-None-Match"):
        s3_store.create("a", b"1")
    assert "some/prefix/a" not in s3_server.objects


def test_an_unreachable_endpoint_is_said_soon(
    s3_environment: None, monkeypatch: pytest.MonkeyPatch
):
    """Catches minutes of silent retries, and 'no checkpoint' while the network is down."""
    del s3_environment
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    assert storage._OPEN_DEADLINE_S <= 20, "a command needs some seconds besides, and has thirty"
    monkeypatch.setattr(storage, "_OPEN_DEADLINE_S", 3.0)
    expected = r"cannot open s3://bucket/x: .*EndpointConnectionError.*request.*AWS_ENDPOINT_URL"
    with pytest.raises(StorageError, match=expected):
        open_store("s3://bucket/x")


def test_a_server_that_never_answers_is_given_up(
    s3_store: Store, s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches a black hole that holds a run for ever."""
    monkeypatch.setattr(storage, "_OPEN_DEADLINE_S", 1.0)
    hole = threading.Event()

    def silent(_method: str, _key: str, answer: Callable[[], Answer]) -> Answer:
        hole.wait(20)
        return answer()

    s3_server.fault = silent
    try:
        with pytest.raises(StorageError, match="no answer in time"):
            open_store(s3_store.uri)
    finally:
        hole.set()


def test_missing_credentials_are_named(s3_environment: None, monkeypatch: pytest.MonkeyPatch):
    """Catches an anonymous request, whose 403 says nothing of credentials."""
    del s3_environment
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x")


@pytest.mark.parametrize(
    "endpoint", ["http://user:hunter2@host", "host:9000", "ftp://host", "http://host?x=hunter2"]
)
def test_a_bad_endpoint_is_refused_and_not_repeated(
    endpoint: str, s3_environment: None, monkeypatch: pytest.MonkeyPatch
):
    """Catches a password of an endpoint in the logs."""
    del s3_environment
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL must read") as caught:
        open_store("s3://bucket/x")
    assert "hunter2" not in str(caught.value)
