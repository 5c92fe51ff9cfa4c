"""The options of S3: from the environment, and from the files in which AWS tools look."""

from pathlib import Path
from typing import Any

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.store.s3 import s3_options
from ddpm_core.store.storage import open_store
from tests.fake_s3 import BUCKET, FakeS3

pytest_plugins = ["tests.s3_fixtures"]

SERVICES = """
[profile mine]
services = own
region = eu-south-9
[services own]
s3 =
  endpoint_url = {}
"""
PROFILE = """
[default]
endpoint_url = {}
s3 =
  addressing_style = virtual
"""


@pytest.fixture
def configured(s3_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the place of the file that AWS tools read."""
    del s3_environment
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path / "config"


def _chosen(options: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    region = options["client_kwargs"].get("region_name")
    return (
        options["endpoint_url"],
        region,
        options["config_kwargs"].get("s3", {}).get("addressing_style"),
    )


def test_the_endpoint_of_the_aws_files_is_used(
    configured: Path, s3_server: FakeS3, monkeypatch: pytest.MonkeyPatch
):
    """Catches a profile's endpoint reached by host names that no such server has."""
    import os

    endpoint = os.environ["AWS_ENDPOINT_URL_S3"].replace("127.0.0.1", "localhost")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    configured.write_text(SERVICES.format(endpoint))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert _chosen(s3_options()) == (endpoint, "eu-south-9", "path")
    store = open_store(f"s3://{BUCKET}/x")
    store.write("a", b"1")
    assert s3_server.objects["x/a"] == b"1"
    assert "/eu-south-9/s3/" in s3_server.authorizations[-1]


def test_the_environment_comes_before_the_files(configured: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches another order than that of AWS tools, and settings of the file that are lost."""
    assert _chosen(s3_options()) == (None, None, None)
    configured.write_text(PROFILE.format("http://of-the-file"))
    assert _chosen(s3_options()) == ("http://of-the-file", "us-east-1", "virtual")
    for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, f"http://{name.replace('_', '-')}")
        assert _chosen(s3_options())[0] == f"http://{name.replace('_', '-')}"
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.setenv(name, name)
        assert _chosen(s3_options())[1] == name
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert _chosen(s3_options())[0] == "http://S3-ENDPOINT-URL"


@pytest.mark.parametrize(
    ("text", "profile", "said"),
    [
        (SERVICES, "another", r"profile \(another\) could not be found.*AWS_PROFILE"),
        (SERVICES.replace("[services", "[x"), "mine", 'the "own" services configuration'),
        ("endpoint_url = x", "mine", "[Pp]arse config file"),
        (SERVICES.replace("{}", "http://me:hunter2@host"), "mine", "endpoint_url of the AWS"),
    ],
)
def test_files_that_cannot_be_used_are_said(
    configured: Path, monkeypatch: pytest.MonkeyPatch, text: str, profile: str, said: str
):
    """Catches a traceback, an endpoint of AWS in its place, and a password in the log."""
    configured.write_text(text.format("http://host"))
    monkeypatch.setenv("AWS_PROFILE", profile)
    with pytest.raises(ConfigError, match=said) as caught:
        s3_options()
    assert "hunter2" not in str(caught.value)
    # And through all that opens a store, which asks botocore for more.
    with pytest.raises(ConfigError, match=said):
        open_store("s3://bucket/prefix").names("")
