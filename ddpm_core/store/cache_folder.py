"""The cache folder of this user on this machine: writable, and not shared with other users.

What another user has put there is not used: a file that is fetched or made is trusted by a digest
that lies beside it, and a lock that one user has made keeps the others out.
"""

import logging
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from ddpm_core.errors import ConfigError
from ddpm_core.progress import WARNING

VARIABLES = "XDG_CACHE_HOME, or DDPM_CACHE for what is kept of data sets,"

_log = logging.getLogger(__name__)


def user_folder() -> Path:
    """Return `$XDG_CACHE_HOME/ddpm-pipeline`, or `~/.cache/ddpm-pipeline`; nothing is made yet.

    If that cannot be written, as in a container without a home, it is a folder of this user below
    the one for temporary files, and a warning says so once.

    Raises:
        ConfigError: that one belongs to another user.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    wanted = f"{home}/ddpm-pipeline"
    try:
        folder = Path(wanted).expanduser().absolute()
    except RuntimeError:  # a user without a home folder
        return _temporary(wanted)
    return folder if can_be_written(folder) else _temporary(wanted)


def own_folder(parent: Path, name: str) -> Path:
    """Return `parent/name`, or `parent/name-UID` if another user has made the first."""
    folder = parent / name
    try:
        is_ours = folder.stat().st_uid == os.geteuid()
    except OSError:  # not there yet; or what cannot be looked at is said when it is used
        is_ours = True
    return folder if is_ours else parent / f"{name}-{os.geteuid()}"


def can_be_written(folder: Path) -> bool:
    """Say whether this user can make files in `folder`, or make the folder."""
    for one in (folder, *folder.parents):
        try:
            found = one.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and os.access(one, os.W_OK | os.X_OK)
    return False


@cache
def _temporary(wanted: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f"ddpm-pipeline-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"neither {wanted} nor {folder} can be written ({error.strerror}): set {VARIABLES} to "
            "a folder that can"
        ) from None
    # Anybody may have made it first, below a folder that belongs to all.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{wanted} cannot be written, and {folder} is not this user's alone: set {VARIABLES} "
            "to a folder that is"
        )
    _log.warning(
        "%s%s cannot be written: what is fetched and decoded goes to %s, which the system may "
        "clear; set %s to a folder that can be written",
        WARNING,
        wanted,
        folder,
        VARIABLES,
    )
    return folder
