"""The server of infra/s3-server, in a folder and on ports of the tests' own."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "infra" / "s3-server"
BUCKET = "ddpm-tests"


def missing() -> str | None:
    """Return why there can be no server here, or None."""
    lacking = [name for name in ("radosgw", "ceph-mon", "ceph-osd") if not shutil.which(name)]
    if not lacking:
        return None
    return f"no S3 server ({', '.join(lacking)} not found): run `infra/s3-server install` as root"


class RealS3:
    """A server with one user and the bucket `BUCKET`; `start` also brings it back after `kill`.

    It is gone, and its folder too, when `close` was called or this process has died of anything.
    """

    def __init__(self) -> None:
        # Not below pytest's folder, which other sessions clear.
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="ddpm-s3-")), _free_port()
        self.environment: dict[str, str] = {}
        # `cat` ends when nobody is left who could write to it.
        end = 'cat; "$0" stop "$1"; rm -rf "$1"'
        self._end = subprocess.Popen(
            ["/bin/sh", "-c", end, SCRIPT, self.folder],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def start(self) -> None:
        done = subprocess.run(
            [SCRIPT, "start", self.folder, str(self.port)],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        self.environment = dict(re.findall(r"^export (\w+)=(.*)$", done.stdout, re.MULTILINE))

    def add_user(self, name: str, *, tenant: str = "") -> dict[str, str]:
        """Make a user without rights to what others own; return the environment of its clients."""
        about = ["--uid", name, "--display-name", name, "--access-key", name, "--secret-key", name]
        about += ["--tenant", tenant] if tenant else []
        subprocess.run(
            ["radosgw-admin", "-c", self.folder / "ceph.conf", "user", "create", *about],
            capture_output=True,
            timeout=60,
            check=True,
            cwd="/",
        )
        own = {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": name}
        return self.environment | own

    def kill(self, *daemons: str) -> None:
        """End some of `rgw`, `osd` and `mon` as a power cut does."""
        for daemon in daemons:
            number = int((self.folder / f"{daemon}.pid").read_text().split()[0])
            os.kill(number, signal.SIGKILL)

    def close(self) -> None:
        self._end.communicate(timeout=60)


def _free_port() -> int:
    """Return a port that clients are not given by the system while the server is away."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
