"""Which MLflow, and what is shown of its address."""

import subprocess
from importlib.metadata import EntryPoint

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.tracking import (
    place,
)
from tests.tracking.local import open_quiet


def test_without_a_place_tracking_is_off_and_says_so(config, capsys):
    """Catches a database in the working folder when the root is in S3."""

    class Bucket:
        uri = "s3://bucket/prefix"

        def uri_of(self, key):
            return f"{self.uri}/{key}"

        def local_path(self, _):
            return None

    tracker = open_quiet(Bucket(), config)
    tracker.log_points([{"step": 1, "loss": 1.0}])
    tracker.log_metrics({"fid": 1.0})
    assert not capsys.readouterr().err
    tracker.begin()
    tracker.begin()
    assert tracker.close()
    assert capsys.readouterr().err.count("MLflow: off; s3://bucket/prefix is no local root") == 1


@pytest.mark.parametrize(
    "uri",
    [
        "./mlruns", "mlruns", "file:///tmp/mlruns", "sqlite:///mlflow.db", "sqlite://", "ftp://x",
        "azureml://eastus.api.azureml.ms/mlflow/v1.0", "databricks-uc", "uc:http://localhost",
    ],
)  # fmt: skip
def test_a_place_that_not_all_processes_share_is_refused(store, config, monkeypatch, uri):
    """Catches a file store that MLflow dropped, and one database for each working folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI=.*unset it"):
        open_quiet(store, config)


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000", "https://a/b", "postgresql+psycopg2://u:p@h/db", "databricks",
        "databricks://profile", "azureml://eastus.api.azureml.ms/mlflow/v1.0",
        "arn:aws:sagemaker:eu-west-1:123456789012:mlflow-tracking-server/mine",
    ],
)  # fmt: skip
def test_a_server_is_taken_as_it_is_named(store, monkeypatch, uri):
    """Catches a rule that refuses the servers that infra names, or that plug-ins of MLflow add."""
    plugins = [EntryPoint(name, "a.b:C", "mlflow.tracking_store") for name in ("azureml", "arn")]
    monkeypatch.setattr(place, "entry_points", lambda group: plugins)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    home = place.find_home(store)
    assert (home.uri, home.experiment, home.database) == (uri, "mine", None)
    assert (home.artifacts is not None) == uri.startswith("postgresql")
    # MLflow's own rule is Unity Catalog for Databricks.
    assert home.registry_uri == (None if uri.startswith("databricks") else uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://registry")
    assert place.find_home(store).registry_uri is None


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:canary@host/x", "http://me:p@ss/canary@host", "ftp://canary@host",
        "mssql+pyodbc:///?odbc_connect=Driver%3Dx%3BPWD%3Dcanary",
        "foo://host?password=canary", "foo://host?a=b&Access_Token=canary", "sqlite://:canary@/x",
    ],
)  # fmt: skip
def test_no_password_is_shown(store, config, monkeypatch, uri):
    """Catches a password in a refusal or a job's environment, and what is left of one with an @."""
    assert "canary" not in place.redacted(f"cannot reach {uri}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "MLFLOW_TRACKING_URI" not in place.job_environment()
    if not uri.startswith(("http", "mssql")):
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI=") as refused:
            open_quiet(store, config)
        assert "canary" not in str(refused.value)


def test_the_commit_is_this_packages(tmp_path, monkeypatch):
    """Catches a commit that is never found, and that of a checkout which merely contains the
    environment that this package is installed in."""

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *names, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "first")
    monkeypatch.setattr(place, "__file__", str(tmp_path / "ddpm_core/tracking/place.py"))
    (tmp_path / "venv/site-packages").mkdir(parents=True)
    assert place.git_commit() == git("rev-parse", "HEAD")
    inside = tmp_path / "venv/site-packages/ddpm_core/tracking/place.py"
    monkeypatch.setattr(place, "__file__", str(inside))
    assert place.git_commit() is None
    monkeypatch.setenv("DDPM_GIT_COMMIT", "abc")
    assert place.git_commit() == "abc"
