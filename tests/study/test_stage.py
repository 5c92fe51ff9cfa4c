"""The study stage from units to figures, without Ray."""

import json
import shutil
from typing import NamedTuple

import pytest

from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.runs import layout, results
from ddpm_core.sampling.stage import run_sample
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.storage import open_store
from ddpm_core.study import stage, worker
from ddpm_core.study.units import Unit, units_of, uses_network
from ddpm_core.units.units import manifest_name
from tests.sampling.one_class import commit_one_class
from tests.sampling.tiny import RecordingTracker, record_tracking, run_in_process
from tests.study.small import study_config

PNG = b"\x89PNG\r\n\x1a\n"
PICTURES = {
    "coding-figure",
    "decoding-sheet",
    "progress-figure",
    "samplers-figure",
    "samplers-sheet",
    "memorisation-pixels-figure",
    "memorisation-features-figure",
    "neighbours-pixels-sheet",
    "neighbours-features-sheet",
    "generation-sheet",
    "latents-sheet",
    "mixes-sheet",
    "depths-sheet",
    "round-trip-sheet",
}
CHEAP = ("decoding", "latents", "mixes", "depths", "bound", "neighbours", "features")


class Studied(NamedTuple):
    """A study from beginning to end."""

    root: str
    numbers: dict
    units: list[Unit]
    tracker: RecordingTracker


@pytest.fixture(scope="session")
def whole(_sampled_root, tmp_path_factory) -> Studied:
    """Give a finished study, made once."""
    root = tmp_path_factory.mktemp("studied") / "root"
    shutil.copytree(_sampled_root, root)
    with pytest.MonkeyPatch.context() as patch:
        here, tracker = run_in_process(patch), record_tracking(patch)
        numbers = stage.run_study(open_store(str(root)), study_config())
    return Studied(str(root), numbers, here.units, tracker)


@pytest.fixture
def studied(whole, store):
    """Give a store with a finished study, and the configuration."""
    shutil.copytree(whole.root, store.uri)
    return store, study_config()


def files_of(store, folder) -> dict[str, bytes]:
    return {name: store.read(f"{folder}/{name}") for name in store.names(folder)}


def units_in(store, config) -> list[Unit]:
    num = Inputs.of(store, config).index.num_images
    return units_of(config, num["train"], num["test"])


def lose(store, config, lost) -> None:
    """Let these units, and what was made of all, never have been."""
    folder = results.study_of(store, config).folder
    kept = tuple(unit.name for unit in units_in(store, config) if unit not in lost)
    for name in store.names(folder):
        if not name.startswith(kept):
            store.delete(f"{folder}/{name}")


# -- the whole -------------------------------------------------------------------------------------


def test_a_study_measures_draws_and_keeps_what_it_found(whole):
    """Catches: a figure that is lost on the way, numbers that are shown and not kept."""
    store, config = open_store(whole.root), study_config()
    committed = results.study_of(store, config)
    assert set(committed.files) == PICTURES | {"numbers", "coding-table"}
    for role in PICTURES:
        assert committed.read(store, role).startswith(PNG)
    assert json.loads(committed.read(store, "numbers")) == whole.numbers
    assert committed.read(store, "coding-table").decode().startswith("# Progressive coding of dig")
    assert whole.units == units_in(store, config)
    inputs = Inputs.of(store, config)
    protocol = whole.numbers["protocol"]
    assert {key: protocol[key] for key in inputs.weights} == inputs.weights
    assert protocol["features"]["kind"] == "trained"
    assert protocol["num_images"] == {"train": 1500, "test": 297}
    assert len(whole.numbers["quality"]["samplers"]) == 10
    assert committed.body["summary"] == stage.summary(whole.numbers)
    assert "bits/dim" in committed.body["summary"]


def test_mlflow_gets_all_of_it(whole):
    """Catches: curves, figures or tables that stay behind."""
    tracker, numbers = whole.tracker, whole.numbers
    files = {f"pictures/study/{role}.png" for role in PICTURES}
    others = {"study/numbers.json", "study/coding-table.md", "report.html"}
    assert set(tracker.files) == files | others
    assert json.loads(tracker.files["study/numbers.json"]) == numbers
    bits = numbers["bits_per_dim"]["test"]["value"]
    assert tracker.metrics["study/bits_per_dim_test/value@0"] == bits
    heun = next(one for one in numbers["quality"]["samplers"] if one["sampler"] == "heun-churn")
    assert tracker.metrics["study/frechet_distance/heun-churn@9"] == heun["frechet_distance"]
    assert "study/progress/frechet_distance@21" in tracker.metrics
    store = open_store(whole.root)
    folder = results.study_of(store, study_config()).folder
    assert tracker.tags == {"ddpm.study_uri": store.uri_of(folder)}
    assert tracker.failed is False


def test_the_best_sampler_is_the_nearest():
    """Catches: the farthest, or the first, called best; a summary that fails without samplers."""
    bits = {split: {"value": value} for split, value in (("train", 3.5), ("test", 3.75))}
    samplers = [
        {"setting": f"s-{place}", "frechet_distance": distance}
        for place, distance in enumerate((9.0, 4.0, 7.0))
    ]
    quality = {"samplers": samplers, "floor": 1.5}
    told = stage.summary({"bits_per_dim": bits, "quality": quality})
    assert told == (
        "bits/dim 3.500 train, 3.750 held out; best of 3 samplers s-1 (4.00, floor 1.50)"
    )
    quality["samplers"] = []
    assert stage.summary({"bits_per_dim": bits, "quality": quality}).endswith("held out")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, which cost more than the units of so small a study."""
    monkeypatch.setattr(stage, "drawings_of", lambda *_: {})


def found_in(store, folder) -> dict[str, bytes]:
    """Return the files of the units, and the numbers."""
    every = files_of(store, folder)
    left_out = (*PICTURES, "coding-table", "manifest.json")
    return {name: data for name, data in every.items() if not name.startswith(left_out)}


# -- again -----------------------------------------------------------------------------------------


def test_a_finished_study_is_recognised_and_logged_again(
    whole, studied, in_process, recording_tracker, capsys
):
    """Catches: hours of work done twice, or MLflow left without what it missed."""
    assert stage.run_study(*studied) == whole.numbers
    assert in_process.units == []
    assert recording_tracker.metrics == whole.tracker.metrics
    logged = [dict(one.files) for one in (recording_tracker, whole.tracker)]
    pages = [one.pop("report.html") for one in logged]  # say where the run lies
    assert len(pages[0]) > 100_000
    assert logged[0] == logged[1]
    assert "done already" in capsys.readouterr().out


@pytest.mark.usefixtures("recording_tracker", "undrawn")
def test_a_lost_unit_alone_is_worked_on_again(studied, in_process):
    """Catches: a study that begins anew, or one that goes on without."""
    store, config = studied
    folder = results.study_of(store, config).folder
    before = found_in(store, folder)
    lost = [unit for unit in units_in(store, config) if unit.name == "decoding-test-000000"]
    lose(store, config, lost)
    assert results.study_of(store, config) is None
    stage.run_study(store, config)
    assert in_process.units == lost
    assert found_in(store, folder) == before


@pytest.mark.usefixtures("recording_tracker")
@pytest.mark.parametrize("role", ["numbers", "latents-sheet"])
def test_a_damaged_figure_is_drawn_again_of_the_units_that_are_there(studied, in_process, role):
    """Catches: a broken file that is served for ever, or work for the sake of a picture."""
    store, config = studied
    committed = results.study_of(store, config)
    before = files_of(store, committed.folder)
    store.write(f"{committed.folder}/{committed.files[role].name}", b"broken")
    stage.run_study(store, config)
    assert in_process.units == []
    assert files_of(store, committed.folder) == before


@pytest.mark.usefixtures("recording_tracker", "undrawn", "in_process")
def test_a_damaged_study_can_be_replaced_by_one_that_is_drawn_otherwise(studied):
    """Catches: a conflict with what is broken, after another version of what draws."""
    store, config = studied
    committed = results.study_of(store, config)
    store.delete(f"{committed.folder}/{committed.files['numbers'].name}")
    numbers = stage.run_study(store, config)
    committed = results.study_of(store, config)
    assert set(committed.files) == {"numbers"}
    assert json.loads(committed.read(store, "numbers")) == numbers


@pytest.mark.usefixtures("recording_tracker", "undrawn")
def test_what_was_finished_when_it_was_killed_is_kept(studied, in_process, monkeypatch, capsys):
    """Catches: units that count only when all are there, a rest that differs from a whole."""
    store, config = studied
    folder = results.study_of(store, config).folder
    before = found_in(store, folder)
    lost = [unit for unit in units_in(store, config) if unit.kind in ("latents", "depths", "mixes")]
    assert len(lost) == 3
    lose(store, config, lost)
    work, done = worker.work, []

    def killed(context, unit):
        if done:
            raise RuntimeError("killed")
        done.append(unit)
        return work(context, unit)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "work", killed)
        with pytest.raises(RuntimeError, match="killed"):
            stage.run_study(store, config)
    assert in_process.units == done == lost[:1]
    total = len(units_in(store, config))
    assert f"study  {total - 3}/{total} units" in capsys.readouterr().out.splitlines()
    stage.run_study(store, config)
    assert in_process.units == lost
    out = capsys.readouterr().out.splitlines()
    assert f"study  {total - 2}/{total} units" in out
    assert f"study  {total}/{total} units  {lost[-1].kind} {lost[-1].part}" in out
    assert found_in(store, folder) == before


@pytest.mark.usefixtures("recording_tracker", "undrawn")
def test_the_order_in_which_units_are_finished_does_not_show(studied, in_process):
    """Catches: sums in the order of arrival, units that lean on those before."""
    store, config = studied
    folder = results.study_of(store, config).folder
    before = found_in(store, folder)
    lost = [unit for unit in units_in(store, config) if unit.kind in CHEAP or "ddim" in unit.part]
    lose(store, config, lost)
    in_process.reverse = True
    stage.run_study(store, config)
    assert in_process.units == lost[::-1]
    assert found_in(store, folder) == before


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_another_study_of_the_run_lies_beside_the_first(studied, monkeypatch):
    """Catches: "done already" over the numbers of another seed."""
    store, config = studied
    first = results.study_of(store, config)

    def asked(*_):
        raise RuntimeError("asked")

    monkeypatch.setattr(stage, "_measure", asked)
    with pytest.raises(RuntimeError, match="asked"):
        stage.run_study(store, config.replaced({"study.seed": 8}))
    more_ablations = config.replaced({"study.ablation_steps": 3})
    assert stage.run_study(store, more_ablations)
    assert results.study_of(store, config) == first


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_what_is_missing_is_named(trained):
    """Catches: a study of nothing, or a traceback."""
    store, _ = trained
    config = study_config()
    with pytest.raises(DataError, match="no complete samples; run the sample stage first"):
        stage.run_study(store, config)
    with pytest.raises(CheckpointError, match="run the train stage first"):
        stage.run_study(store, study_config(name="other"))
    store.delete(layout.dataset_pointer_key("tiny"))
    with pytest.raises(DataError, match="no complete data set; run the shard stage first"):
        stage.run_study(store, config)


@pytest.mark.gpu
def test_the_whole_study_runs_on_a_gpu(sampled, in_process, recording_tracker, gpu):
    """Catches a unit whose tensors lie on two devices, or are given to numpy from the GPU."""
    in_process.device = gpu
    store, _ = sampled
    config = study_config()
    stage.run_study(store, config)
    assert {unit.kind for unit in in_process.units} == {u.kind for u in units_in(store, config)}
    assert set(results.study_of(store, config).files) >= PICTURES


# -- the feature network ---------------------------------------------------------------------------


@pytest.mark.usefixtures("recording_tracker", "undrawn")
def test_units_of_another_feature_network_are_worked_on_again(studied, in_process, monkeypatch):
    """Catches: a study of two networks, one of which was trained on another device half way; units
    that no network has a part in, worked on again for nothing."""
    store, config = studied
    of_network = [unit for unit in units_in(store, config) if uses_network(unit)]
    kinds = {(unit.kind, unit.part) for unit in of_network}
    assert {kind for kind, _ in kinds} == {"sweep", "progress", "features", "neighbours"}
    assert ("neighbours", "pixels") not in kinds
    lose(store, config, [])
    recipe = Inputs.of(store, config).recipe
    kept = manifest.load(store, recipe.folder, Expected({}))
    data = bytearray(kept.read(store, "network"))
    data[-1] ^= 1  # the last bit of a weight, as another device rounds it
    files = {"network": write_file(store, recipe.folder, "network", ".safetensors", bytes(data))}
    store.delete(f"{recipe.folder}/manifest.json")
    commit(store, recipe.folder, files, kept.body)
    asked = []
    monkeypatch.setattr(worker, "work", lambda _, unit: asked.append(unit) or {})
    with pytest.raises(KeyError):  # of units that found nothing
        stage.run_study(store, config)
    assert asked == in_process.units == of_network


MADE_WITH = ("network_sha256", "samples_sha256")


@pytest.mark.usefixtures("recording_tracker", "undrawn")
def test_units_of_the_version_before_go_on(studied, in_process):
    """Catches: a study of an earlier version, which did not say which network, begun anew."""
    store, config = studied
    folder = results.study_of(store, config).folder
    lose(store, config, [])
    said = 0
    for unit in units_in(store, config):
        name = manifest_name(unit)
        found = manifest.load(store, folder, Expected({}), name=name)
        body = {key: value for key, value in found.body.items() if key not in MADE_WITH}
        said += body != found.body
        assert (body != found.body) == (uses_network(unit) or unit.kind == "neighbours")
        store.delete(f"{folder}/{name}")
        commit(store, folder, found.files, body, name=name)
    assert said
    stage.run_study(store, config)
    assert in_process.units == []


# -- images of one class ---------------------------------------------------------------------------


def test_a_study_of_one_class_has_everything_but_distances(
    store, tmp_path, in_process, recording_tracker
):
    """Catches: a refusal at the end of a long pipeline; features of random weights, and figures of
    distances between them; the figures that need none, left out too."""
    config = commit_one_class(store, tmp_path / "photos")
    run_sample(store, config)
    in_process.units.clear()
    numbers = stage.run_study(store, config)
    assert not [unit for unit in in_process.units if "features" in (unit.kind, unit.part)]
    quality = numbers["quality"]
    assert quality["floor"] is quality["held_out_inception_score"] is None
    assert quality["progress"] == []
    assert {one["frechet_distance"] for one in quality["samplers"]} == {None}
    assert {one["evaluations"] for one in quality["samplers"]} > {5}
    assert set(numbers["memorisation"]) == {"pixels"}
    assert numbers["protocol"]["num_images"] == {"train": 30, "test": 10}
    assert "one class" in numbers["protocol"]["features"]["reason"]
    assert "no Frechet distance: the training images are of one class" in stage.summary(numbers)
    without = {
        "progress-figure", "samplers-figure", "memorisation-features-figure",
        "neighbours-features-sheet",
    }  # fmt: skip
    committed = results.study_of(store, config)
    assert set(committed.files) == (PICTURES - without) | {"numbers", "coding-table"}
    assert not [name for name in recording_tracker.metrics if "frechet" in name]
