"""The empty database of a Prefect server of our own, kept for the next one.

Prefect makes its tables by all the migrations that it ever had: three and a half seconds of a core,
of the seven that its server takes to start. What is kept is a copy of what they made, before there
is a flow. It only saves time: what cannot be kept or used is made as before.
"""

import contextlib
import hashlib
import os
import sqlite3
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path

from ddpm_core.errors import ConfigError
from ddpm_core.loading.cache import chosen_folder
from ddpm_core.store.cache_folder import own_folder

DATABASE = "prefect.db"
"""its name in the server's PREFECT_HOME"""
_DIGEST_BYTES = 32
"""at its end, the SHA-256 of the rest: with half a database no server would start"""


def give(home: Path) -> None:
    """Lay the kept database into the home of a server that has not started, if there is one."""
    with contextlib.suppress(OSError, ConfigError):
        kept = _kept()
        if _is_ours_alone(kept.parent) and (database := _read(kept)) is not None:
            (home / DATABASE).write_bytes(database)


def keep(home: Path) -> None:
    """Keep the database of a server that has just started, unless one is kept."""
    with contextlib.suppress(OSError, sqlite3.Error, ConfigError):
        kept = _kept()
        if _read(kept) is not None:
            return
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            part = Path(folder, "part")
            # By SQLite, not as a file: some of it may be in the server's log of writes alone.
            with (
                contextlib.closing(sqlite3.connect(home / DATABASE)) as source,
                contextlib.closing(sqlite3.connect(part)) as copy,
            ):
                source.backup(copy)
                copy.execute("pragma journal_mode = delete")
            database = part.read_bytes()
            part.write_bytes(database + hashlib.sha256(database).digest())
            part.replace(kept)


def _kept() -> Path:
    """Return where the database of this release of Prefect is kept; others have other tables."""
    return own_folder(chosen_folder(), "prefect") / version("prefect")


def _is_ours_alone(folder: Path) -> bool:
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(kept: Path) -> bytes | None:
    """Return the database that is kept; None if there is none, or it is damaged."""
    if not kept.exists():
        return None
    whole = kept.read_bytes()
    database, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    return database if hashlib.sha256(database).digest() == digest else None
