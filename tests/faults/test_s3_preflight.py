"""Storage that cannot be used is said by both commands, at once, before anything is started."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_core import __main__ as stage
from flows import command_line
from flows.embedded import EmbeddedRay
from tests.fake_s3 import BUCKET as FAKE_BUCKET
from tests.fake_s3 import SECRET, Answer, FakeS3
from tests.real_s3 import BUCKET, RealS3

pytest_plugins = ["tests.s3_fixtures"]

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "stage": lambda words: stage.main(["train", *words]),
    "flow": lambda words: command_line.main(command_line.TRAIN_DDPM, words),
}
MODULES = {"stage": ("ddpm_core", "train"), "flow": ("flows.train_ddpm",)}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: EmbeddedRay) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(EmbeddedRay, "start", start)


@pytest.mark.s3
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("environment", "bucket", "exit_code", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, BUCKET, 6, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, BUCKET, 6, "check AWS_ACCESS_KEY_ID"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            BUCKET,
            6,
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        ({"AWS_SECRET_ACCESS_KEY": None}, BUCKET, 6, "PartialCredentialsError"),
        ({}, "no-such-bucket", 6, "NoSuchBucket"),
        ({"AWS_ENDPOINT_URL": "localhost:9000"}, BUCKET, 2, "AWS_ENDPOINT_URL must read http://"),
        ({}, "No", 2, "is not understood"),
    ],
    ids=["wrong secret", "unknown key", "no key", "half a key", "no bucket", "endpoint", "name"],
)
def test_both_commands_refuse_what_the_server_refuses(
    command: str,
    environment: dict[str, str | None],
    bucket: str,
    exit_code: int,
    words: str,
    real_s3_server: RealS3,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Catches minutes of starting Ray before the first word, a traceback, and a secret in it."""
    del real_s3_server
    for name, value in environment.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    assert COMMANDS[command](["digits", "--root", f"s3://{bucket}/x"]) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
    assert SECRET not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_both_commands_refuse_expired_credentials(
    command: str, s3_server: FakeS3, capsys: pytest.CaptureFixture[str]
):
    """Catches the renewal that tries for ever."""
    s3_server.fault = lambda _method, _key, _answer: Answer(400, code="ExpiredToken")
    assert COMMANDS[command](["digits", "--root", f"s3://{FAKE_BUCKET}/x"]) == 6
    assert "renew the credentials: they have expired" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_as_a_user_runs_it_the_refusal_comes_first(command: str, s3_server: FakeS3, tmp_path: Path):
    """Catches an import or a server before the first request to the storage; a traceback."""
    s3_server.fault = lambda _method, _key, _answer: Answer(403, code="SignatureDoesNotMatch")
    done = subprocess.run(
        [sys.executable, "-m", *MODULES[command], "digits", "--root", f"s3://{FAKE_BUCKET}/x"],
        env=os.environ
        | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (6, "")
    lines = done.stderr.splitlines()
    imported = {
        line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")
    }
    assert "s3fs" in imported
    assert not imported & {"torch", "ray", "mlflow", "prefect", "matplotlib"}
    assert len([line for line in lines if not line.startswith("import time:")]) == 1
    assert not list(tmp_path.iterdir()), "nothing was started that keeps files"
