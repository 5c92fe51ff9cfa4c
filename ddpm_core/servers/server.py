"""A command that serves until it is closed, or until its owner is gone."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ddpm_core.errors import ClusterError
from ddpm_core.servers.guardian import LOG, guarded

START_TIMEOUT_S = 180.0
"""seconds that a server may take to start; an idle machine with two cores takes ten"""
GRACE_S = 1.0
"""seconds between SIGTERM to a server and SIGKILL: neither holds anything worth saving"""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

T = TypeVar("T")


class Server:
    """A command that serves until `close`, under a guardian."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        *,
        more_folders: Sequence[Path] = (),
    ) -> None:
        self._name, self.folder = name, folder
        self._exit = contextlib.ExitStack()
        serving = guarded(
            command, folder=folder, env=env, grace_s=GRACE_S, more_folders=more_folders
        )
        self._process = self._exit.enter_context(serving)

    def is_running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def log(self) -> str:
        """Return what it has printed so far."""
        return (self.folder / LOG).read_text(errors="replace")

    def wait_for(self, ready: Callable[[], T | None]) -> T:
        """Return what `ready` returns once it is not None.

        Raises:
            ClusterError: if the server ends before, or takes too long; with the end of its log.
        """
        deadline, log = time.monotonic() + START_TIMEOUT_S, ""
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):  # its folder goes when it ends
                log = self.log()
                if (found := ready()) is not None:
                    return found
            if not self.is_running():
                break
            time.sleep(0.1)
        how = f"in {START_TIMEOUT_S:.0f} s" if self.is_running() else "and ended"
        raise ClusterError(f"{self._name} did not start {how}; its log ends:\n{log[-2000:]}")

    def begin_close(self) -> None:
        """Have it ended, and do not wait for that: `close` does."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def close(self) -> None:
        """End it and all it started, and remove its folder."""
        self._exit.close()


def reached_directly(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which no request to this machine itself goes through a proxy.

    Both spellings: libraries differ in which one they read, and in which one they prefer.
    """
    listed = [
        name.strip()
        for key in ("no_proxy", "NO_PROXY")
        for name in env.get(key, "").split(",")
        if name.strip()
    ]
    # Alone it means every host; beside others urllib takes it for a name.
    names = "*" if "*" in listed else ",".join(dict.fromkeys([*listed, *_LOOPBACK]))
    return {"no_proxy": names, "NO_PROXY": names}


def use_directly() -> None:
    """Make this process, and all that it starts, reach this machine without a proxy."""
    os.environ.update(reached_directly(os.environ))
