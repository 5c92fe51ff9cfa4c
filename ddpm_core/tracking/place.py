"""Where MLflow is for a run, by environment and root, and what it is told about this program.

Knows no MLflow: what is decided here is decided before the seconds that its import takes.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ddpm_core.errors import ConfigError
from ddpm_core.storage import Store

DATABASE_KEY = "mlflow.db"
ARTIFACTS_KEY = "mlartifacts"

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow's own are 120 s and 7 retries: measured, one call to a dead server takes 246 s.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password, if it holds one
    "MLFLOW_UV_AUTO_DETECT": "false",  # would copy a uv.lock of the working folder into the model
}


@dataclass(frozen=True)
class Home:
    """Which MLflow a run is in."""

    uri: str
    """its tracking URI; may hold a password, see `redacted`"""
    experiment: str
    """name of the experiment there"""
    artifacts: str | None
    """where the files of an experiment made by us go; None: where the server puts them"""
    database: Store | None
    """the root whose own database this is, if so"""


def find_home(store: Store) -> Home | None:
    """Return what MLFLOW_TRACKING_URI names, else the database in a local root, else None.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI is none that every process of a run can use.
    """
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or "ddpm"
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    folder, database = store.local_path(ARTIFACTS_KEY), store.local_path(DATABASE_KEY)
    # MLflow's own choice without a server is a folder where the process happens to stand.
    artifacts = folder.as_uri() if folder else store.uri_of(ARTIFACTS_KEY)
    if uri:
        _require_usable(uri)
        is_database = urlsplit(uri).scheme.split("+")[0] in _DATABASES
        return Home(uri, experiment, artifacts if is_database else None, None)
    if database is None:
        return None
    # SQLAlchemy decodes the path, and takes what follows a question mark for options.
    path = str(database).replace("%", "%25").replace("?", "%3F")
    return Home(f"sqlite:///{path}", experiment, artifacts, store)


def tracking_uri(store: Store) -> str | None:
    """Return where MLflow is for runs in this root; None if it is nowhere.

    Raises:
        ConfigError: as `find_home`.
    """
    home = find_home(store)
    return home.uri if home else None


def prepare_environment() -> None:
    """Set, where the user has not, what MLflow reads: short timeouts, no telemetry, no pickle."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def redacted(text: str) -> str:
    """Return `text` without what stands before an @ in its URLs."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def git_commit() -> str | None:
    """Return DDPM_GIT_COMMIT, else the commit of the checkout that this package lies in."""
    if given := os.environ.get("DDPM_GIT_COMMIT", "").strip():
        return given
    home, git = Path(__file__).resolve().parents[2], shutil.which("git")
    if git is None:
        return None
    try:
        found = subprocess.run(  # noqa: S603 - a fixed command; no shell
            [git, "-C", str(home), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return None
    # Installed into somebody else's checkout, the commit there says nothing about this program.
    return found[1] if Path(found[0]) == home else None


def _require_usable(uri: str) -> None:
    scheme = urlsplit(uri).scheme.split("+")[0]
    if uri == "databricks" or scheme in ("http", "https", "databricks", *_DATABASES[1:]):
        return
    if scheme == "sqlite":
        if uri.startswith("sqlite:////"):
            return
        raise ConfigError(
            f"MLFLOW_TRACKING_URI={uri!r} is a relative path, and workers run in other folders; "
            "give sqlite:////absolute/path/mlflow.db, or unset it to use the one in the root"
        )
    raise ConfigError(
        f"MLFLOW_TRACKING_URI={redacted(uri)!r} is a folder or unknown: MLflow's file store is no "
        "longer supported; give http(s)://server, postgresql://..., "
        "sqlite:////absolute/path/mlflow.db, or unset it to use mlflow.db in a local root"
    )
