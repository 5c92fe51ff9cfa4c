"""What the README promises of `train-ddpm`, held to it by its own commands."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import PROJECT, SMALL, ended, fetched, free_port, wait_for

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
RUN = (sys.executable, "-m", "flows.train_ddpm", "digits")


def final_digests(root: Path) -> dict[str, str]:
    folder = root / "runs/digits/checkpoints" / f"step_{SMALL['train.num_steps']:08d}"
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return {role: record["sha256"] for role, record in files.items()}


def test_a_run_from_nothing_then_again_then_stopped_and_continued(shell, sets, tmp_path, finished):
    """Catches: a stage that is not wired, a second run that works again, a job that trains on after
    Ctrl-C, servers that outlive their flow, a stop that costs bits, a stage that cannot go on with
    what the flow began. Killed is the run on S3, and by the flow is it continued there.

    One test for all, since each next step needs the result of the one before.
    """
    root, out = finished.root, finished.out
    assert "installing" not in out, "make may install only what has changed"
    assert "bits/dim" in out
    assert "mlflow ui" in out or "make ui" in out
    words = [word for line in out.splitlines() for word in line.split()]
    grid = next(Path(word) for word in words if "grid" in word and word.endswith(".png"))
    assert grid.read_bytes().startswith(b"\x89PNG")
    assert_registered_model_draws(shell, root, tmp_path)

    again = shell.run(*RUN, "--root", str(root), *sets)
    assert "done already; nothing was started" in again
    assert str(grid) in again

    stopped = tmp_path / "stopped"
    process = shell.start(*RUN, "--root", str(stopped), *sets, log=tmp_path / "stopped.log")
    first = stopped / "runs/digits/checkpoints/step_00000010/manifest.json"
    wait_for(first.exists, 400, "first checkpoint")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    shell.assert_nothing_is_left()
    assert first.exists()
    shell.run(sys.executable, "-m", "ddpm_core", "train", str(stopped / "runs/digits/run.json"))
    assert final_digests(stopped) == final_digests(root)
    shell.assert_nothing_is_left()


def assert_registered_model_draws(shell, root, tmp_path):
    """Ask the model of the run for images with the README's words, by MLflow's own commands."""
    request = tmp_path / "request.json"
    request.write_text('{"inputs": [], "params": {"seed": 0, "count": 4}}')
    model = ("--env-manager", "local", "-m", "models:/ddpm-digits@champion")
    place = {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    out = shell.run("mlflow", "models", "predict", *model, "-i", str(request), **place)
    predicted = json.loads(out[out.index("{") :])
    images = np.array(predicted["predictions"])
    assert images.shape == (4, 8, 8, 1)
    assert images.min() >= 0
    assert images.max() <= 255
    assert images.std() > 10, "noise or digits, but no plain grey"

    port = free_port()
    serve = ("mlflow", "models", "serve", *model, "-p", str(port))
    with ended(shell.start(*serve, log=tmp_path / "serve.log", **place)):
        url = f"http://localhost:{port}"
        wait_for(lambda: fetched(f"{url}/ping") is not None, 120, "served model")
        answer = fetched(f"{url}/invocations", request.read_bytes())
    assert json.loads(answer) == predicted
    shell.assert_nothing_is_left()


def test_dry_run_starts_nothing_and_writes_nothing(shell, tmp_path):
    """Catches: a plan that has side effects."""
    out = shell.run(*RUN, "--root", str(tmp_path / "root"), "--dry-run")
    assert '"num_steps"' in out
    for stage in ("shard", "train", "sample", "evaluate"):
        assert stage in out
    assert not (tmp_path / "root").exists() or not list((tmp_path / "root").iterdir())
    assert not shell.processes()


def test_make_help_lists_the_targets(shell):
    """Catches: a target of the README that does not exist."""
    out = shell.run("make", "help")
    for target in ("run", "test", "ui", "check"):
        assert target in out.split()
    assert (PROJECT / "Makefile").exists()
