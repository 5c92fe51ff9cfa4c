"""The server of infra/s3-server, in a folder and on ports of the tests' own."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
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
    """A server with one user and the bucket `BUCKET`; `start` also brings it back after `kill`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.environment: dict[str, str] = {}

    def start(self) -> None:
        out = self._do("start", str(self.port))
        self.environment = dict(re.findall(r"^export (\w+)=(.*)$", out, re.MULTILINE))

    def kill(self, *daemons: str) -> None:
        """End some of `rgw`, `osd` and `mon` as a power cut does."""
        for daemon in daemons:
            number = int((self.folder / f"{daemon}.pid").read_text().split()[0])
            os.kill(number, signal.SIGKILL)

    def stop(self) -> None:
        self._do("stop")

    def _do(self, action: str, *arguments: str) -> str:
        done = subprocess.run(
            [SCRIPT, action, self.folder, *arguments],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, f"infra/s3-server {action}: {done.stderr}"
        return done.stdout


def _free_port() -> int:
    """Return a port that clients are not given by the system while the server is away."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
