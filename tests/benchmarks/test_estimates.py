"""What the benchmark of estimates reads is what a dry run and a training print."""

from types import SimpleNamespace

import pytest

from benchmarks import estimates
from ddpm_core import rehearse
from ddpm_core.__main__ import _parser
from ddpm_core.cli import changes_of
from ddpm_core.config.needs import Needs, is_small, rate_text
from ddpm_core.progress import Progress
from ddpm_core.recipes import recipe
from ddpm_core.training import worker
from ddpm_core.training.loop import Point

SPEED = {"update_s": 0.0, "pass_s": 0.0, "image_s": 0.002, "images": 64}


def dry_run(config):
    """Return what a dry run prints of a machine that trains 500 images a second."""
    needs = Needs(0, 0, 0, 0, 0, images=64, at_once=64, flops=1)
    ready = {"needs": vars(needs), "world_size": 1, "device": "cpu", "room": None, "lack": None}
    return config.to_json() + "\n".join(rehearse._lines(config, ready, [SPEED]))


def point(step, rate):
    return str(Progress("train", step, 60, "steps", f"loss 0.5000  {rate_text(rate)}  eta 3s"))


def test_a_dry_run_is_held_against_the_later_points_of_a_training_as_long_as_asked():
    """Catches a ratio upside down, a first point that counts the start, and a wrong length."""
    runs = []

    def run(words):
        runs.append(words)
        if "--dry-run" in words:
            return dry_run(recipe("digits"))
        return "\n".join([point(9, 100), point(18, 390), point(27, 410), point(60, 400)])

    said, was = estimates.compared(["digits"], 4.0, run)
    assert (said, was) == (500.0, 400.0)
    assert estimates.row("digits", said, was) == "| digits | 500 | 400 | 1.25 |"
    dry, true = runs
    assert f"train.num_steps={estimates.LONG}" in dry
    assert "train.num_steps=31" in true, "4 s of 500 images/s in batches of 64"
    assert "--dry-run" not in true


def test_no_estimate_is_no_ratio():
    """Catches a comparison of nothing, where a dry run could not measure."""
    with pytest.raises(SystemExit, match="says no time"):
        estimates.compared(["digits"], 4.0, lambda _words: "time: not known")


def test_a_training_prints_its_points_so(capsys):
    """Catches a line of the training that has changed: no point would be found any more."""
    config = recipe("digits").replaced({"train.num_steps": 60})
    host = object.__new__(worker._Host)
    host._config, host._curve, host._shown_s = config, [], -60.0
    host._tracker = SimpleNamespace(log_points=lambda _points: None)
    host._take(Point(9, {"loss": 0.5}, {"step_s": 0.16, "images_per_s": 400.0}))
    assert estimates.POINT.findall(capsys.readouterr().out) == ["400"]


@pytest.mark.parametrize("words", estimates.CASES.values(), ids=list(estimates.CASES))
def test_every_dry_run_measures(words):
    """Catches a case that a configuration refuses, and one too small to be rehearsed."""
    options = _parser().parse_args(["train", *words, *estimates.length(estimates.LONG)])
    given = changes_of(options, options.target) | {"data.source": "/photos"}
    if options.target != "images":
        del given["data.source"]
    assert not is_small(recipe(options.target).replaced(given))
