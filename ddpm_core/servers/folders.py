"""Where a server's files lie: a private folder with a short path, on a disk with room."""

import contextlib
import re
import tempfile
from pathlib import Path

from ddpm_core.errors import ConfigError

_PREFIX = "ddpm-"
_MAX_PLACE = 22
"""characters: of the 103 bytes of a socket's path, our folder takes 16 and Ray 64"""


def private_folder() -> Path:
    """Make a folder that only this user can enter, with a path that fits Unix sockets.

    In the folder for temporary files ($TMPDIR) if its path is short and plain enough, else in
    /tmp or /var/tmp; see `roomy`.

    Raises:
        ConfigError: none of them can be written to.
    """
    # mkdtemp makes it private wherever it lies.
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108
        if _fits_sockets(place):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    raise ConfigError(
        f"no place for the sockets of a server: the path of TMPDIR={tempfile.gettempdir()} must "
        f"have at most {_MAX_PLACE} letters, digits, '.', '_', '-' and '/', or /tmp must be "
        "writable"
    )


def roomy(folder: Path, name: str) -> tuple[Path, list[Path]]:
    """Make `folder/name` for what may be large; return it, and what to remove beside `folder`.

    It is on the disk that $TMPDIR names even where `folder` is not, by a symbolic link: bytes go
    where the user has room for them, and the path stays short.
    """
    path, place = folder / name, Path(tempfile.gettempdir()).absolute()
    if folder.parent == place:
        path.mkdir(mode=0o700)
        return path, []
    room = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    path.symlink_to(room, target_is_directory=True)
    return path, [room]


def is_plain(path: str) -> bool:
    """Return whether a path survives Ray's command lines, which are split at spaces."""
    return re.fullmatch(r"[\w./-]+", path, re.ASCII) is not None


def _fits_sockets(place: str) -> bool:
    return len(place) <= _MAX_PLACE and is_plain(place)
