import json
import sqlite3
import time
from contextlib import closing

import pytest
import torch

from ddpm_core.config import identity
from ddpm_core.errors import ConfigError
from ddpm_core.runs import layout
from ddpm_core.runs.dataset_names import give
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.store.commit import commit
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import (
    open_tracker,
)
from ddpm_core.tracking.opening import input_name
from ddpm_core.training.stage import run_train
from ddpm_core.training.storing import checkpoint
from tests.tracking.local import artifact, committed, history, log, open_quiet, the_run


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
    assert run.data.tags["ddpm.experiment"] == layout.experiment_fingerprint(config)
    assert run.data.tags["ddpm.stage.train"] == "done"


def test_what_a_kill_cut_off_is_sent_by_the_finished_training_run_again(store, config):
    """Catches the end of a curve that nobody sends, under other names, or all of it twice."""
    last = config.train.num_steps
    history_of_run = [{"step": 100.0, "loss": 0.5}, {"step": float(last), "loss": 0.25}]
    weights = {"model.x": torch.zeros(1)}
    origin = checkpoint.Origin(layout.experiment_fingerprint(config), "f")
    parts = checkpoint.write_parts(store, config.name, last, {"state": weights, "ema": weights})
    checkpoint.commit(store, config.name, origin, step=last, images_seen=1, written=parts,
                      history=history_of_run)  # fmt: skip
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


def test_an_evaluation_repeated_adds_nothing(store, config, capsys):
    """Catches a second value at the same step, and a NaN stored as 0."""
    result = committed(store, config, grid=b"a PNG", metrics=b"{}")
    for _ in range(2):
        with open_quiet(store, config, "evaluate") as tracker:
            tracker.log_metrics({"fid": 12.5, "bits_per_dim": float("nan")}, step=3000)
            tracker.log_image("grid.png", result, "grid")
            tracker.log_artifact("evaluation/metrics.json", result, "metrics")
    assert history(store, config, "fid") == [(3000, 12.5)]
    assert history(store, config, "bits_per_dim") == []
    assert "bits_per_dim: not finite" in capsys.readouterr().err
    assert artifact(store, config, "pictures/grid.png") == b"a PNG"
    assert artifact(store, config, "evaluation/metrics.json") == b"{}"


def test_a_number_that_was_measured_anew_is_shown(store, config):
    """Catches the number of a damaged evaluation that stays after it was made again."""
    for value in (12.5, 11.0, 11.0):
        with open_quiet(store, config, "evaluate") as tracker:
            tracker.log_metrics({"fid": value}, step=3000)
        time.sleep(0.002)  # MLflow tells them apart by milliseconds
    assert the_run(store, config)[1].data.metrics["fid"] == 11.0
    assert history(store, config, "fid") == [(3000, 12.5), (3000, 11.0)]


IMAGE = {"kind": "png", "dtype": "uint8", "shape": [["channels", 1], ["height", 8], ["width", 8]]}


def test_the_data_set_is_an_input_once_it_is_there(store, config):
    """Catches an input for each attempt, a digest that MLflow refuses for its length, and a stage
    that fails because its data set is not made yet."""
    log(store, config, stage="shard")
    assert the_run(store, config)[1].inputs.dataset_inputs == []
    folder = layout.dataset_folder("digits", "ab" * 32)
    data = identity.data(config.data)
    body = {
        "data": data,
        "fingerprint": "ab" * 32,
        "format_version": 3,
        "members": {"image": {**IMAGE, "mean": [0.5]}},
        "num_images": {"train": 1500, "test": 7},
    }
    commit(store, folder, {}, body, name=layout.DATASET_INDEX)
    pointer = {"dataset": folder, "fingerprint": "ab" * 32}
    store.write(layout.dataset_pointer_key(config.name), json.dumps(pointer).encode())
    give(store, "strokes", DatasetPointer(folder, "ab" * 32))
    log(store, config)
    log(store, config, stage="sample")
    (found,) = the_run(store, config)[1].inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("strokes", "ab" * 18)
    assert json.loads(found.dataset.source) == {"uri": store.uri_of(folder)}
    assert json.loads(found.dataset.schema) == {"image": IMAGE}
    assert json.loads(found.dataset.profile) == {"train": 1500, "test": 7}


def test_the_input_is_called_by_the_name_of_the_data_set(tmp_path, config):
    """Catches an input called as the recipe's images are; a name that changes by a later one."""
    store, folder = open_store(str(tmp_path / "root")), layout.dataset_folder("digits", "ab" * 32)
    index = commit(store, folder, {}, {"fingerprint": "ab" * 32}, name=layout.DATASET_INDEX)
    assert input_name(store, config, index) == "digits"
    for name in ("faces", "people"):
        give(store, name, DatasetPointer(folder, "ab" * 32))
        assert input_name(store, config, index) == "faces"
    assert input_name(store, config.replaced({"data.sets": "people"}), index) == "people"


def test_the_machine_is_measured(store, config):
    """Catches names under which MLflow's UI shows no system metrics, and a step that is refused
    or repeated in the second attempt."""
    for _ in range(2):
        with open_tracker(store, config, stage="train", machine_every_s=0.4) as tracker:
            tracker.begin()
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
        if key != "mlflow.db":
            return create(self, key, data)
        (tmp_path / "copy.db").write_bytes(data)
        with closing(sqlite3.connect(tmp_path / "copy.db")) as database:
            built.append(database.execute("SELECT version_num FROM alembic_version").fetchall())
        (tmp_path / "copy.db").unlink()
        return create(self, key, data)

    monkeypatch.setattr(type(store), "create", spy)
    fresh = open_store(str(tmp_path / "root"))
    with open_quiet(fresh, config) as tracker:
        tracker.set_tags({"a": "b"})
    assert [len(versions) for versions in built] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [
        "mlartifacts",
        "mlflow.db",
        "runs",
    ]
    assert artifact(fresh, config, "run.json") == config.to_json().encode()


def test_a_run_is_linked_to_what_it_began_from_and_goes_on_in_its_own(store, config):
    """Catches: a run without a way to its base, a description of a user's that is written over,
    and a longer training whose curve begins in another MLflow run."""
    log(store, config, {"step": 50, "loss": 0.5})
    _, source = the_run(store, config)
    begins = {"name": "next", "train.start_from": f"{config.name}@50:ema#0123456789abcdef"}
    begun = config.replaced(begins)
    for note in (None, "Begun from elsewhere", None, "mine"):
        if note is not None:
            client, run = the_run(store, begun)
            client.set_tag(run.info.run_id, "mlflow.note.content", note)
        log(store, begun, {"step": 50, "loss": 0.4})
        tags = the_run(store, begun)[1].data.tags
        assert tags["ddpm.from"] == begun.train.start_from
        assert tags["ddpm.from.run_id"] == source.info.run_id
        link = f"(#/experiments/{source.info.experiment_id}/runs/{source.info.run_id})"
        written = tags["mlflow.note.content"]
        assert (f"Begun from [{config.name}@50:ema]{link}" in written) == (note != "mine")
        assert ("python -m flows.train_ddpm digits --run next" in written) == (note != "mine")
    steps = config.train.num_steps
    segment = {"until": steps, "num_steps": steps, "learning_rate": config.train.learning_rate}
    longer = config.replaced({"train.num_steps": 2 * steps, "train.earlier": [segment]})
    log(store, longer, {"step": 50, "loss": 0.5}, {"step": 2 * steps, "loss": 0.3})
    _, run = the_run(store, config)
    assert history(store, config) == [(50, 0.5), (2 * steps, 0.3)]
    assert run.info.run_id == source.info.run_id
    assert run.data.tags["ddpm.went_on"] == (
        f"from step {steps} on train.num_steps: {steps} -> {2 * steps}"
    )


def test_ablations_are_shown_below_their_run(store, config):
    """Catches: six runs between all others, and a run that was never logged looked for."""
    ablation = config.replaced({"name": "below"})
    for one in (config, ablation):
        log(store, one, {"step": 1, "loss": 0.5})
    with open_quiet(store, config, "ablations") as tracker:
        tracker.adopt(["below", "never-logged"])
    _, parent = the_run(store, config)
    _, child = the_run(store, ablation)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags
    assert parent.data.tags["mlflow.user"]


def test_a_run_says_who_started_it(store, config, monkeypatch):
    """Catches: a run without a way to its flow and its job, one that keeps another's, and links
    below the first line, which MLflow's page covers until all is shown."""
    page = "http://127.0.0.1:4200/runs/flow-run/1"
    job = "http://ray-head:8265/#/jobs/digits-train-1"
    metadata = {"job_submission_id": "digits-train-1", "ddpm.flow_page": page}
    metadata["ddpm.job_page"] = job
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    log(store, config, {"step": 1, "loss": 0.5})
    tags = the_run(store, config)[1].data.tags
    assert tags["ddpm.flow_page"] == page
    assert tags["ddpm.ray_job"] == "digits-train-1"
    first = tags["mlflow.note.content"].partition("\n")[0]
    assert first.endswith(f"M parameters. [Its flow in Prefect]({page}). [Its job at Ray]({job}).")
    assert tags["ddpm.job_page"] == job
