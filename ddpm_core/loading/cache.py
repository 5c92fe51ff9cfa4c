"""Local cache of expensive downloads and decodes: shared, bounded, verified before it is used.

All processes of a user on a machine share it. A file is made by one of them while the others wait,
gets its name when it is whole, and is made again if it is found damaged. When the files pass the
limit, the least recently opened are deleted. That is safe for processes that have them open or
mapped: on Linux the bytes of a deleted file stay until it is closed.

    DDPM_CACHE       the folder; default $XDG_CACHE_HOME/ddpm-pipeline, or ~/.cache/ddpm-pipeline;
                     all is in its subfolder `kept`, and nothing else of it is ever deleted; users
                     who share the folder have `kept-UID` each, beside the `kept` of the first
    DDPM_CACHE_GIB   the limit in GiB, a number above 0; default 32
"""

import errno
import fcntl
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.store import durable
from ddpm_core.store.cache_folder import own_folder, user_folder

FOLDER_VARIABLE = "DDPM_CACHE"
LIMIT_VARIABLE = "DDPM_CACHE_GIB"
_DEFAULT_GIB = 32.0
_NUM_LOCKS = 64  # of each kind of names; two of a kind may share one, and wait for each other
_LOCKS = "locks"
_LOOK_EVERY_S = 0.05  # whether a lock is free, where the wait may be given up
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


def chosen_folder() -> Path:
    """Return the folder that the environment names, in which all caches lie; it need not exist.

    Raises:
        ConfigError: there is none.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    try:
        return Path(given).expanduser().absolute() if given else user_folder()
    except RuntimeError as error:
        raise ConfigError(f"{FOLDER_VARIABLE}={given!r}: {error}; give a folder") from None


@dataclass(frozen=True)
class Cache:
    """Files below `folder`, together at most `max_bytes` long."""

    folder: Path
    max_bytes: int

    @classmethod
    def of_environment(cls) -> "Cache":
        """Return the cache that the environment names.

        Raises:
            ConfigError: if the limit is no number above 0, or there is no folder for it.
        """
        folder = chosen_folder()
        text = os.environ.get(LIMIT_VARIABLE) or str(_DEFAULT_GIB)
        try:
            gib = float(text)
        except ValueError:
            gib = math.nan
        if not 0 < gib < math.inf:
            raise ConfigError(
                f"{LIMIT_VARIABLE}={text!r} must be a number of GiB above 0, e.g. 32; it bounds "
                f"the local cache in {folder}"
            )
        # Not resolve(): the folder may be a symlink that somebody moves. A folder of its own, since
        # what lies in the cache may be deleted, and people name folders with other things in them.
        return cls(own_folder(folder, "kept"), int(gib * 2**30))

    def require_room(self, num_bytes: int, what: str) -> None:
        """Raise ConfigError unless `num_bytes` fit the limit; `what` is what they are."""
        if num_bytes > self.max_bytes:
            raise ConfigError(
                f"{what} needs {num_bytes / 2**30:.3g} GiB in the local cache {self.folder}, whose "
                f"limit is {self.max_bytes / 2**30:.3g} GiB; raise {LIMIT_VARIABLE}, or point "
                f"{FOLDER_VARIABLE} to a larger disk"
            )

    def room(self) -> int:
        """Return how many bytes fit the limit and the disk, once all that is there is deleted."""
        there = 0
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    there += entry.stat().st_size
        free = durable.free_bytes(self.folder)
        return self.max_bytes if free is None else min(self.max_bytes, there + free)

    def open(
        self,
        name: str,
        *,
        make: Callable[[int], None],
        is_sound: Callable[[int], bool],
        waiting: Callable[[], None] | None = None,
    ) -> int:
        """Return a descriptor, to read from, of the file `name`; made first if need be.

        Args:
            name: of letters, digits, dots and dashes; says all that determines the content. Up to
                the first dash it says of which kind the file is.
            make: fills the descriptor of an empty file; may open files of other kinds, if none of
                those is made of this one's.
            is_sound: says whether a file is what `make` made; called once for each `open`.
            waiting: called again and again while another process makes it; what it raises ends the
                wait.

        Raises:
            StorageError: the folder cannot be used, or loses what is written.
            PipelineError: whatever `make` raises; then there is no file.
        """
        with self._errors():
            (self.folder / _LOCKS).mkdir(parents=True, exist_ok=True, mode=0o700)
            found = self._opened(name, is_sound)
            if found is not None:
                return found
            with self._locked(name, waiting=waiting):
                # Perhaps another process has made it meanwhile.
                found = self._opened(name, is_sound)
                if found is not None:
                    return found
                found = self._made(name, make, is_sound)
        if found is None:
            raise StorageError(
                f"{self.folder / name} was written and is not what was written: the disk or "
                f"another program changes it; point {FOLDER_VARIABLE} to another folder"
            )
        return found

    def has(self, name: str) -> bool:
        """Say whether there is a file `name`, sound or not; of one that cannot be seen, no."""
        with suppress(OSError):  # `open` says what is wrong
            return (self.folder / name).exists()
        return False

    def discard(self, name: str) -> None:
        """Delete a file that was found damaged while it was used: the next `open` makes it again.

        Raises:
            StorageError: it cannot be deleted.
        """
        with self._errors():
            (self.folder / name).unlink(missing_ok=True)
        _log.warning("%s is damaged; what is damaged is made again", self.folder / name)

    def _made(
        self, name: str, make: Callable[[int], None], is_sound: Callable[[int], bool]
    ) -> int | None:
        """Make the file, whose lock is held; None if it is not what was written."""
        while True:
            found = None
            try:
                with durable.replacing(self.folder / name, root=self.folder) as descriptor:
                    make(descriptor)
                    # Not by its name later: it may have been evicted by then.
                    found = os.dup(descriptor)
                sound = is_sound(found)
                self._make_room(keep=name)
            except BaseException as error:
                if found is not None:
                    os.close(found)
                # The disk may be smaller than the limit: then half of what is there has to go.
                is_full = isinstance(error, OSError) and error.errno in durable.FULL
                if not (is_full and self._make_room(keep=name, share=0.5)):
                    raise
                continue
            if sound:
                return found
            os.close(found)
            return None

    def _opened(self, name: str, is_sound: Callable[[int], bool]) -> int | None:
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            sound = is_sound(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if sound:
            with suppress(OSError):  # of another user, or deleted this moment: it can be read
                os.utime(path)  # what eviction goes by; the time of access is often not kept
            return descriptor
        os.close(descriptor)
        _log.warning("%s is damaged, and made again", path)
        return None

    def _make_room(self, *, keep: str, share: float = 1) -> bool:
        """Delete what was opened longest ago until the rest is within the limit, and within this
        share of what was there; say whether something was.
        """
        with self._locked("", "room"):
            files: list[tuple[float, int, str]] = []
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        if entry.is_file() and not durable.is_temporary(entry.name):
                            stat = entry.stat()
                            files.append((stat.st_mtime, stat.st_size, entry.name))
            total = before = sum(size for _, size, _ in files)
            limit = min(self.max_bytes, share * total)
            for _, size, name in sorted(files):
                if total <= limit:
                    break
                if name != keep:
                    (self.folder / name).unlink(missing_ok=True)
                    total -= size
            return total < before

    @contextmanager
    def _locked(
        self, name: str, lock: str | None = None, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Hold the lock of a name; other threads and processes wait. It ends with its holder."""
        if lock is None:
            number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % _NUM_LOCKS
            lock = f"{number}-{name.partition('-')[0]}"
        path = self.folder / _LOCKS / lock
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                _lock(descriptor, waiting)
            except OSError as error:
                # Without locks two processes may make the same file: the second takes its place.
                if error.errno not in _NO_LOCKS:
                    raise
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            said, remedy = error.strerror or str(error), ""
            if error.errno in durable.FULL:
                said += f" ({durable.free_bytes(self.folder)} bytes are free)"
                remedy = "free some space, or "
            raise StorageError(
                f"the local cache {self.folder} cannot be used: {said}; {remedy}set "
                f"{FOLDER_VARIABLE} to a folder on a local disk that this user may write"
            ) from error


def _lock(descriptor: int, waiting: Callable[[], None] | None) -> None:
    """Lock a file, as soon as nobody else holds its lock."""
    while waiting is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(_LOOK_EVERY_S)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
