"""An evaluation that was killed goes on with the units that are missing, and ends in the same."""

import re

import pytest

from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.evaluation import stage
from ddpm_core.evaluation.features.kept import kept_network
from ddpm_core.evaluation.measuring import worker
from ddpm_core.evaluation.measuring.context import EvaluationContext, payload_of
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.evaluation.measuring.worker import units_of
from ddpm_core.progress import parse
from ddpm_core.runs import layout, results
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.units.units import manifest_name
from ddpm_core.verifying.verify import verify
from tests.sampling.tiny import cpu

pytestmark = pytest.mark.usefixtures("recording_tracker")
UNIT_FILE = re.compile(r"(bound|features)-[a-z]+-\d{6}[-.].*")


def files_of(store, folder) -> dict[str, bytes]:
    return {name: store.read(f"{folder}/{name}") for name in store.names(folder)}


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the figures, which cost more than the units of so small an evaluation."""
    for name in ("likelihood_figure", "rate_distortion_figure", "loss_figure", "comparison_figure"):
        monkeypatch.setattr(stage.figures, name, lambda *_, **__: b"")


def found_in(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of the units, and the numbers."""
    return {
        name: data
        for name, data in files.items()
        if UNIT_FILE.fullmatch(name) or name.startswith(("metrics-", "likelihood-"))
        if not name.endswith(".png")
    }


def units_in(store, config):
    inputs = Inputs.of(store, config)
    return units_of(config, inputs.num_train, inputs.num_test)


def unfinish(store, config, lost=()) -> tuple[str, dict[str, bytes]]:
    """Let the whole and these units never have been; return the folder and what was in it."""
    folder = results.evaluation_of(store, config).folder
    before = files_of(store, folder)
    gone = tuple(unit.name for unit in lost)
    for name in before:
        if not UNIT_FILE.fullmatch(name) or (gone and name.startswith(gone)):
            store.delete(f"{folder}/{name}")
    return folder, before


def record_of(store, folder, unit):
    (record,) = manifest.load(store, folder, Expected({}), name=manifest_name(unit)).files.values()
    return record


def test_what_was_measured_when_it_was_killed_is_kept(sampled, evaluated_bytes, monkeypatch, capsys,
                                                      in_process):  # fmt: skip
    """Catches: units that count only when all are there, a rest that differs from a whole; an
    evaluation that measures everything after each kill."""
    store, config = sampled
    measure, done = worker.work, []

    def killed(context, unit):
        if len(done) % 4 == 3:
            done.append(None)
            raise RuntimeError("killed")
        done.append(unit)
        return measure(context, unit)

    monkeypatch.setattr(worker, "work", killed)
    for kept in (0, 3):
        with pytest.raises(RuntimeError, match="killed"):
            stage.run_evaluate(store, config)
        assert f"evaluate  {kept}/9 units" in capsys.readouterr().out.splitlines()
    assert results.evaluation_of(store, config) is None
    stage.run_evaluate(store, config)
    assert "evaluate  6/9 units" in capsys.readouterr().out.splitlines()
    worked = [unit for unit in done if unit is not None]
    assert worked == in_process.units == units_in(store, config), "each once"
    assert files_of(store, results.evaluation_of(store, config).folder) == evaluated_bytes


@pytest.fixture
def evaluated_bytes(_evaluated_root) -> dict[str, bytes]:
    """Give the files of an evaluation that nothing happened to."""
    (folder,) = (_evaluated_root / "runs/tiny/evaluation").iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figures_alone_are_made_of_units_that_are_there(evaluated, in_process):
    """Catches: numbers that are other ones where they are made of files."""
    store, config = evaluated
    folder, before = unfinish(store, config)
    stage.run_evaluate(store, config)
    assert in_process.units == []
    assert files_of(store, folder) == before


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("way", ["flipped", "gone", "swapped", "manifest"])
def test_a_damaged_unit_is_set_aside_and_measured_again(evaluated, in_process, caplog, way):
    """Catches: numbers of broken or exchanged files, and a broken file that nothing mends."""
    store, config = evaluated
    bound, other, *_ = units_in(store, config)
    folder, before = unfinish(store, config)
    keys = [f"{folder}/{manifest_name(unit)}" for unit in (bound, other)]
    struck, key = [bound], f"{folder}/{record_of(store, folder, bound).name}"
    match way:
        case "flipped":
            store.write(key, store.read(key)[:-1] + b"x")
        case "gone":
            store.delete(key)
        case "manifest":
            store.write(keys[0], b"{}")
        case "swapped":
            struck, contents = [bound, other], [store.read(one) for one in keys]
            for one, content in zip(keys, reversed(contents), strict=True):
                store.write(one, content)
    stage.run_evaluate(store, config)
    assert in_process.units == struck
    assert all(f"quarantined {store.uri_of(folder)}/{unit.name}" in caplog.text for unit in struck)
    assert found_in(files_of(store, folder)) == found_in(before)


@pytest.mark.usefixtures("undrawn")
def test_samples_that_were_drawn_again_are_measured_again(evaluated, in_process, monkeypatch):
    """Catches: a distance of images that are not there any more, because a unit of them was damaged
    and drawn again by another kind of device while the evaluation was not finished."""
    store, config = evaluated
    unfinish(store, config)
    for module in ("sampling.units", "evaluation.measuring.measure"):
        monkeypatch.setattr(f"ddpm_core.{module}.bytes_of", lambda *_: {"samples_sha256": "other"})
    stage.run_evaluate(store, config)
    of_samples = [unit for unit in units_in(store, config) if unit.part == "samples"]
    assert of_samples
    assert in_process.units == of_samples


def test_a_damaged_unit_of_a_finished_evaluation_is_set_aside(evaluated, in_process):
    """Catches: a dead end, where verify finds damage and the stage is done already; and a distance
    measured again for the sake of a file that nothing rests on any more."""
    store, config = evaluated
    found = results.evaluation_of(store, config)
    unit = units_in(store, config)[-1]
    key = f"{found.folder}/{record_of(store, found.folder, unit).name}"
    good = store.read(key)
    store.write(key, good[:-1] + b"x")
    store.write(layout.run_json_key(config.name), config.to_json().encode())
    with pytest.raises(DataError, match=r"(?s)wrong.*features-samples-000012"):
        verify(config.name, root=store.uri)
    stage.run_evaluate(store, config)
    assert in_process.units == []
    assert results.evaluation_of(store, config) == found
    assert verify(config.name, root=store.uri).unnamed == [store.uri_of(key)]


def test_an_evaluation_of_an_earlier_version_needs_no_units(evaluated, in_process):
    """Catches: a finished evaluation measured again because its units were never published."""
    store, config = evaluated
    found = results.evaluation_of(store, config)
    for name in store.names(found.folder):
        if UNIT_FILE.fullmatch(name):
            store.delete(f"{found.folder}/{name}")
    stage.run_evaluate(store, config)
    assert in_process.units == []
    assert results.evaluation_of(store, config) == found
    store.write(layout.run_json_key(config.name), config.to_json().encode())
    report = verify(config.name, root=store.uri)
    assert (report.problems, report.unnamed) == ([], [])


@pytest.mark.usefixtures("undrawn")
def test_units_of_another_feature_network_are_measured_again(evaluated, in_process, caplog):
    """Catches: a distance between features of two networks, after the one that is kept was
    trained again on another device; a bound measured again that no network has a part in."""
    store, config = evaluated
    recipe = Inputs.of(store, config).recipe
    kept = manifest.load(store, recipe.folder, Expected({}))
    unfinish(store, config)
    data = bytearray(kept.read(store, "network"))
    data[-1] ^= 1  # the last bit of a weight, as another device rounds it
    replace_network(store, kept, bytes(data))
    stage.run_evaluate(store, config)
    assert {unit.kind for unit in in_process.units} == {"features"}
    assert len(in_process.units) == 6
    assert "network_sha256 is" in caplog.text
    in_process.units.clear()
    unfinish(store, config)
    stage.run_evaluate(store, config)
    assert in_process.units == []


def replace_network(store, kept, data: bytes) -> None:
    files = {"network": write_file(store, kept.folder, "network", ".safetensors", data)}
    store.delete(f"{kept.folder}/manifest.json")
    commit(store, kept.folder, files, kept.body)


@pytest.mark.usefixtures("undrawn")
def test_a_lost_network_that_is_the_same_again_costs_no_unit(evaluated, in_process, monkeypatch):
    """Catches: hours of features taken again, because what took them had to be made once more."""
    store, config = evaluated
    recipe = Inputs.of(store, config).recipe
    folder, before = unfinish(store, config)
    before_network = kept_network(store, recipe)
    store.delete(f"{recipe.folder}/manifest.json")
    monkeypatch.setattr(worker, "work", lambda _context, unit: pytest.fail(f"{unit} was measured"))
    stage.run_evaluate(store, config)
    assert {unit.kind for unit in in_process.units} == {"features"}, "looked at, not measured"
    assert kept_network(store, recipe) == before_network
    assert found_in(files_of(store, folder)) == found_in(before)


def test_an_actor_refuses_weights_that_its_stage_did_not_begin_with(sampled):
    """Catches: a bound of weights that were trained again, in a folder of those before."""
    store, config = sampled
    pointer = results.dataset_pointer(store, config.name)
    payload = payload_of(store.uri, config, pointer, None, "0" * 64)
    with pytest.raises(CheckpointError, match="trained again or exchanged"):
        EvaluationContext.of(payload, cpu()).denoiser  # noqa: B018


def test_while_a_split_is_decoded_it_is_said_how_far_it_is(sampled, monkeypatch, capsys, tmp_path):
    """Catches: seconds to minutes of a large data set in which nothing is heard."""
    store, config = sampled
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path))
    monkeypatch.setattr("ddpm_core.loading.fill._SHOW_EVERY_S", 0)
    pointer = results.dataset_pointer(store, config.name)
    payload = payload_of(store.uri, config, pointer, None, "0" * 64, "evaluate")
    count = len(EvaluationContext.of(payload, cpu()).train)
    shown = [parse(line, ["evaluate"]) for line in capsys.readouterr().out.splitlines()]
    assert shown[-1].done == shown[-1].total == count
    assert "images/s" in shown[-1].note
