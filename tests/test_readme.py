"""The commands of the README, held against each other: each name stands for one configuration."""

import json
import shlex
from pathlib import Path

import pytest

from ddpm_core import __main__ as stage
from ddpm_core.cli import parse_overrides
from ddpm_core.runs.run import configure, open_run, open_stage
from ddpm_core.store.storage import open_store
from flows import command_line

README = (Path(__file__).parents[1] / "README.md").read_text()


def commands(beginning: str) -> list[list[str]]:
    """Return the words after `beginning` of each command of the README that begins so."""
    lines = [line.strip() for line in README.splitlines() if line.startswith(" " * 4 + beginning)]
    return [shlex.split(line.removeprefix(beginning), comments=True) for line in lines]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Give the default root as it is after `make run`."""
    monkeypatch.chdir(tmp_path)
    root, config = configure("digits", root=None, run=None, changes={})
    open_run(open_store(root), config)
    return open_store(root)


def test_commands_by_hand_can_follow_each_other(store):
    """Catches: a stage that is refused since the command above it made another run of that name."""
    pipelines, stages = commands("python -m flows.train_ddpm "), commands("python -m ddpm_core ")
    assert len(pipelines) >= 2
    assert len(stages) >= 1
    for words in pipelines:
        given = command_line._parser(command_line.TRAIN_DDPM).parse_args(words)
        assert given.root is None
        changes = parse_overrides(given.overrides)
        _, config = configure(given.target, root=None, run=given.run, changes=changes)
        if not given.dry_run:
            open_run(store, config)
    for words in stages:
        given = stage._parser().parse_args(words)
        if given.stage == "verify":
            home, _ = configure(given.target, root=given.root, run=None, changes={})
            assert open_store(home).uri == store.uri
            continue
        if given.stage in ("runs", "export-samples", "doctor"):
            continue
        if given.stage == "export-weights":
            assert Path(given.target).is_file()
            continue
        changes = parse_overrides(given.overrides)
        if given.stage == "import-weights":
            _, config = configure(given.recipe, root=None, run=given.run, changes=changes)
            open_run(store, config)
            continue
        root, config = configure(given.target, root=given.root, run=given.run, changes=changes)
        assert open_store(root).uri == store.uri
        open_stage(store, config)


def test_deployment_can_run_where_make_run_ran(store):
    """Catches: parameters that make run `digits` again, with other settings: a refusal."""
    (words,) = commands("prefect deployment run ")
    assert words[:2] == ["train-ddpm/local", "--watch"]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    changes = json.loads(given["overrides"])
    _, config = configure(
        given.get("recipe", "digits"), root=None, run=given["run"], changes=changes
    )
    open_run(store, config)
