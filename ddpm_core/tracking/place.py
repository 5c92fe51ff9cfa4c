"""Where MLflow is for a run, by environment and root, and how its client is set up.

Knows no MLflow: what is decided here is decided before the seconds that its import takes.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from ddpm_core.canonical import fingerprint
from ddpm_core.errors import ConfigError
from ddpm_core.store.storage import Store

FLOW_PAGE = "ddpm.flow_page"
"""the page of a flow in Prefect's UI: in the metadata of its jobs, and a tag of its run"""
JOB_PAGE = "ddpm.job_page"
"""the page of a job in the dashboard of the cluster that runs it: likewise"""
DATABASE_KEY = "mlflow.db"
ARTIFACTS_KEY = "mlartifacts"

URI_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
TENSORBOARD, WANDB = "DDPM_TENSORBOARD", "DDPM_WANDB"
"""variables that name further places for curves: see `tracking.curves`"""
_JOB_VARIABLES = (
    URI_VARIABLE,
    EXPERIMENT_VARIABLE,
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_WORKSPACE",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    TENSORBOARD,
    WANDB,
)
"""what a process on another machine needs to log to the same place; none holds a password, and
MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN are left to that machine"""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https", "databricks")
_PLUGINS = "mlflow.tracking_store"
_CONFIDENTIAL = r"[^=&\s'\"]*(?:password|passwd|pwd|token|secret|key|sig|odbc_connect)[^=&\s'\"]*"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow's own are 120 s and 7 retries: measured, one call to a dead server takes 246 s. Below
    # half a minute a server that checks passwords on busy cores is taken for a dead one.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password, if it holds one
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else its tables and checks are lines of the stage
    "MLFLOW_UV_AUTO_DETECT": "false",  # would copy a uv.lock of the working folder into the model
}


@dataclass(frozen=True)
class Home:
    """Which MLflow a run is in."""

    uri: str
    """its tracking URI; may hold a password, see `redacted`"""
    registry_uri: str | None
    """where models are registered; None: where MLflow says for `uri`"""
    experiment: str
    """name of the experiment there"""
    artifacts: str | None
    """where the files of an experiment made by us go; None: where the server puts them"""
    database: Store | None
    """the root whose own database this is, if so"""

    @property
    def is_a_file(self) -> bool:
        """Whether it is a database that may be busy, or be built first, but is never away."""
        return _scheme_of(self.uri) == "sqlite"

    @property
    def fingerprint(self) -> str:
        """16 hex digits of server and experiment, without a password."""
        return fingerprint({"uri": redacted(self.uri), "experiment": self.experiment})[:16]


def find_home(store: Store) -> Home | None:
    """Return what MLFLOW_TRACKING_URI names, else the database in a local root, else None.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI is none that every process of a run can use.
    """
    experiment = os.environ.get(EXPERIMENT_VARIABLE, "").strip() or "ddpm"
    uri = os.environ.get(URI_VARIABLE, "").strip()
    folder, database = store.local_path(ARTIFACTS_KEY), store.local_path(DATABASE_KEY)
    # MLflow's own choice without a server is a folder where the process happens to stand.
    artifacts = folder.as_uri() if folder else store.uri_of(ARTIFACTS_KEY)
    if uri:
        _require_usable(uri)
        own = artifacts if is_database(uri) else None
        return Home(uri, _registry(uri), experiment, own, None)
    if database is None:
        return None
    # SQLAlchemy decodes the path, and takes what follows a question mark for options.
    path = str(database).replace("%", "%25").replace("?", "%3F")
    uri = f"sqlite:///{path}"
    return Home(uri, uri, experiment, artifacts, store)


def tracking_uri(store: Store) -> str | None:
    """Return where MLflow is for runs in this root; None if it is nowhere.

    Raises:
        ConfigError: as `find_home`.
    """
    home = find_home(store)
    return home.uri if home else None


def is_database(uri: str) -> bool:
    """Return whether it names a database, for which `make ui` serves a page."""
    return _scheme_of(uri) in _DATABASES


def job_environment() -> dict[str, str]:
    """Return the variables by which a job on another machine finds the same MLflow.

    Those whose value holds a password or a token are left out: what a job is submitted with is
    shown to all who may list jobs.
    """
    given = {name: os.environ.get(name, "").strip() for name in _JOB_VARIABLES}
    return {
        name: value
        for name, value in given.items()
        if value and value != _ENVIRONMENT.get(name) and redacted(value) == value
    }


def prepare_environment() -> None:
    """Set, where the user has not, what MLflow reads: short timeouts, no telemetry, no pickle."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def job_metadata() -> dict[str, str]:
    """Return the metadata of the Ray job that this process is the command of; {} of none."""
    try:
        found = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))["metadata"]
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def redacted(text: str) -> str:
    """Return `text` without users, passwords and tokens of its URLs."""
    # To the last @ of the word: a password that is not encoded may hold an @ or a slash.
    text = re.sub(r"://[^\s'\"]*@", "://***@", text)
    return re.sub(rf"([?&]{_CONFIDENTIAL}=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)


def without_user(uri: str) -> str:
    """Return the address without a user and a password, as a browser takes it, and no secrets."""
    return redacted(re.sub(r"://[^\s'\"]*@", "://", uri))


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
    # In the checkout of another project the commit says nothing about this program.
    return found[1] if Path(found[0]) == home else None


def _registry(uri: str) -> str | None:
    """Return the URI of the registry of models, unless MLflow has a rule of its own.

    It has one for Databricks (Unity Catalog) and for what the variable names; without either, a
    stored default of this process must not win over the server that was named.
    """
    named = os.environ.get("MLFLOW_REGISTRY_URI", "").strip()
    return None if named or _scheme_of(uri) == "databricks" else uri


def _scheme_of(uri: str) -> str:
    """Return "http", "sqlite", ...; "databricks" is written without a colon, too."""
    return "databricks" if uri == "databricks" else urlsplit(uri).scheme.split("+")[0]


def _plugin_schemes() -> list[str]:
    """Return the schemes that installed plug-ins of MLflow add, e.g. azureml and arn."""
    return sorted({one.name for one in entry_points(group=_PLUGINS)} - {"", "file"})


def _require_usable(uri: str) -> None:
    try:
        scheme, plugins = _scheme_of(uri), _plugin_schemes()
    except ValueError as error:
        raise ConfigError(
            f"{URI_VARIABLE}={redacted(uri)!r} is no address ({error}); give http(s)://server, or "
            "unset it to use mlflow.db in a local root"
        ) from None
    if scheme in (*_SERVERS, *_DATABASES[1:], *plugins):
        return
    shown = redacted(uri)
    if scheme == "sqlite":
        if uri.startswith("sqlite:////"):
            return
        raise ConfigError(
            f"{URI_VARIABLE}={shown!r} is a relative path, and workers run in other folders; "
            "give sqlite:////absolute/path/mlflow.db, or unset it to use the one in the root"
        )
    if scheme in ("databricks-uc", "uc"):
        raise ConfigError(
            f"{URI_VARIABLE}={shown!r} names a registry of models, which keeps no runs; give it "
            f"as MLFLOW_REGISTRY_URI and {URI_VARIABLE}=databricks, or unset it"
        )
    known = ", ".join((*_SERVERS, *_DATABASES, *plugins))
    raise ConfigError(
        f"{URI_VARIABLE}={shown!r} is a folder or unknown: MLflow's file store is no "
        "longer supported; give http(s)://server, postgresql://..., "
        f"sqlite:////absolute/path/mlflow.db, or unset it to use mlflow.db in a local root. "
        f"Schemes known here: {known}; a service such as Azure ML (azureml) or SageMaker (arn) "
        "adds its own once its plug-in (azureml-mlflow, sagemaker-mlflow) is installed"
    )
