"""A run that a version before made, with fingerprints that counted housekeeping, goes on.

Its bytes are committed (`run.tar.gz`, by `make`), so that nothing here rests on how this machine
rounds.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from ddpm_core import cluster
from ddpm_core.errors import CheckpointError, RunConflictError
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.runs import begun, layout, places, results
from ddpm_core.runs.run import begin_stage, check_run
from ddpm_core.runs.stages import STAGES
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.collection_worker import ScanTask
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.study.ablations import ablation_runs
from ddpm_core.study.stage import run_study
from ddpm_core.tracking.identity import changes_of, identify
from ddpm_core.training import stage as training
from ddpm_core.training import worker
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.verifying import verify
from tests.config.grown import as_grown, grown
from tests.format_1.make import NAME, old_config
from tests.sampling.tiny import RecordingTracker, record_tracking, run_in_process

RUN = f"runs/{NAME}"
OTHER_HOUSEKEEPING = {
    "train.log_every": 1,
    "train.checkpoint_every": 3,
    "train.keep_checkpoints": 9,
    "sample.num_grid_images": 3,
    "sample.num_strip_images": 1,
}


@pytest.fixture
def images(tmp_path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def store(tmp_path):
    with tarfile.open(Path(__file__).with_name("run.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def here(monkeypatch):
    """Let the stages work in this process; `units` lists what was worked on."""
    record_tracking(monkeypatch)
    for module in (worker, training):
        monkeypatch.setattr(module, "open_tracker", lambda *_args, **_more: RecordingTracker())
    return run_in_process(monkeypatch)


def files_of(store) -> dict[str, bytes]:
    """Return what lies in the root, but for the note of what was said."""
    root = store.local_path("")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "begun.json"
    }


def run_all(store, config) -> None:
    begin_stage(store, config)
    run_shard(store, config)
    training.run_train(store, config)
    run_sample(store, config)
    run_evaluate(store, config)
    run_study(store, config)


@pytest.mark.parametrize("changes", [{}, OTHER_HOUSEKEEPING], ids=["same", "other housekeeping"])
def test_what_is_done_is_done_already(changes, store, images, here):
    """Catches: a finished run that is trained, drawn or measured again, beside its results.

    With other housekeeping than the run was begun with, its fingerprint of then is that of its
    run.json, and not of what is given now.
    """
    config, before = old_config(images, **changes), files_of(store)
    assert check_run(store, config)
    assert all(STAGES[stage].result(store, config) is not None for stage in STAGES)
    run_all(store, config)
    assert here.units == []
    assert files_of(store) == before


def test_it_is_found_though_its_run_json_was_edited(store, images):
    """Catches: a training of days that is refused, with the advice to delete its checkpoints, since
    somebody changed in the file how often it logs; and samples that are drawn again."""
    config = old_config(images, **OTHER_HOUSEKEEPING)
    store.write(f"{RUN}/run.json", config.to_json().encode())
    assert all(STAGES[stage].result(store, config) is not None for stage in STAGES)


def test_it_is_whole_for_verify(store):
    """Catches: a checkpoint or a result of before that counts as another's."""
    report = verify.verify(NAME, root=store.uri)
    assert (report.problems, report.unfinished, report.unnamed) == ([], [], [])
    assert sum("checkpoint of step" in line for line in report.looked_at) == 3
    assert len(report.looked_at) == 8  # the data set, three checkpoints, four results


def test_it_is_done_for_a_version_with_more_keys(store, images, here, monkeypatch):
    """Catches: a new key with a default that is another experiment, or in an `Expected`."""
    config, before = as_grown(old_config(images)), files_of(store)
    monkeypatch.setattr(begun, "RunConfig", grown())
    assert check_run(store, config)
    assert all(STAGES[stage].result(store, config) is not None for stage in STAGES)
    run_all(store, config)
    assert here.units == []
    assert files_of(store) == before
    assert changes_of(store, config, "study") == {}


def test_a_run_json_that_was_changed_by_hand_says_no_key_that_is_newer(store, monkeypatch, caplog):
    """Catches: a line for every new key of the version, which nobody has changed."""
    monkeypatch.setattr(begun, "RunConfig", grown())
    key = layout.run_json_key(NAME)
    values = json.loads(store.read(key))
    values["sample"]["seed"] = 3
    store.write(key, json.dumps(values).encode())
    begun.report_changes(store, NAME)
    assert "sample.seed: 0 -> 3" in caplog.text
    assert "new_key" not in caplog.text


@pytest.mark.parametrize("changes", [{}, OTHER_HOUSEKEEPING], ids=["same", "other housekeeping"])
def test_its_training_goes_on_from_its_checkpoint(changes, store, images, here, monkeypatch):
    """Catches: a training that is refused, or begun anew, over checkpoints of the version before;
    and one whose checkpoints are of two experiments."""
    config = old_config(images, **changes)
    last = json.loads(store.read(f"{RUN}/checkpoints/step_00000006/manifest.json"))["body"]
    shutil.rmtree(store.local_path(f"{RUN}/checkpoints/step_00000006"))
    steps, true_step = [], Denoising.step

    def step(self, number, *batch):
        steps.append(number)
        true_step(self, number, *batch)

    monkeypatch.setattr(Denoising, "step", step)
    worker.train_rank(store, config, cluster.Place(0, 1, torch.device("cpu")))
    assert steps == [4, 5]
    assert results.final_checkpoint(store, config).body == last


def test_samples_that_lack_a_unit_are_completed_where_they_are(store, images, here):
    """Catches: all units drawn again at the present place; a whole with another fingerprint."""
    config = old_config(images, **OTHER_HOUSEKEEPING)
    before = results.samples_of(store, config)
    for name in ("manifest.json", "000001.json"):
        store.delete(f"{before.folder}/{name}")
    assert results.samples_of(store, config) is None
    assert run_sample(store, config) == before.folder
    assert [unit.number for unit in here.units] == [1]
    assert results.samples_of(store, config).body["fingerprint"] == before.body["fingerprint"]
    assert store.names(f"{RUN}/samples") == [before.folder.rpartition("/")[2]]


def test_a_study_that_lacks_a_unit_is_completed_where_it_is(store, images, here):
    """Catches: a study of hours that is begun anew."""
    config = old_config(images)
    before = results.study_of(store, config)
    for name in ("manifest.json", "decoding-test-000000.json"):
        store.delete(f"{before.folder}/{name}")
    run_study(store, config)
    assert [unit.kind for unit in here.units] == ["decoding"]
    assert results.study_of(store, config).folder == before.folder


def test_what_is_drawn_in_another_way_lies_at_the_present_place(store, images):
    """Catches: a rule of before that goes on counting housekeeping in what is new."""
    config = old_config(images, **{"sample.seed": 5})
    weights = results.weights_of(store, config)
    place = places.samples(store, config, weights)
    ema = weights.sha256
    assert place.folder == layout.samples_folder(NAME, layout.sample_set_fingerprint(config, ema))
    more = config.replaced({"sample.num_grid_images": 2})
    assert places.samples(store, more, weights) == place


def test_what_lies_at_the_present_place_comes_first(store, images):
    """Catches: results of before that hide those of now."""
    config = old_config(images)
    before = places.ablations(store, config)
    now = layout.ablations_folder(NAME, layout.ablations_fingerprint(config))
    assert before.folder != now
    store.write(f"{now}/table.md", b"of an attempt that was killed")
    assert places.ablations(store, config).folder == now


def test_a_new_run_uses_its_data_set(store, images, here):
    """Catches: a data set that is made again, and kept twice."""
    config = old_config(images).replaced({"name": "new"})
    before = files_of(store)
    run_shard(store, config)
    assert results.dataset_pointer(store, "new") == results.dataset_pointer(store, NAME)
    changed = {key for key, data in files_of(store).items() if before.get(key) != data}
    changed -= {key for key in changed if key.startswith("ledgers/")}
    # It had no name, since that version gave none: it gets one beside it, and stays as it is.
    name = "datasets/names/new/000001.json"
    assert changed == {"runs/new/run.json", "runs/new/dataset.json", name}
    assert {type(unit) for unit in here.units} == {ScanTask}  # the source is read, nothing is made


def test_another_experiment_is_refused_as_before(store, images):
    """Catches: a way to the earlier fingerprints on which everything passes."""
    config = old_config(images, **{"train.seed": 1})
    with pytest.raises(RunConflictError, match=r"train\.seed: 0 -> 1"):
        check_run(store, config)
    with pytest.raises(CheckpointError, match="another experiment"):
        results.final_checkpoint(store, config)
    for run in ablation_runs(old_config(images)).values():
        assert results.final_checkpoint(store, run) is None


def test_its_mlflow_run_is_the_one_that_it_had(store, images):
    """Catches: a second MLflow run, beside the one whose tag says the earlier fingerprint."""
    body = json.loads(store.read(f"{RUN}/checkpoints/step_00000006/manifest.json"))["body"]
    assert identify(store, old_config(images), {}).experiment == body["experiment"]
    assert changes_of(store, old_config(images, **OTHER_HOUSEKEEPING), "sample") == {}
    assert changes_of(store, old_config(images, **{"sample.seed": 5}), "sample")
