"""A folder of files on this machine, or one that all machines see."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError, StorageError
from ddpm_core.images.names import (
    HARMLESS,
    NAME_OF_A_SYSTEM,
    is_of_a_system,
    quoted,
    reason_to_pass_over,
)
from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.container import (
    MAX_ENTRY_BYTES,
    Container,
    Entry,
    PassedOver,
    changed,
    changed_meanwhile,
    refuse_large,
)
from ddpm_core.sources.containers.local_file import Descriptor

_MAX_DEPTH = 32
_NOWHERE = "a symbolic link to nothing: fetch the files (dvc pull, git annex get, git lfs pull)"
_SPECIAL = "neither a file nor a folder"


@final
class Folder(Container):
    """Regular files below `root`, and symbolic links to regular files, wherever these lie.

    Hub caches, DVC and git-annex keep files so. What a link leads to is what this user can read
    anyway; it is used only if it decodes as an image, and no text of it gets into a message. Links
    to folders are refused, since they may lead back; devices, pipes and sockets are never opened,
    also behind links. `Entry.where` is (time of the content, time of the inode) in ns.
    """

    def __init__(self, root: Path) -> None:
        self.uri = str(root)
        self._root = root
        self._top = Descriptor(root, os.O_DIRECTORY)
        self._listed_ns = 0

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        self._listed_ns = marks.now_ns()
        for name, found in self._walk(passed_over):
            yield Entry(name, found.st_size, marks.times_of(found))

    def read(self, entry: Entry) -> bytes:
        refuse_large(self.uri, entry)
        try:
            descriptor = self._open(entry.name)
        except OSError as error:
            raise self._problem(entry, error) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise changed(self.uri, entry, "it is no regular file")
            content = _read_all(descriptor, entry.size + 1)
            if entry.where and marks.times_of(os.fstat(descriptor)) != entry.where:
                raise changed_meanwhile(self.uri, entry.name)
        except OSError as error:
            raise self._problem(entry, error) from None
        finally:
            os.close(descriptor)
        if len(content) != entry.size:
            raise changed(self.uri, entry, f"it had {entry.size} bytes, and now has others")
        return content

    def marks_of(self, where: NDArray[np.int64]) -> marks.Marks:
        return marks.of_times(where, self._listed_ns)

    def place(self) -> dict[str, Any]:
        return {"kind": "folder", "path": self.uri}

    def close(self) -> None:
        self._top.close()

    def _walk(self, passed_over: PassedOver) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the regular files; folders are entered by themselves, never through a link."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            if folder.count("/") >= _MAX_DEPTH:
                raise DataError(
                    f"{quoted(folder)} in {self.uri} lies {_MAX_DEPTH} folders deep; give a folder "
                    "nearer to the images as data.source"
                )
            try:
                with os.scandir(self._root / folder) as found:
                    for one in found:
                        name = f"{folder}/{one.name}" if folder else one.name
                        if is_of_a_system(one.name):
                            passed_over.add(NAME_OF_A_SYSTEM, name, harmless=True)
                        elif one.is_symlink():
                            found_link = self._linked(name, passed_over)
                            if found_link is not None:
                                yield name, found_link
                        elif one.is_dir(follow_symlinks=False):
                            waiting.append(name)
                        elif one.is_file(follow_symlinks=False):
                            yield name, one.stat(follow_symlinks=False)
                        else:
                            passed_over.add(_SPECIAL, name, harmless=False)
            except OSError as error:
                raise StorageError(
                    f"cannot list {quoted(folder)} in {self.uri}: {error.strerror}; give this user "
                    "the right to read it, or mount it, then run again"
                ) from None

    def _linked(self, name: str, passed_over: PassedOver) -> os.stat_result | None:
        """Return what is known of the regular file that a link leads to; None if to none."""
        try:
            found = (self._root / name).stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                raise StorageError(
                    f"the symbolic link {quoted(name)} in {self.uri} leads to something that "
                    f"cannot be looked at: {error.strerror}; give this user the right, or remove it"
                ) from None
            passed_over.add(_NOWHERE, name, harmless=reason_to_pass_over(name) in HARMLESS)
            return None
        if stat.S_ISDIR(found.st_mode):
            raise DataError(
                f"{quoted(name)} in {self.uri} is a symbolic link to a folder, which is not "
                "followed, since it may lead back. Give that folder as data.source, or fill one "
                "with links to its files: cp -rs /path/to/folder ."
            )
        if not stat.S_ISREG(found.st_mode):
            passed_over.add(_SPECIAL, name, harmless=False)
            return None
        return found

    def _open(self, name: str) -> int:
        """Open a file; every folder on the way to it is checked to be one, and no link."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        *folders, last = name.split("/")
        if not all(part not in ("", ".", "..") for part in (*folders, last)):
            raise OSError(errno.EINVAL, "no name of a file below the folder")
        at = top = self._top.number()
        try:
            for folder in folders:
                below = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at)
                if at != top:
                    os.close(at)
                at = below
            if not stat.S_ISREG(os.stat(last, dir_fd=at).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            # O_NONBLOCK: a pipe put there since would block the opening for ever.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            return os.open(last, flags, dir_fd=at)
        finally:
            if at != top:
                os.close(at)

    def _problem(self, entry: Entry, error: OSError) -> DataError | StorageError:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EINVAL):
            return changed(self.uri, entry, str(error.strerror))
        return StorageError(
            f"cannot read {quoted(entry.name)} in {self.uri}: {error.strerror}; mend that, then "
            "run again"
        )


def _read_all(descriptor: int, num_bytes: int) -> bytes:
    """Return up to `num_bytes`, which is at most one more than MAX_ENTRY_BYTES."""
    pieces = []
    left = min(num_bytes, MAX_ENTRY_BYTES + 1)
    while left and (piece := os.read(descriptor, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
