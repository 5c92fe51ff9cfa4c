"""The progress line is written and read by the same rules."""

import io

import pytest

from ddpm_core.progress import Progress, parse
from ddpm_core.runs.stages import STAGES


@pytest.mark.parametrize(
    "progress",
    [
        Progress("train", 480, 2400, "steps", "loss 0.0312  1520 images/s"),
        Progress("shard", 0, 1797, "images"),
    ],
)
@pytest.mark.parametrize("before", ["", "\x1b[36m(RayTrainWorker pid=12)\x1b[0m "])
def test_a_line_is_read_back_whatever_stands_before_it(progress, before):
    """Catches: a pattern anchored at the start, which Ray's prefix breaks."""
    assert parse(before + str(progress), STAGES) == progress


@pytest.mark.parametrize(
    "line", ["", "train the network  5/6", "cook  1/2 eggs", "train  x/3 steps"]
)
def test_other_lines_are_not_progress(line):
    """Catches: log text taken for progress."""
    assert parse(line, STAGES) is None


def test_show_writes_one_line():
    """Catches: a missing newline, or output that stays in a buffer."""
    stream = io.StringIO()
    Progress("sample", 1, 2, "images").show(stream)
    assert stream.getvalue() == "sample  1/2 images\n"
