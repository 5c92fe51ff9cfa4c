"""Fixtures of the S3 tests: a module asks for them with `pytest_plugins`."""

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ddpm_core.store.storage import S3Store, Store
from tests import real_s3 as real
from tests.fake_s3 import BUCKET, SECRET, FakeS3, serving
from tests.real_s3 import RealS3


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    environment = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": none,
        "AWS_SHARED_CREDENTIALS_FILE": none,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    _only(monkeypatch, environment)


@pytest.fixture(scope="session")
def s3_endpoint_and_server() -> Iterator[tuple[str, FakeS3]]:
    fake = FakeS3()
    with serving(fake) as endpoint:
        yield endpoint, fake


@pytest.fixture
def s3_server(
    s3_endpoint_and_server: tuple[str, FakeS3],
    s3_environment: None,
    monkeypatch: pytest.MonkeyPatch,
) -> FakeS3:
    del s3_environment
    endpoint, fake = s3_endpoint_and_server
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    fake.reset()
    return fake


@pytest.fixture(scope="session")
def s3_connections() -> dict[str, Any]:
    """The connections of the tests before: making one takes a quarter of a second."""
    return {}


@pytest.fixture
def s3_store(s3_server: FakeS3, s3_connections: dict[str, Any]) -> Store:
    del s3_server
    return _connected(S3Store(f"s3://{BUCKET}/some/prefix/"), "fake", s3_connections)


@pytest.fixture(scope="session")
def real_s3() -> Iterator[RealS3]:
    """Give a server with the bucket `real_s3.BUCKET`; its objects are those of all tests."""
    if reason := real.missing():
        pytest.skip(reason)
    server = RealS3()
    try:
        server.start()
        with pytest.MonkeyPatch.context() as patch:
            _only(patch, server.environment)
            S3Store("s3://none")._filesystem().call_s3("create_bucket", Bucket=real.BUCKET)
        yield server
    finally:
        server.close()


@pytest.fixture
def real_s3_server(real_s3: RealS3, monkeypatch: pytest.MonkeyPatch) -> RealS3:
    """Give the same server, with the environment in which its clients find it."""
    _only(monkeypatch, real_s3.environment)
    return real_s3


@pytest.fixture
def real_s3_store(real_s3_server: RealS3, s3_connections: dict[str, Any]) -> S3Store:
    """Give a fresh prefix on the real server."""
    del real_s3_server
    store = S3Store(f"s3://{real.BUCKET}/{uuid.uuid4().hex}")
    return _connected(store, "real", s3_connections)


def _only(patch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    """Let the environment say nothing of S3 but this."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3_")):
            patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)


def _connected(store: S3Store, server: str, connections: dict[str, Any]) -> S3Store:
    store._connection = connections.get(server)
    store.check_bucket()
    connections[server] = store._connection
    return store
