"""LSUN's export: an LMDB whose values are encoded images, as they came.

Source: F. Yu et al., "LSUN: Construction of a large-scale image dataset using deep learning with
humans in the loop" (2015), arXiv:1506.03365; the archives unpack to folders such as
`bedroom_train_lmdb` with a `data.mdb`. Only this file knows the package lmdb.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

import ddpm_core
from ddpm_core.errors import ConfigError, DataError, PipelineError
from ddpm_core.images.names import bytes_of, shown, text_of
from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.container import (
    MAX_ENTRIES,
    Container,
    Entry,
    PassedOver,
    changed,
    refuse_large,
)
from ddpm_core.sources.containers.local_file import LocalFile

DATA_FILE = "data.mdb"
_BEGINNINGS = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"RIFF": "webp",
    b"GIF8": "gif",
}
_UNKNOWN = "value"
_OPENED: dict[Path, Any] = {}
_OPENING = threading.Lock()


@final
class Lmdb(Container):
    """Every value of a database. A name is the key, a dot, and what the value begins as.

    `Entry.where` is (). The library maps the file into memory and trusts it, so that a damaged one
    may end the process: another process looks at every value before this one lists them.
    """

    folders_are_classes = False

    def __init__(self, root: Path) -> None:
        self.uri = str(root)
        self._root = root
        self._mark = marks.FileMark((0, 0), False)

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        del passed_over  # whatever is there is taken for an image
        _library()
        self._mark = LocalFile(self._root / DATA_FILE).mark(self.identities)
        self._look_elsewhere()
        size = (self._root / DATA_FILE).stat().st_size
        with self._transaction() as transaction:
            left = min(transaction.stat()["entries"], MAX_ENTRIES)
            for key, value in transaction.cursor():
                if len(value) > size:
                    raise DataError(
                        f"{shown(self.uri)} is no LMDB that can be used: a value of {len(value)} "
                        f"bytes in a file of {size}. Fetch or unpack it again"
                    )
                if left == 0:  # pages that lead back to each other, or a number that is none
                    raise DataError(
                        f"{self.uri} holds more values than it says, or over {MAX_ENTRIES}. Fetch "
                        "or unpack it again, or split it"
                    )
                left -= 1
                start = bytes(value[:4])
                kinds = (name for mark, name in _BEGINNINGS.items() if start.startswith(mark))
                suffix = next(kinds, _UNKNOWN)
                yield Entry(f"{text_of(bytes(key))}.{suffix}", len(value))

    def read(self, entry: Entry) -> bytes:
        refuse_large(self.uri, entry)
        with self._transaction() as transaction:
            value = transaction.get(bytes_of(entry.name.rpartition(".")[0]))
            if value is None or len(value) != entry.size:
                raise changed(self.uri, entry, "there is no such value")
            return bytes(value)

    def marks_of(self, where: NDArray[np.int64]) -> marks.Marks:
        return marks.of_members(self._mark, len(where))

    def place(self) -> dict[str, Any]:
        return {"kind": "lmdb", "path": self.uri}

    def look(self) -> None:
        """Touch the key, the beginning and the end of every value."""
        with self._transaction() as transaction:
            left = min(transaction.stat()["entries"], MAX_ENTRIES)
            for key, value in transaction.cursor():
                bytes(key), bytes(value[:4]), bytes(value[-1:])
                left -= 1
                if left < 0:
                    return  # the listing says so

    def _look_elsewhere(self) -> None:
        paths = [str(Path(ddpm_core.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(  # noqa: S603 - this Python, this module, a path
            [sys.executable, "-m", __name__, os.fspath(self._root.absolute())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode < 0:
            raise DataError(
                f"{shown(self.uri)} is no LMDB that can be used: a process that read all of it was "
                f"ended by {signal.Signals(-done.returncode).name}. Fetch or unpack it again"
            )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        lmdb = _library()
        try:
            with _environment(self._root.resolve()).begin(buffers=True) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise DataError(
                f"{self.uri} is no LMDB that can be used: {error}. Fetch or unpack it again"
            ) from None


def is_lmdb(folder: Path) -> bool:
    """Say whether a folder is a database."""
    return (folder / DATA_FILE).is_file()


def _environment(path: Path) -> Any:  # noqa: ANN401 - the library's, untyped
    """Return the database, opened once in a process, as LMDB requires, and then kept open.

    A forked process goes on with its parent's: without locks it is a map of a file, no more.
    """
    with _OPENING:
        if path not in _OPENED:
            opened = _library().open(
                str(path), readonly=True, lock=False, readahead=False, create=False
            )
            # A page that is not there is no error of the library, but the end of the process.
            size = (path / DATA_FILE).stat().st_size
            needed = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
            if size < needed:
                opened.close()
                raise DataError(
                    f"{path / DATA_FILE} is cut short: it has {size} bytes, and speaks of "
                    f"{needed}. Fetch or unpack it again, or let `mdb_copy` make a whole one"
                )
            _OPENED[path] = opened
        return _OPENED[path]


def _library() -> Any:  # noqa: ANN401 - optional, and untyped where it is not installed
    try:
        import lmdb
    except ImportError:
        raise ConfigError(
            f"a folder with a {DATA_FILE} needs lmdb: pip install 'ddpm-pipeline[lmdb]'"
        ) from None
    return lmdb


def main() -> None:
    """Look at all of the database that is the argument; the exit code says whether that is safe.

    Other errors are found by the process that started this one.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(PipelineError):
        Lmdb(Path(sys.argv[1])).look()


if __name__ == "__main__":
    main()
