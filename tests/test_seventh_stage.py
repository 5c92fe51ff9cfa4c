"""A stage is one entry of the table and its module: all else finds it there."""

import pytest

from ddpm_core import __main__ as command
from ddpm_core.errors import DataError
from ddpm_core.progress import Progress, parse
from ddpm_core.recipes import digits
from ddpm_core.runs.deletion import delete_run
from ddpm_core.runs.stages import STAGES, stages_of
from ddpm_core.runs.table import list_runs, show_run
from ddpm_core.store.storage import open_store
from ddpm_core.tracking.identity import changes_of
from ddpm_core.verifying.verify import verify
from flows import command_line, plan
from tests import toy_stage
from tests.flows.fakes import recorded


@pytest.fixture(autouse=True)
def seventh(monkeypatch):
    monkeypatch.setitem(STAGES, "toy", toy_stage.STAGE)
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path / "root"))
    recorded(store, digits(), "shard", "train", "sample")
    return store


def test_the_command_line_offers_plans_refuses_and_runs_it(store, tmp_path, capsys):
    """Catches: a list of stages beside the table, in the parser, the plan or the dispatch."""
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "make a toy of the samples" in capsys.readouterr().out
    there, elsewhere = ["--root", store.uri], ["--root", str(tmp_path / "elsewhere")]
    assert command.main(["toy", "digits", *elsewhere]) == 4
    assert "toy: toy needs a trained run, and there is no run" in capsys.readouterr().err
    assert command.main(["toy", "digits", *there, "--dry-run"]) == 0
    assert "plan: toy: would run on 2 worker(s)" in capsys.readouterr().err
    assert command.main(["toy", "digits", *there]) == 0
    line = capsys.readouterr().out.strip()
    assert parse(line, STAGES) == Progress("toy", 1, 1, "toys")
    assert command.main(["toy", "digits", *there, "--dry-run"]) == 0
    assert f"plan: toy: done, nothing to do ({store.uri}/runs/digits/toys/" in (
        capsys.readouterr().err
    )


def test_a_stage_that_needs_it_says_so(store, monkeypatch, capsys):
    """Catches: needs that are looked up in a list of three stages."""
    from dataclasses import replace

    after = replace(toy_stage.STAGE, name="game", needs=("toy",))
    monkeypatch.setitem(STAGES, "game", after)
    assert command.main(["game", "digits", "--root", store.uri]) == 3
    said = capsys.readouterr().err
    assert "game needs a result that run 'digits'" in said
    assert "make it first: python -m ddpm_core toy digits" in said


def test_both_pipelines_plan_it_and_a_summary_names_it(store, capsys):
    """Catches: a constant with the stages of a pipeline, a summary of six stages."""
    for flow in (command_line.TRAIN_DDPM, command_line.PAPER):
        assert stages_of(flow.name)[-1] == "toy"
        assert command_line.main(flow, ["digits", "--root", store.uri, "--dry-run"]) == 0
        assert "  toy       would run with 2 workers on" in capsys.readouterr().err
    toy_stage.run_toy(store, digits())
    text = plan.summary(store, digits())
    assert f"toys made   {store.uri}/runs/digits/toys/" in text
    assert "play value  7 of 9" in text


def test_its_jobs_and_its_run_in_mlflow_differ_by_its_sections(store):
    """Catches: the job of another sampling taken for this one's, two toys in one MLflow run."""
    other, width = digits().replaced({"sample.seed": 1}), digits().replaced({"train.log_every": 7})
    ids = [plan.job_prefix(store, one, "toy") for one in (digits(), other, width)]
    assert ids[0] != ids[1]
    assert ids[0] == ids[2]
    assert changes_of(store, other, "toy") == {"sample.seed": 1}


def test_it_has_a_flow_with_the_form_of_the_others():
    """Catches: a seventh copy of the flow that somebody has to write."""
    from prefect.flows import load_flow_from_entrypoint

    from flows.stages import train

    toy = load_flow_from_entrypoint("flows.stages:toy", use_placeholder_flow=False)
    assert (toy.name, toy.fn.__name__) == ("toy", "toy")
    assert toy.description == "Make a toy of the samples; parameters as of `train-ddpm`."
    assert toy.parameters == train.parameters


def test_it_is_in_the_table_of_runs_verified_and_deleted(store):
    """Catches: a result that no command about runs knows."""
    toy_stage.run_toy(store, digits())
    head, line = list_runs(store).splitlines()
    assert head.split()[-1] == "fun"
    assert line.split()[3] == "toy"
    assert line.split()[-1] == "7"
    assert f"toy        {store.uri}/runs/digits/toys/" in show_run(store, "digits")
    (file,) = [key for key in toy_files(store) if key.endswith(".bin")]
    store.write(file, b"8 of 9")
    with pytest.raises(DataError, match=r"runs/digits/toys/\S+bin"):
        verify("digits", root=store.uri)
    delete_run(store, "digits", confirmed=True)
    assert not toy_files(store)


def toy_files(store):
    folder = "runs/digits/toys"
    return [
        f"{folder}/{one}/{name}"
        for one in store.names(folder)
        for name in store.names(f"{folder}/{one}")
    ]
