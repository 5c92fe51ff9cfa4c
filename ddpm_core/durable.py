"""Local files that survive a kill and a power cut: old or new, never half, never unnoticed.

A file gets its bytes under a temporary name, reaches the disk, and only then its name. Without
the fsync of the file a power cut leaves an empty file under the final name; without the fsync
of the folder, no name. Every function raises plain OSError; `storage` says it to the user.
"""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)-[0-9a-f]{16}\.tmp")


def is_temporary(name: str) -> bool:
    """Say whether a file of this name is one that was never finished."""
    return _TEMPORARY.fullmatch(name) is not None


def replace_file(path: Path, data: bytes, *, root: Path) -> None:
    """Put `data` at `path` in one step, over whatever was there.

    Args:
        path: below `root`; missing folders are made.
        data: the whole content.
        root: the folder from which on everything belongs to us and is synced.
    """
    with replacing(path, root=root) as descriptor:
        _write(descriptor, data)


@contextmanager
def replacing(path: Path, *, root: Path) -> Iterator[int]:
    """Give a descriptor to fill, of a file that in the end takes the place of `path`.

    If the body raises, or the process dies, `path` is what it was.

    Args:
        path: below `root`; missing folders are made.
        root: the folder from which on everything belongs to us and is synced.
    """
    top = _make_folder(path.parent, root)
    with _temporary(path) as (temporary, descriptor):
        yield descriptor
        # A failed fsync may have dropped the pages: a second one would lie. Never repeated.
        os.fsync(descriptor)
        temporary.replace(path)
    _sync_folders(path.parent, top)


def create_file(path: Path, data: bytes, *, root: Path) -> bool:
    """Put `data` at `path` unless something is there; say whether it was put.

    The last step is a hard link: unlike a rename it never replaces.
    """
    top = _make_folder(path.parent, root)
    with _temporary(path) as (temporary, descriptor):
        _write(descriptor, data)
        os.fsync(descriptor)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            created = False
        else:
            created = True
    # Also when a twin was first: it may have died before it came to this.
    _sync_folders(path.parent, top)
    return created


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, int]]:
    """An empty file beside `path`, open, gone at the end in every case but a rename."""
    _clear_leftovers(path.parent)
    temporary, descriptor = _open_locked(path)
    try:
        yield temporary, descriptor
    finally:
        with suppress(OSError):  # the first error is the one to hear of
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _open_locked(path: Path) -> tuple[Path, int]:
    while True:
        name = f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp"
        temporary = path.with_name(name)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: leftovers stay, nothing else
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock another process may have taken it for a leftover.
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)


def _clear_leftovers(folder: Path) -> None:
    """Remove temporary files whose writer is dead: the living hold a lock on theirs."""
    with os.scandir(folder) as entries:
        found = [(entry.name, _TEMPORARY.fullmatch(entry.name)) for entry in entries]
    for name, match in found:
        # Locks on NFS belong to the process: our own would look free.
        if match is None or int(match["pid"]) == os.getpid():
            continue
        with suppress(OSError):
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()
            finally:
                os.close(descriptor)


def _make_folder(folder: Path, root: Path) -> Path:
    """Make `folder` and what lacks above it; return the highest folder that needs a sync."""
    missing = []
    top = root
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
    if missing and missing[-1] in (root, *root.parents):
        top = missing[-1].parent
    return top


def _sync_folders(folder: Path, top: Path) -> None:
    """Bring the names in `folder`, and the way to it from `top`, to the disk.

    The whole way each time: whoever made a folder may have died before syncing its parent.
    """
    for one in (folder, *folder.parents):
        descriptor = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that cannot sync folders
                raise
        finally:
            os.close(descriptor)
        if one == top:
            return
