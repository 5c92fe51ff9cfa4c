"""The six ablations one after the other, with stages that cost nothing."""

import json
from contextlib import contextmanager

import numpy as np
import pytest

from ddpm_core import cluster
from ddpm_core.errors import ClusterError, ConfigError, DivergenceError, RunConflictError
from ddpm_core.recipes import PAPER_TABLE_2
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.run import open_run
from ddpm_core.store.commit import commit, write_file
from ddpm_core.study import ablations
from ddpm_core.study.ablations import run_ablations
from tests.flows.fakes import finish
from tests.study.small import study_config

NAMES = ("mu-l-learned", "mu-l-fixed", "mu-l-simple", "eps-l-learned", "eps-l-fixed",
         "eps-l-simple")  # fmt: skip
STAGES = ("shard", "train", "sample", "evaluate")
PNG = b"\x89PNG\r\n\x1a\n"


def ablated(**changes):
    return study_config(**{"study.ablation_steps": 3, **changes})


def metrics_of(place: int) -> dict:
    """Return what the evaluation of the ablation at this place measured: no two numbers alike."""
    return {
        "bits_per_dim": {"value": place + 0.25},
        "frechet_distance": {
            "value": place + 100,
            "samples_train": 29.5 - place,
            "samples_test": place + 30.5,
            "test_train": 0.5,
        },
        "inception_score": {"value": place + 1.125} if place else None,
    }


def without_distance(place: int) -> dict:
    """Return the same for images of one class."""
    nothing = {"value": None, "samples_train": None, "samples_test": None, "test_train": None}
    bits = {"value": place + 0.25}
    return {"bits_per_dim": bits, "frechet_distance": nothing, "inception_score": None}


class Stages:
    """The stages of a run, which do at once what is missing; `called` lists them."""

    def __init__(self) -> None:
        self.called: list[tuple[str, str]] = []
        self.steps: list[int] = []
        self.errors: dict[tuple[str, str], Exception] = {}
        self.connections: list[bool] = []

    @contextmanager
    def connect(self, _compute):
        self.connections.append(True)
        yield
        self.connections.append(False)

    def stage(self, name: str):
        def run(store, config):
            ablation = config.name.removeprefix("tiny-")
            self.called.append((ablation, name))
            if (error := self.errors.get((ablation, name))) is not None:
                raise error
            assert self.connections[-1:] == [True], "outside the one connection"
            assert name == "shard" or store.exists(layout.run_json_key(config.name))
            if name == "train":
                self.steps.append(config.train.num_steps)
            if name == "evaluate":
                self.evaluate(store, config, NAMES.index(ablation))
            elif name != "shard" or results.dataset_pointer(store, config.name) is None:
                finish(store, config, name)

        return run

    @staticmethod
    def evaluate(store, config, place: int) -> None:
        weights = results.weights_of(store, config)
        there = places.evaluation(store, config, weights, "d" * 64)
        data = json.dumps(metrics_of(place)).encode()
        files = {"metrics": write_file(store, there.folder, "metrics", ".json", data)}
        commit(store, there.folder, files, there.expected.body)


def first_images(store, samples, sample, shape, count):
    """Return five images that are as bright as the ablation's place."""
    samples.read(store, "grid")  # in place of the images
    (name,) = (name for name in NAMES if f"tiny-{name}/" in samples.folder)
    channels, height, width = shape
    return np.full((5, height, width, channels), 100 + NAMES.index(name), np.uint8)


@pytest.fixture
def stages(monkeypatch) -> Stages:
    made = Stages()
    for name in STAGES:
        monkeypatch.setattr(ablations, f"run_{name}", made.stage(name))
    monkeypatch.setattr(ablations, "first_images", first_images)
    monkeypatch.setattr(cluster, "connect", made.connect)
    return made


def files_of(store, config) -> dict[str, bytes]:
    committed = results.ablations_of(store, config)
    return {role: committed.read(store, role) for role in committed.files}


def test_all_six_are_run_in_the_paper_s_order(store, stages, recording_tracker, capsys):
    """Catches: an ablation left out, another number of steps, a cluster for each stage."""
    rows = run_ablations(store, ablated())
    assert stages.called == [(name, stage) for name in NAMES for stage in STAGES]
    assert tuple(PAPER_TABLE_2) == NAMES
    assert stages.steps == [3] * 6
    assert stages.connections == [True, False]
    assert [row["name"] for row in rows] == list(NAMES)
    assert [row["run"] for row in rows] == [f"tiny-{name}" for name in NAMES]
    made = files_of(store, ablated())
    assert set(made) == {"numbers", "table", "distances-figure", "samples-sheet"}
    assert json.loads(made["numbers"]) == {"rows": rows}
    for role in ("distances-figure", "samples-sheet"):
        assert made[role].startswith(PNG)
        assert recording_tracker.files[f"pictures/ablations/{role}.png"] == made[role]
    assert recording_tracker.files["ablations/table.md"] == made["table"]
    folder = results.ablations_of(store, ablated()).folder
    assert recording_tracker.tags == {"ddpm.ablations_uri": store.uri_of(folder)}
    out = capsys.readouterr().out.splitlines()
    assert "ablations  2/6 runs  next: mu-l-simple" in out
    best_first = "Frechet distance: eps-l-simple 24.50, eps-l-fixed 25.50, "
    assert out[-1].startswith(f"ablations  6/6 runs  {best_first}")


@pytest.mark.usefixtures("recording_tracker")
def test_without_a_number_of_steps_they_are_trained_as_long_as_the_run(store, stages):
    """Catches: null taken for no step."""
    run_ablations(store, ablated(**{"study.ablation_steps": None}))
    assert stages.steps == [10] * 6


def test_rows_have_the_numbers_of_their_own_run(store, stages, recording_tracker):
    """Catches: the distance to the held-out images for that to the training images, rows shifted,
    the paper's numbers in another row."""
    rows = run_ablations(store, ablated())
    expected = [("x_prev", "vlb", "learned"), ("x_prev", "vlb", "fixed_small"),
                ("x_prev", "simple", "fixed_small"), ("eps", "vlb", "learned"),
                ("eps", "vlb", "fixed_small"), ("eps", "simple", "fixed_small")]  # fmt: skip
    told = recording_tracker.metrics
    for place, (row, name) in enumerate(zip(rows, NAMES, strict=True)):
        assert (row["prediction"], row["loss"], row["variance"]) == expected[place]
        assert row["frechet_distance_train"] == 29.5 - place
        assert row["frechet_distance_test"] == place + 30.5
        assert row["bits_per_dim"] == place + 0.25
        assert row["inception_score"] == (place + 1.125 if place else None)
        assert (row["num_steps"], row["num_samples"], row["diverged"]) == (3, 16, None)
        paper = PAPER_TABLE_2[name]
        assert row["paper"] == {"inception_score": paper.inception_score, "fid": paper.fid}
        assert told[f"ablations/{name}/frechet_distance_train@0"] == 29.5 - place
        assert (f"ablations/{name}/inception_score@0" in told) is bool(place)
    page = files_of(store, ablated())["table"].decode().splitlines()
    assert "| ε, L_simple, fixed Σ | 6.12 | 24.50 | 5.25 | 9.46 | 3.17 |" in page
    assert "| μ, L, learned Σ | – | 29.50 | 0.25 | 7.28 | 23.69 |" in page
    assert "| ε, L, learned Σ | 4.12 | 26.50 | 3.25 | unstable | unstable |" in page


@pytest.mark.usefixtures("recording_tracker")
def test_without_distances_they_are_ranked_by_bits_per_dim(store, stages, monkeypatch):
    """Catches: six trainings of images of one class, all called unstable."""
    monkeypatch.setitem(globals(), "metrics_of", without_distance)
    seen = {}

    def figure(values, *, measure, **rest):
        seen.update(values=list(values.values()), measure=measure)
        return PNG

    monkeypatch.setattr(ablations.figures, "ablations_figure", figure)
    rows = run_ablations(store, ablated())
    assert {row["frechet_distance_train"] for row in rows} == {None}
    assert seen["values"] == [place + 0.25 for place in range(6)]
    assert seen["measure"] == "bits/dim of held-out images"
    assert ablations.summary(rows).startswith("bits/dim: mu-l-learned 0.25, mu-l-fixed 1.25, ")
    assert "unstable" not in ablations.summary(rows)
    page = files_of(store, ablated())["table"].decode()
    assert "| μ, L, learned Σ | – | – | 0.25 | 7.28 | 23.69 |" in page


def test_one_that_diverges_is_a_row_and_the_others_go_on(
    store, stages, recording_tracker, monkeypatch
):
    """Catches: a table that is lost for what is one of its results, samples of a model that is
    none, the sheet's rows shifted by the one that is missing."""
    shown = {}

    def sheet(samples_u8, *, labels, data, num_steps):
        levels = samples_u8[:, :, 0, 0, 0].tolist()
        shown.update(num_steps=num_steps, levels=levels, labels=labels)
        return PNG

    monkeypatch.setattr(ablations.sheets, "ablations_sheet", sheet)
    stages.errors["mu-l-simple", "train"] = DivergenceError("the loss is nan at step 2")
    rows = run_ablations(store, ablated())
    assert [name for name, stage in stages.called if stage == "train"] == list(NAMES)
    assert shown["num_steps"] == rows[0]["num_steps"]
    assert [row["diverged"] for row in rows] == [
        None, None, "the loss is nan at step 2", None, None, None,
    ]  # fmt: skip
    keys = ("bits_per_dim", "frechet_distance_train", "frechet_distance_test", "inception_score")
    assert {rows[2][key] for key in keys} == {None}
    assert rows[3]["frechet_distance_train"] == 26.5
    assert not any("mu-l-simple" in name for name in recording_tracker.metrics)
    page = files_of(store, ablated())["table"].decode()
    assert "L_simple, fixed Σ | unstable | unstable | unstable | unstable | unstable |" in page
    assert ablations.summary(rows).endswith(", mu-l-learned 29.50, mu-l-simple unstable")
    row_of_5 = [[100 + place] * 5 + [0] * 7 for place in range(6)]
    assert shown["levels"] == [*row_of_5[:2], [0] * 12, *row_of_5[3:]]
    assert shown["labels"][2] == "μ, L_simple, fixed Σ"


@pytest.mark.usefixtures("recording_tracker")
@pytest.mark.parametrize(
    ("stage", "error"),
    [
        ("train", ClusterError("workers were lost")),
        ("sample", ClusterError("workers were lost")),
        ("evaluate", DivergenceError("the bound is nan")),
    ],
)
def test_what_is_no_result_ends_the_stage_and_is_gone_on_from(store, stages, stage, error):
    """Catches: a lost cluster called unstable, a broken evaluation called an unstable training,
    ablations that are done and run again."""
    stages.errors["mu-l-simple", stage] = error
    with pytest.raises(type(error), match=str(error)):
        run_ablations(store, ablated())
    assert stages.called[-1] == ("mu-l-simple", stage)
    assert results.ablations_of(store, ablated()) is None
    stages.called.clear()
    stages.errors.clear()
    rows = run_ablations(store, ablated())
    assert stages.called == [(name, stage) for name in NAMES[2:] for stage in STAGES]
    assert [row["frechet_distance_train"] for row in rows] == [29.5 - place for place in range(6)]


def test_a_finished_table_is_recognised_and_logged_again(store, stages, recording_tracker, capsys):
    """Catches: six trainings for a table that is there, MLflow left without what it missed."""
    rows = run_ablations(store, ablated())
    told, files = dict(recording_tracker.metrics), dict(recording_tracker.files)
    recording_tracker.metrics.clear()
    recording_tracker.files.clear()
    stages.called.clear()
    stages.connections.clear()
    assert run_ablations(store, ablated()) == rows
    assert stages.called == []
    assert stages.connections == [], "a finished table needs no cluster"
    assert (recording_tracker.metrics, recording_tracker.files) == (told, files)
    assert "done already" in capsys.readouterr().out
    # As long, but not the same: another length is another table.
    assert results.ablations_of(store, ablated(**{"study.ablation_steps": 4})) is None


@pytest.mark.usefixtures("recording_tracker")
@pytest.mark.parametrize("role", ["numbers", "table"])
@pytest.mark.parametrize("otherwise", [False, True])
def test_a_damaged_table_is_made_again_of_the_runs_that_are_there(
    store, stages, role, otherwise, monkeypatch
):
    """Catches: a broken table that is served for ever, trainings for the sake of it, a conflict
    with what is broken where figures are now drawn otherwise."""
    run_ablations(store, ablated())
    before, committed = files_of(store, ablated()), results.ablations_of(store, ablated())
    store.write(f"{committed.folder}/{committed.files[role].name}", b"broken")
    if otherwise:
        monkeypatch.setattr(ablations.figures, "ablations_figure", lambda *_, **__: PNG)
        before["distances-figure"] = PNG
    stages.called.clear()
    run_ablations(store, ablated())
    assert stages.called == []
    assert files_of(store, ablated()) == before


@pytest.mark.usefixtures("recording_tracker")
@pytest.mark.parametrize("stage", ["sample", "evaluate"])
@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_what_is_broken_of_one_run_its_stages_make_again(store, stages, stage, harm):
    """Catches: "run again", which then fails again, and a table of what is broken."""
    config = ablated()
    rows = run_ablations(store, config)
    run = ablations.ablation_runs(config)["eps-l-fixed"]
    of_stage = {"sample": results.samples_of, "evaluate": results.evaluation_of}[stage]
    result, table = of_stage(store, run), results.ablations_of(store, config)
    store.delete(f"{table.folder}/manifest.json")
    if harm == "gone":
        name = layout.whole_name(run.sample.num_images) if stage == "sample" else "manifest.json"
        store.delete(f"{result.folder}/{name}")
    else:
        (record,) = result.files.values()
        store.write(f"{result.folder}/{record.name}", b"broken")
    stages.called.clear()
    assert run_ablations(store, config) == rows
    assert stages.called == [("eps-l-fixed", stage) for stage in STAGES]


@pytest.mark.usefixtures("recording_tracker")
def test_a_run_of_that_name_that_is_another_is_left_alone(store, stages):
    """Catches: a person's own run overwritten, or taken for the ablation."""
    other = ablations.ablation_runs(ablated(**{"train.seed": 5}))["mu-l-learned"]
    open_run(store, other)
    with pytest.raises(RunConflictError, match=r"train\.seed: 5 -> 0"):
        run_ablations(store, ablated())
    assert stages.called == []


def test_what_cannot_be_ablated_is_refused_before_anything_runs(store, stages, recording_tracker):
    """Catches: five trainings before the sixth is found impossible."""
    config = ablated(**{"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"})
    with pytest.raises(ConfigError, match="predict v or x_0"):
        run_ablations(store, config)
    assert stages.called == []
    assert recording_tracker.failed is None
