"""A local file that a configuration names together with its SHA-256."""

import hashlib
import os
import stat
from pathlib import Path

from ddpm_core.errors import ConfigError

MAX_PINNED_BYTES = 2**31


def read_pinned(path: str, sha256: str, *, key: str) -> bytes:
    """Return the content of a file, if its digest is the one that is named beside it.

    Args:
        path: of a regular file: a pipe or a device has no end.
        sha256: 64 hexadecimal digits.
        key: the setting that names the path, e.g. "evaluate.features"; `<key>_sha256` names the
            digest.

    Raises:
        ConfigError: it is not there, cannot be read, is no regular file, has over 2 GiB, or is
            another.
    """
    named = f"{key}={path!r}"
    try:
        data, num_bytes = _read(Path(path).expanduser())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"{named} cannot be read: {reason}; give the path of a file on this machine"
        ) from None
    if data is None:
        raise ConfigError(f"{named} is no regular file; give the path of one")
    if num_bytes > MAX_PINNED_BYTES:
        raise ConfigError(f"{named} has {num_bytes} bytes; at most {MAX_PINNED_BYTES} are read")
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ConfigError(
            f"{named} has SHA-256 {digest}; {key}_sha256 is {sha256}. It was not loaded: give the "
            "file that you mean, or its digest if you trust it"
        )
    return data


def _read(path: Path) -> tuple[bytes | None, int]:
    """Return content and length; of a longer file no content, of what is no file None."""
    # A pipe without a writer would block an open that waits.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None, 0
        if found.st_size > MAX_PINNED_BYTES:
            return b"", found.st_size
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            # No more than that, also of a file that grows meanwhile.
            return file.read(found.st_size), found.st_size
    finally:
        os.close(descriptor)
