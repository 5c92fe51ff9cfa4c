"""Commit a checkpoint and retire another, interrupted at every call that changes a file.

A program of its own, for it forks: each attempt is a child that dies, tears a write in half, or
gets an error, at its n-th such call; then the folder is looked at, and the work done again.

    python -m tests.faults.kill_points FOLDER     prints one JSON object
"""

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpm_core.errors import StorageError
from ddpm_core.store import content
from ddpm_core.store.commit import commit, retire, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import load
from ddpm_core.store.storage import open_store
from ddpm_core.store.store import Store

CHANGES = ("open", "write", "fsync", "link", "replace", "unlink", "mkdir")
MODES = ("kill before", "kill after", "torn write", "ENOSPC", "EIO", "EROFS")
OLD, NEW = "runs/a/checkpoints/step_1", "runs/a/checkpoints/step_2"
ROLES = ("state", "module.side")
CONTENT = {role: bytes(range(256)) * 64 + role.encode() for role in ROLES}
DONE, REFUSED, BEYOND_THE_LAST_CALL = 0, 6, 77


class Part:
    """A file that is made block by block, as those of tensors are."""

    def __init__(self, role: str) -> None:
        self.data = CONTENT[role]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, part: slice) -> bytes:
        return self.data[part]


def work(store: Store) -> None:
    for folder in (OLD, NEW):
        files = {role: write_file(store, folder, role, ".bin", Part(role)) for role in CONTENT}
        commit(store, folder, files, {"of": folder})
    retire(store, OLD)


class Interruption:
    """Stands in for the functions of `os` that change files, and strikes at call `at`."""

    def __init__(self, mode: str, at: int) -> None:
        self.mode, self.at, self.seen = mode, at, 0
        self.struck = ""

    def install(self) -> None:
        for name in CHANGES:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            self.seen += 1
            if self.seen - 1 != self.at:
                return real(*args, **kwargs)
            self.struck = name
            if self.mode in errno.errorcode.values():
                raise OSError(getattr(errno, self.mode), os.strerror(getattr(errno, self.mode)))
            if self.mode == "torn write" and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            try:
                if self.mode == "kill after":
                    real(*args, **kwargs)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)

        return call


def attempt(root: Path, mode: str, at: int) -> int:
    """Return how the child ended: its exit status, or minus the signal."""
    child = os.fork()
    if child == 0:
        interruption = Interruption(mode, at)
        status = 1
        try:
            interruption.install()
            work(open_store(str(root)))
            if interruption.seen <= at:
                status = BEYOND_THE_LAST_CALL
            elif interruption.struck == "unlink":  # tidying up may fail; nothing else goes unsaid
                status = DONE
        except StorageError:
            status = REFUSED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def problems(root: Path, mode: str, status: int) -> list[str]:
    """Return what is wrong after an interrupted attempt, and after doing it again."""
    found = []
    killed = mode not in errno.errorcode.values()
    if status not in ((-signal.SIGKILL,) if killed else (REFUSED, DONE)):
        found.append(f"ended with {status}")
    store = open_store(str(root))
    leftovers = list(root.rglob("*.tmp"))
    listed = [name for folder in (OLD, NEW) for name in store.names(folder)]
    if any(name.endswith(".tmp") for name in listed):
        found.append("a temporary file is listed")
    if status == REFUSED and leftovers:
        found.append(f"left {leftovers}")
    whole = {folder: verified(store, folder) for folder in (OLD, NEW)}
    if (root / OLD / "retired").exists() and not whole[NEW]:
        found.append("neither the old nor the new")
    work(store)
    if not verified(store, NEW) or load(store, OLD, Expected({})) is not None:
        found.append("doing it again does not finish it")
    if list(root.rglob("*.tmp")):
        found.append("temporary files stay")
    return found


def verified(store: Store, folder: str) -> bool:
    """Say whether a commit stands; one that stands must be whole, or this raises."""
    manifest = load(store, folder, Expected({}))
    if manifest is None:
        return False
    return all(manifest.read(store, role) == CONTENT[role] for role in CONTENT)


def main(folder: Path) -> None:
    content.BLOCK_BYTES = 10_000  # two writes a file
    result: dict[str, Any] = {"points": 0, "problems": []}
    for mode in MODES:
        at = 0
        while True:
            root = folder / "root"
            status = attempt(root, mode, at)
            if status == BEYOND_THE_LAST_CALL:
                break
            wrong = problems(root, mode, status)
            result["problems"] += [f"{mode} at call {at}: {one}" for one in wrong]
            result["points"] += 1
            shutil.rmtree(root, ignore_errors=True)
            at += 1
        shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
