"""MLflow in a root of this machine, and how tests look into it."""

import socket
import time
from pathlib import Path

from ddpm_core.runs import layout
from ddpm_core.store import manifest
from ddpm_core.store.storage import sha256_of
from ddpm_core.tracking import (
    open_tracker,
    tracking_uri,
)
from tests.quiet_mlflow import mlflow


def open_quiet(store, config, stage="train"):
    return open_tracker(store, config, stage=stage, machine_every_s=None)


def log(store, config, *points, stage="train"):
    with open_quiet(store, config, stage) as tracker:
        tracker.begin()
        tracker.log_points(points)


def runs_of(store, config):
    """Return the client and the runs whose names begin with the configuration's, oldest first."""
    client = mlflow.MlflowClient(tracking_uri(store))
    experiment = client.get_experiment_by_name("ddpm")
    if experiment is None:
        return client, []
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return client, [run for run in found if run.info.run_name.split(" ")[0] == config.name]


def the_run(store, config):
    client, (run,) = runs_of(store, config)
    return client, run


def committed(store, config, **files):
    """Return a committed result with these files, e.g. grid=b"..."."""
    name = sha256_of(b"|".join(files.values()))[:16]
    folder = f"{layout.run_folder(config.name)}/results/{name}"
    records = {
        role: manifest.write_file(store, folder, role, ".bin", data) for role, data in files.items()
    }
    return manifest.commit(store, folder, records, {})


def history(store, config, key="loss"):
    client, run = the_run(store, config)
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, key)]


def artifact(store, config, path):
    client, run = the_run(store, config)
    return Path(client.download_artifacts(run.info.run_id, path)).read_bytes()


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def status_of(store, config, stage):
    _, run = the_run(store, config)
    return run.info.status, run.data.tags.get(f"ddpm.stage.{stage}")


def wait_for_words(words, capsys):
    """Return what was printed to stderr until it has these words."""
    printed = []

    def is_there():
        printed.append(capsys.readouterr().err)
        return words in "".join(printed)

    wait_for(is_there)
    return "".join(printed)
