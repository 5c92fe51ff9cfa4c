"""Local files that survive a kill and a power cut: old or new, never half, never unnoticed.

What is needed of the file system: renames, and hard links or renames that never replace. What it
may lack: locks, and syncs of folders, which then happen when it sees fit.

A file gets its bytes under a temporary name, reaches the disk, and only then its name. Without
the fsync of the file a power cut leaves an empty file under the final name; without the fsync
of the folder, no name. Every function raises plain OSError; `storage` says it to the user.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_core.store.content import BLOCK_BYTES, Content, blocks_of

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)-(?P<host>[0-9a-f]{8})[0-9a-f]{8}\.tmp")
# Locks do not reach other machines on every file system: what is younger may be at work there.
_FOREIGN_LEFTOVER_S = 86_400
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# EBADF of a descriptor that is open: so do some network file systems say it.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR)
FULL = (errno.ENOSPC, errno.EDQUOT)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


def is_temporary(name: str) -> bool:
    """Say whether a file of this name is one that was never finished."""
    return _TEMPORARY.fullmatch(name) is not None


def replace_file(path: Path, data: Content, *, root: Path) -> None:
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


def copy_file(source: Path, path: Path, *, root: Path) -> None:
    """Put the file at `source` also at `path`, in one step, over whatever was there.

    A second name for the same bytes; where there are no hard links, a copy of them.

    Args:
        source: a file that was put by `replace_file`: its bytes are on the disk.
        path: below `root`; missing folders are made.
        root: the folder from which on everything belongs to us and is synced.
    """
    top = _make_folder(path.parent, root)
    with source.open("rb") as file:
        # Held while it has a temporary name, which others take for a leftover otherwise.
        with suppress(OSError):
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary = path.with_name(_temporary_name(path))
        try:
            temporary.hardlink_to(source)
            temporary.replace(path)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EXDEV):
                raise
            with replacing(path, root=root) as descriptor:
                while block := file.read(BLOCK_BYTES):
                    _write(descriptor, block)
        finally:
            # Also after a rename: it does nothing where both names are of one file already.
            temporary.unlink(missing_ok=True)
    _sync_folders(path.parent, top)


def create_file(path: Path, data: bytes, *, root: Path) -> bool:
    """Put `data` at `path` unless something is there; say whether it was put.

    Raises:
        OSError: also, with EOPNOTSUPP, if the file system cannot give a name only once.
    """
    top = _make_folder(path.parent, root)
    with _temporary(path) as (temporary, descriptor):
        _write(descriptor, data)
        os.fsync(descriptor)
        created = _claim(temporary, path)
    # Also when a twin was first: it may have died before it came to this.
    _sync_folders(path.parent, top)
    return created


def require_claims(folder: Path) -> None:
    """Make sure that `create_file` works in this folder.

    Raises:
        OSError: with EOPNOTSUPP if it does not.
    """
    with _temporary(folder / "claim") as (temporary, _):
        target = folder / f".claimed.{temporary.name.rpartition('.claim.')[2]}"
        try:
            _claim(temporary, target)
        finally:
            with suppress(OSError):  # the next writer here takes it away
                target.unlink(missing_ok=True)


def free_bytes(path: Path) -> int | None:
    """Return how many bytes this user may still write where `path` is or will be; None: unknown."""
    for one in (path, *path.parents):
        try:
            found = os.statvfs(one)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return found.f_bavail * found.f_frsize
    return None


def require_room(path: Path, num_bytes: int) -> None:
    """Make sure that so many bytes can be written where `path` is or will be.

    Raises:
        OSError: with ENOSPC, and how many are needed.
    """
    free = free_bytes(path)
    if free is not None and free < num_bytes:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {num_bytes} bytes are needed")


def _claim(temporary: Path, path: Path) -> bool:
    """Give a file a name that nothing has; say whether it got it. A rename would replace."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_if_absent(temporary, path)
    return True


def _rename_if_absent(temporary: Path, path: Path) -> bool:
    """Do the same where there are no hard links: exFAT, SMB."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    words = (_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE)
    if rename is not None:
        if rename(*words) == 0:
            return True
        number = ctypes.get_errno()
        if number == errno.EEXIST:
            return False
        if number not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number), str(path))
    raise OSError(
        errno.EOPNOTSUPP,
        "this file system has neither hard links nor renames that never replace",
        str(path),
    )


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


def _write(descriptor: int, data: Content) -> None:
    for block in blocks_of(data):
        view = memoryview(block)
        while view:
            view = view[os.write(descriptor, view) :]


def _open_locked(path: Path) -> tuple[Path, int]:
    while True:
        temporary = path.with_name(_temporary_name(path))
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: leftovers stay, nothing else
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock another process may have taken it for a leftover.
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)


def _temporary_name(path: Path) -> str:
    return f".{path.name}.{os.getpid()}-{_host()}{secrets.token_hex(4)}.tmp"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _clear_leftovers(folder: Path) -> None:
    """Remove temporary files whose writer is dead: the living hold a lock on theirs."""
    with os.scandir(folder) as entries:
        found = [(entry.name, _TEMPORARY.fullmatch(entry.name)) for entry in entries]
    for name, match in found:
        # Locks on NFS belong to the process: our own would look free.
        if match is None or int(match["pid"]) == os.getpid():
            continue
        with suppress(OSError):
            age_s = time.time() - (folder / name).lstat().st_mtime
            if match["host"] != _host() and age_s < _FOREIGN_LEFTOVER_S:
                continue
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

    The whole way each time: the process that made a folder may have died before syncing its parent.
    """
    for one in (folder, *folder.parents):
        with suppress(PermissionError):  # a folder in which one may make files, and not list them
            descriptor = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in _NO_FOLDER_SYNC:
                    raise
            finally:
                os.close(descriptor)
        if one == top:
            return
