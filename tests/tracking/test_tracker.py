import http.server
import json
import shlex
import socket
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from ddpm_core import layout, manifest
from ddpm_core.canonical import fingerprint
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits
from ddpm_core.storage import open_store
from ddpm_core.tracking import open_tracker, outbox, place, tracking_uri
from ddpm_core.training import checkpoint
from ddpm_core.training.stage import run_train
from tests.quiet_mlflow import mlflow


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DDPM_GIT_COMMIT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One root for all, in a folder with characters that URLs and SQL give a meaning."""
    return open_store(str(tmp_path_factory.mktemp("it's a #root% 20")))


@pytest.fixture
def config(request):
    """A run of its own for each test: the name is the test's."""
    return digits().replaced({"name": request.function.__name__[:60]})


def open_quiet(store, config, stage="train"):
    return open_tracker(store, config, stage=stage, machine_every_s=None)


def log(store, config, *points, stage="train"):
    with open_quiet(store, config, stage) as tracker:
        tracker.log_points(points)


def the_run(store, config):
    client = mlflow.MlflowClient(tracking_uri(store))
    experiment = client.get_experiment_by_name("ddpm")
    runs = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in runs if run.info.run_name == config.name]
    return client, run


def history(store, config, key="loss"):
    client, run = the_run(store, config)
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, key)]


def artifact(store, config, path):
    client, run = the_run(store, config)
    return Path(client.download_artifacts(run.info.run_id, path)).read_bytes()


def test_attempts_and_stages_of_a_run_are_one_run_without_second_points(store, config):
    """Catches a new MLflow run for each attempt, and replayed steps logged again."""
    log(store, config, {"step": 50, "loss": 0.5}, {"step": 100, "loss": 0.4, "grad_norm": 1.0})
    log(
        store,
        config,
        {"step": 50, "loss": 0.5, "grad_norm": 2.0},
        {"step": 100, "loss": 0.4, "grad_norm": 1.0},
        {"step": 150, "loss": 0.3, "grad_norm": 0.5},
    )
    log(store, config, stage="sample")
    assert history(store, config) == [(50, 0.5), (100, 0.4), (150, 0.3)]
    assert history(store, config, "grad_norm") == [(100, 1.0), (150, 0.5)]
    _, run = the_run(store, config)
    assert run.data.tags["ddpm.run_uri"] == store.uri_of(f"runs/{config.name}")
    assert run.data.tags["ddpm.experiment"] == fingerprint(config.experiment())
    assert run.data.tags["ddpm.stage.train"] == "done"


def test_what_a_kill_cut_off_is_sent_by_the_finished_training_run_again(store, config):
    """Catches the end of a curve that nobody sends, under other names, or all of it twice."""
    last = config.train.num_steps
    history_of_run = [{"step": 100.0, "loss": 0.5}, {"step": float(last), "loss": 0.25}]
    weights = {"model.x": torch.zeros(1)}
    origin = checkpoint.Origin(fingerprint(config.experiment()), "f")
    checkpoint.commit(store, config.name, origin, step=last, images_seen=1, state=weights,
                      ema=weights, history=history_of_run)  # fmt: skip
    log(store, config, {"step": 100, "train/loss": 0.5, "train/step_s": 0.1})
    for _ in range(2):
        run_train(store, config)
        assert history(store, config, "train/loss") == [(100, 0.5), (last, 0.25)]
    assert the_run(store, config)[1].data.tags["ddpm.stage.train"] == "done"


def test_the_configuration_is_there_and_may_be_repeated(store, config):
    """Catches lost parameters, and a second attempt on more workers that MLflow refuses because
    parameters are written once."""
    log(store, config)
    wider = config.replaced({"compute.num_workers": 4})
    log(store, wider)
    _, run = the_run(store, config)
    assert set(run.data.params) == set(config.flat())
    assert run.data.params["model.channel_mults"] == json.dumps(
        config.flat()["model.channel_mults"]
    )
    assert run.data.params["data.name"] == "digits"
    assert run.data.params["compute.num_workers"] == str(config.compute.num_workers)
    changed = {key for key in run.data.tags if key.startswith("ddpm.changed.")}
    assert changed == {"ddpm.changed.compute.num_workers"}
    assert run.data.tags["ddpm.changed.compute.num_workers"] == "4"
    assert artifact(store, config, "run.json") == wider.to_json().encode()


def test_the_status_follows_the_stages(store, config):
    """Catches runs that end with the first stage, and failed ones that look finished."""
    log(store, config)
    assert the_run(store, config)[1].info.status == "RUNNING"
    with pytest.raises(ZeroDivisionError), open_quiet(store, config, "evaluate"):
        _ = 1 / 0
    _, run = the_run(store, config)
    assert (run.info.status, run.data.tags["ddpm.stage.evaluate"]) == ("FAILED", "failed")
    tracker = open_quiet(store, config, "evaluate")
    tracker.log_points([])
    tracker.set_tags({"note": "open again"})
    for _ in range(500):
        if "note" in the_run(store, config)[1].data.tags:
            break
        time.sleep(0.01)
    _, run = the_run(store, config)
    assert (run.info.status, run.data.tags["ddpm.stage.evaluate"]) == ("RUNNING", "running")
    assert tracker.close()
    _, run = the_run(store, config)
    assert (run.info.status, run.data.tags["ddpm.stage.evaluate"]) == ("FINISHED", "done")
    log(store, config, stage="sample")
    assert the_run(store, config)[1].info.status == "FINISHED"


def test_an_evaluation_repeated_adds_nothing(store, config, capsys):
    """Catches a second value at the same step, and a NaN stored as 0."""
    for _ in range(2):
        with open_quiet(store, config, "evaluate") as tracker:
            tracker.log_metrics({"fid": 12.5, "bits_per_dim": float("nan")}, step=3000)
            tracker.log_image_bytes("grid.png", b"a PNG")
            tracker.log_artifact_bytes("evaluation/metrics.json", b"{}")
    assert history(store, config, "fid") == [(3000, 12.5)]
    assert history(store, config, "bits_per_dim") == []
    assert "bits_per_dim: not finite" in capsys.readouterr().err
    assert artifact(store, config, "images/grid.png") == b"a PNG"
    assert artifact(store, config, "evaluation/metrics.json") == b"{}"


def test_the_data_set_is_an_input_once_it_is_there(store, config):
    """Catches an input for each attempt, a digest that MLflow refuses for its length, and a stage
    that fails because its data set is not made yet."""
    log(store, config, stage="shard")
    assert the_run(store, config)[1].inputs.dataset_inputs == []
    folder = layout.dataset_folder("digits", "ab" * 32)
    data = config.data.identity()
    body = {
        "data": data,
        "fingerprint": "ab" * 32,
        "shape": [1, 8, 8],
        "num_images": {"train": 1500, "test": 7},
    }
    manifest.commit(store, folder, {}, body, name=layout.DATASET_INDEX)
    pointer = {"dataset": folder, "fingerprint": "ab" * 32}
    store.write(layout.dataset_pointer_key(config.name), json.dumps(pointer).encode())
    log(store, config)
    log(store, config, stage="sample")
    (found,) = the_run(store, config)[1].inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "ab" * 18)
    assert json.loads(found.dataset.source) == {"uri": store.uri_of(folder)}
    assert json.loads(found.dataset.schema) == {"shape": [1, 8, 8], "dtype": "uint8"}
    assert json.loads(found.dataset.profile) == {"train": 1500, "test": 7}


def test_the_machine_is_measured(store, config):
    """Catches names under which MLflow's UI shows no system metrics, and a step that is refused
    or repeated in the second attempt."""
    for _ in range(2):
        with open_tracker(store, config, stage="train", machine_every_s=0.4):
            time.sleep(1.3)
    for key in ("cpu_utilization_percentage", "system_memory_usage_megabytes"):
        found = history(store, config, f"system/{key}")
        assert 0 < len(found) == len(dict(found))
        assert all(value >= 0 for _, value in found)


def test_an_interval_of_zero_is_refused(store, config):
    """Catches a sampler that never sleeps."""
    with pytest.raises(ConfigError, match="must be above 0"):
        open_tracker(store, config, stage="train", machine_every_s=0)


def test_the_database_appears_whole_and_where_it_belongs(store, config, tmp_path, monkeypatch):
    """Catches a database or files in the working folder, and one that a kill leaves half made:
    MLflow builds it in place, and then cannot open it."""
    monkeypatch.chdir(tmp_path)
    built = []
    create = type(store).create

    def spy(self, key, data):
        (tmp_path / "copy.db").write_bytes(data)
        with sqlite3.connect(tmp_path / "copy.db") as database:
            built.append(database.execute("SELECT version_num FROM alembic_version").fetchall())
        (tmp_path / "copy.db").unlink()
        return create(self, key, data)

    monkeypatch.setattr(type(store), "create", spy)
    fresh = open_store(str(tmp_path / "root"))
    with open_quiet(fresh, config) as tracker:
        tracker.log_artifact_bytes("a.txt", b"a")
    assert [len(versions) for versions in built] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [
        "mlartifacts",
        "mlflow.db",
    ]
    assert artifact(fresh, config, "a.txt") == b"a"


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.timeout(120)
def test_a_server_that_is_not_there_stops_nothing(store, config, monkeypatch, capsys):
    """Catches MLflow's own patience, 246 s for one call, and errors that reach the stage."""
    address = f"127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{address}")
    tracker = open_quiet(store, config)
    for step in range(1, 200):
        tracker.log_points([{"step": step, "loss": 0.1}])
    tracker.log_metrics({"fid": 1.0}, step=3)
    tracker.log_image_bytes("grid.png", b"a PNG")
    tracker.set_tags({"a": "b"})
    tracker.register_model(config, b"weights", step=3)
    assert not tracker.close(1)
    printed = capsys.readouterr().err
    assert "did not get the points of steps 1 to 199" in printed
    run_json = store.uri_of(layout.run_json_key(config.name))
    assert f"`python -m ddpm_core train {shlex.quote(run_json)}`" in printed
    assert "secret" not in printed
    assert len(printed.splitlines()) == 2


class _Reply(http.server.BaseHTTPRequestHandler):
    status = 500

    def do_POST(self):
        self.send_response(self.status)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.timeout(120)
@pytest.mark.parametrize("status", [403, 503])
def test_a_server_that_says_no_stops_nothing(store, config, monkeypatch, capsys, status):
    """Catches retries inside MLflow, and an error of another kind than a dead server's."""
    monkeypatch.setattr(_Reply, "status", status)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Reply)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    tracker = open_quiet(store, config)
    tracker.log_points([{"step": 1, "loss": 0.1}])
    assert not tracker.close(1)
    assert str(status) in capsys.readouterr().err
    server.shutdown()
    server.server_close()


def test_an_outage_of_the_database_leaves_no_gap(store, config, monkeypatch):
    """Catches points lost while another program holds the database, and repeated ones after."""
    monkeypatch.setattr(outbox, "_FIRST_WAIT_S", 0.05)
    log(store, config, {"step": 1, "loss": 1.0})
    lock = sqlite3.connect(store.local_path("mlflow.db"), isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    tracker = open_quiet(store, config)
    tracker.log_points([{"step": step, "loss": 1 / step} for step in (1, 2, 3)])
    assert not tracker.close(0.5)
    tracker = open_quiet(store, config)
    tracker.log_points([{"step": step, "loss": 1 / step} for step in (1, 2, 3, 4)])
    lock.execute("ROLLBACK")
    lock.close()
    assert tracker.close(60)
    assert history(store, config) == [(step, 1 / step) for step in (1, 2, 3, 4)]


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
    assert tracker.close()
    assert "MLflow: off; s3://bucket/prefix is no local root" in capsys.readouterr().err


@pytest.mark.parametrize(
    "uri",
    ["./mlruns", "mlruns", "file:///tmp/mlruns", "sqlite:///mlflow.db", "sqlite://", "ftp://x"],
)
def test_a_place_that_not_all_processes_share_is_refused(store, config, monkeypatch, uri):
    """Catches a file store that MLflow dropped, and one database for each working folder."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI=.*unset it"):
        open_quiet(store, config)


@pytest.mark.parametrize(
    "uri", ["http://mlflow:5000", "https://a/b", "postgresql+psycopg2://u:p@h/db", "databricks"]
)
def test_a_server_is_taken_as_it_is_named(store, monkeypatch, uri):
    """Catches a rule that refuses the servers that infra names."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    home = place.find_home(store)
    assert (home.uri, home.experiment, home.database) == (uri, "mine", None)
    assert (home.artifacts is not None) == uri.startswith("postgresql")


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
