"""Several stages in one process: what it prints, and how it ends."""

import contextlib

import pytest

from ddpm_core import __main__ as one
from ddpm_core import cluster, several
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits
from ddpm_core.runs.run import open_run
from ddpm_core.store.storage import open_store


@pytest.fixture
def calls(monkeypatch):
    """Record what would run, within which connection."""
    calls = []

    @contextlib.contextmanager
    def connect(compute):
        calls.append(compute.num_workers)
        yield
        calls.append("closed")

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr(one, "main", lambda words: calls.append(words) or (words[0] == "train") * 5)
    return calls


@pytest.fixture
def run_json(tmp_path):
    open_run(open_store(str(tmp_path)), digits())
    return str(tmp_path / "runs/digits/run.json")


def test_stages_share_a_connection_and_stand_between_marks(calls, run_json, capsys):
    """Catches: a stage without the changes of the command, a cluster joined once for each."""
    change = ["--set", "compute.num_workers=1"]
    assert several.main(["shard,sample", run_json, *change]) == 0
    assert calls == [1, ["shard", run_json, *change], ["sample", run_json, *change], "closed"]
    assert capsys.readouterr().out.splitlines() == [
        "stage begins: shard",
        "stage ends: shard",
        "stage begins: sample",
        "stage ends: sample",
    ]


def test_first_that_fails_ends_all_with_its_exit_code(calls, run_json, capsys):
    """Catches: samples drawn from a training that diverged; a failed stage marked as ended."""
    assert several.main(["train,sample", run_json]) == 5
    assert [words[0] for words in calls if isinstance(words, list)] == ["train"]
    assert "stage ends" not in capsys.readouterr().out


def test_cluster_that_cannot_be_joined_is_reported_as_by_a_stage(
    calls, run_json, monkeypatch, capsys
):
    """Catches: a traceback, where the flow looks for `<stage>: <why>`."""

    def refuse(_):
        raise ConfigError("too small")

    monkeypatch.setattr(cluster, "connect", refuse)
    assert several.main(["shard,train", run_json]) == 2
    assert "shard: too small\n" in capsys.readouterr().err
    assert not calls
