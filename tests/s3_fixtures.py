"""Fixtures of the S3 tests: a module asks for them with `pytest_plugins`."""

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ddpm_core.storage import S3Store, Store, open_store
from tests.fake_s3 import BUCKET, SECRET, FakeS3, serving


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


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
def s3_connections() -> list[Any]:
    """The connection of the tests before: making one takes a quarter of a second."""
    return []


@pytest.fixture
def s3_store(s3_server: FakeS3, s3_connections: list[Any]) -> Store:
    del s3_server
    opened = S3Store(f"s3://{BUCKET}/some/prefix/")
    if s3_connections:
        opened._connection = s3_connections[0]
    opened.check_bucket()
    s3_connections[:] = [opened._connection]
    return opened


@pytest.fixture
def real_s3_store() -> Store:
    """A fresh prefix of a bucket on the server of S3_ENDPOINT_URL."""
    if not os.environ.get("S3_ENDPOINT_URL"):
        pytest.skip("S3_ENDPOINT_URL is not set: no S3 server to test against")
    bucket = os.environ.get("S3_BUCKET", "ddpm-tests")
    with suppress(FileExistsError):
        S3Store(f"s3://{bucket}")._filesystem().call_s3("create_bucket", Bucket=bucket)
    return open_store(f"s3://{bucket}/{uuid.uuid4().hex}")
