"""A .tar.gz as a .tar: gzip cannot be read at random, so it is unpacked once, into the cache."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import BinaryIO

from ddpm_core.errors import DataError
from ddpm_core.images.names import shown
from ddpm_core.progress import Progress
from ddpm_core.sources.download import locked

MAX_UNPACKED_BYTES = 2**38
"""256 GiB; and at most `_MAX_RATIO` times the archive once it is over `_ALWAYS_BYTES`."""
_MAX_RATIO = 200  # deflate reaches 1032; images are compressed already
_ALWAYS_BYTES = 2**26
_CHUNK_BYTES = 2**20


def unpacked(archive: Path, cache: Path) -> tuple[Path, str]:
    """Return (the archive without its gzip, the SHA-256 of the archive).

    It is named by that digest, and appears whole or not at all.

    Raises:
        DataError: it is missing, damaged, or unpacks beyond the bounds.
        StorageError: the cache cannot be written.
    """
    if not archive.is_file():
        raise DataError(
            f"{shown(str(archive))} is missing or no regular file; fetch it, or mend data.source"
        )
    try:
        with archive.open("rb") as packed:
            sha256 = hashlib.file_digest(packed, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{shown(str(archive))} cannot be read: {error.strerror}; mend that"
        ) from None
    path = cache / "unpacked" / f"{sha256}.tar"
    with locked(path):
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            try:
                with archive.open("rb") as packed, part.open("wb") as target:
                    _unpack(archive, packed, target)
                    target.flush()
                    os.fsync(target.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    return path, sha256


def _unpack(archive: Path, packed: BinaryIO, target: BinaryIO) -> None:
    total = archive.stat().st_size
    num_bytes = tenth = 0
    source = gzip.GzipFile(fileobj=packed)
    while True:
        try:
            chunk = source.read(_CHUNK_BYTES)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"{shown(str(archive))} cannot be unpacked: {error}. Fetch the file again"
            ) from None
        if not chunk:
            return
        num_bytes += len(chunk)
        if num_bytes > min(MAX_UNPACKED_BYTES, max(_ALWAYS_BYTES, _MAX_RATIO * total)):
            raise DataError(
                f"{shown(str(archive))}, {total} bytes, unpacks to over {num_bytes} bytes; at most "
                f"{MAX_UNPACKED_BYTES} bytes and {_MAX_RATIO} times the archive are unpacked. "
                "Unpack it yourself and give the folder as data.source"
            )
        target.write(chunk)
        if 10 * packed.tell() // max(total, 1) > tenth:
            tenth = 10 * packed.tell() // max(total, 1)
            Progress(
                "shard", packed.tell(), total, "bytes", f"unpacking {shown(archive.name)}"
            ).show()
