"""Run a command that may not outlive its owner, and end everything it started.

    python -m ddpm_core.servers.guardian --cleanup DIR -- command ...

Ray and Prefect leave processes behind when the program that started them is killed, and some of
those detach themselves (setsid, double fork). So a process of its own watches: when its standard
input reaches its end (the owner is gone, also by kill -9), when it gets a signal to stop, or when
the command exits, it ends all descendants of the command, then removes DIR.
"""

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

LOG = "log"
GRACE_S = 5.0
"""seconds between SIGTERM to descendants and SIGKILL"""
_GIVE_UP_S = 30.0
_PR_SET_CHILD_SUBREAPER = 36


# -- the owner's side ------------------------------------------------------------------------


@contextmanager
def guarded(
    command: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    grace_s: float = GRACE_S,
    more_folders: Sequence[Path] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` under a guardian until the block is left, or this process is gone.

    Args:
        command: program and arguments.
        folder: removed at the end, with all that is in it; `folder/log` gets what is printed.
        env: the command's environment, whole.
        grace_s: seconds between asking what it started to end and killing it.
        more_folders: removed at the end, too.
    """
    # The file, not the module: a guardian must start from any working directory, and without (-P)
    # the modules beside it, but find psutil wherever this process may have found it.
    cleanups = [word for path in (folder, *more_folders) for word in ("--cleanup", str(path))]
    options = [*cleanups, "--grace", str(grace_s)]
    guardian = [sys.executable, "-P", __file__, *options, "--", *command]
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - an argument list of ours, no shell
            guardian,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(env),
            start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
        )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=grace_s + _GIVE_UP_S)
        except subprocess.TimeoutExpired:
            # It goes on by itself; nothing here could do better.
            sys.stderr.write(f"guardian {process.pid} is still ending its processes\n")


# -- the guardian's side ---------------------------------------------------------------------


def descendants() -> set[psutil.Process]:
    """Return all processes that come from this one and run; zombies are over and do not count.

    They may have detached themselves: orphans become children of this subreaper.
    """
    return {one for one in psutil.Process().children(recursive=True) if _runs(one)}


def become_subreaper() -> None:
    """Become the parent of orphaned descendants.

    Raises:
        SystemExit: the kernel is not Linux.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux") or libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SystemExit(
            "guardian: only Linux gives orphaned processes to who asks for them (subreaper); "
            "without that a Ray started here could outlive its owner"
        )


def end_all(*, grace_s: float = GRACE_S) -> bool:
    """Signal all descendants to end, kill those left after `grace_s`; False if some resist.

    Signals repeatedly: a process may start others while it is being ended.
    """
    kill_after = time.monotonic() + grace_s
    signalled: set[psutil.Process] = set()
    while alive := descendants():
        late = time.monotonic() - kill_after
        if late > _GIVE_UP_S:
            sys.stderr.write(f"could not end {sorted(p.pid for p in alive)}\n")
            return False
        for process in alive if late > 0 else alive - signalled:
            try:
                if late > 0:
                    process.kill()
                else:
                    process.terminate()
            except psutil.Error:
                continue  # gone meanwhile, or not ours to end: the next look shows
        signalled |= alive
        time.sleep(0.05)
        _reap()
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the command line; return its exit code, or 0 if the owner went first."""
    options = _parser().parse_args(arguments)
    # Both before the command starts: a signal or an orphan in between would be lost.
    become_subreaper()
    wake = _wake_on_signals()
    child = subprocess.Popen(options.command, stdin=subprocess.DEVNULL)  # noqa: S603 - not a shell
    status = _watch(child.pid, wake)
    ended = end_all(grace_s=options.grace)
    for folder in options.cleanup:
        shutil.rmtree(folder, ignore_errors=True)
    return status if ended else 1


def _watch(child: int, wake: int) -> int:
    """Wait for the end of the command (its exit code), of the owner, or a signal (0)."""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready and _asked_to_stop(os.read(wake, 512)):
            return 0
        for pid, status in _reap():
            if pid == child:
                return os.waitstatus_to_exitcode(status) % 256
        if 0 in ready and not os.read(0, 512):
            return 0


def _wake_on_signals() -> int:
    """Return a descriptor that becomes readable, with the signal's number, at each signal."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writable)
    return readable


def _asked_to_stop(numbers: bytes) -> bool:
    return any(number != signal.SIGCHLD for number in numbers)


def _reap() -> list[tuple[int, int]]:
    """Bury dead children, adopted ones too; return (pid, wait status) of each."""
    buried: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return buried
        if pid == 0:
            return buried
        buried.append((pid, status))


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ddpm_core.servers.guardian",
        description="Run a command; when standard input ends, a signal asks for it, or the command "
        "exits, end all it started and remove DIR.",
    )
    parser.add_argument(
        "--cleanup", action="append", default=[], metavar="DIR",
        help="folder to remove at the end; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=float, default=GRACE_S, metavar="SECONDS",
        help="between asking and killing (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("command", nargs="+", help="after --: program and arguments")
    return parser


if __name__ == "__main__":
    sys.exit(main())
