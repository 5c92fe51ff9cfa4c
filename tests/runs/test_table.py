"""What runs there are, how far each is, and how they differ."""

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits
from ddpm_core.runs import layout, previews
from ddpm_core.runs.table import compare_runs, list_runs, show_run
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.storage import open_store
from tests.flows.fakes import recorded


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path / "root"))
    recorded(store, digits(), "shard", "train", "sample", "evaluate")
    recorded(store, digits().replaced({"name": "short", "train.num_steps": 300}), "shard")
    return store


def test_a_line_for_each_run_says_how_far_it_is(store, tmp_path):
    """Catches: a run that is left out, and one that cannot be read and hides the others."""
    (tmp_path / "root/runs/broken").mkdir()
    (tmp_path / "root/runs/broken/run.json").write_text("{")
    (tmp_path / "root/runs/no-run").mkdir()
    head, broken, whole, short = list_runs(store).splitlines()
    assert head.split() == [
        "run",
        "data",
        "steps",
        "done",
        "bits/dim",
        "Frechet",
        "inception",
        "judged",
        "accuracy",
        "bits/byte",
    ]
    assert broken.startswith("broken  cannot be read: ")
    measured = ["3.250", "12.50", *4 * "-"]
    assert whole.split() == ["digits", "digits", "800/800", "evaluate", *measured]
    assert short.split() == ["short", "digits", "0/300", "shard", *6 * "-"]
    assert list_runs(open_store(str(tmp_path / "no"))) == f"no runs below {tmp_path / 'no'}"


def test_a_run_is_shown_with_its_places(store):
    """Catches: a place that is not the result's."""
    lines = dict(line.split(maxsplit=1) for line in show_run(store, "digits").splitlines())
    assert lines["folder"] == f"{store.uri}/runs/digits"
    assert lines["train"] == f"{store.uri}/runs/digits/checkpoints/step_00000800"
    assert lines["study"] == "-"
    assert lines["bits/dim"] == "3.250"
    assert "previews" not in lines
    with pytest.raises(ConfigError, match=r"no run 'dgits' below .*; did you mean 'digits'"):
        show_run(store, "dgits")


def test_previews_are_shown_with_the_last_step(store):
    """Catches: a number of files for that of previews, and the first step for the last."""
    folder = layout.previews_folder("digits")
    for step in (800, 90):
        files = {"sheet": write_file(store, folder, previews.stem_of(step), ".png", b"a picture")}
        commit(store, folder, files, {"step": step}, name=previews.name_of(step))
    line = f"previews   2, the last of step 800: {store.uri_of(folder)}"
    assert line in show_run(store, "digits").splitlines()


def test_what_differs_is_compared_and_nothing_else(store):
    """Catches: eighty lines of what is equal."""
    rows = [line.split() for line in compare_runs(store, ["digits", "short"]).splitlines()]
    assert rows == [
        ["digits", "short"],
        ["train.num_steps", "800", "300"],
        ["bits/dim", "3.250", "-"],
        ["Frechet", "12.50", "-"],
    ]
    with pytest.raises(ConfigError, match="at least two"):
        compare_runs(store, ["digits"])
