"""Whose lines are whose, in the log of a job that runs several stages."""

import pytest

from ddpm_core.progress import BEGINS, ENDS
from flows.together import StageEnded, Together, lines_of

LOG = [
    "Runtime env is setting up.",
    f"{BEGINS}shard", "of shard", f"{ENDS}shard",
    f"{BEGINS}train", "of train", "(pid=1) late line of a worker", f"{ENDS}train",
    f"{BEGINS}sample", "of sample",
]  # fmt: skip


def read(stage, *, is_first=False):
    """Return the lines of the stage, and whether the job said that it is done."""
    lines = []
    take = lines_of(stage, lines.append, is_first=is_first)
    for line in LOG:
        try:
            take(line)
        except StageEnded:
            return lines, True
    return lines, False


def test_lines_between_its_marks_are_a_stage_s():
    """Catches: the progress of one stage shown, and its reason looked for, as another's."""
    assert read("shard", is_first=True) == (["Runtime env is setting up.", "of shard"], True)
    assert read("train") == (["of train", "(pid=1) late line of a worker"], True)
    assert read("sample") == (["of sample"], False)
    assert read("evaluate") == ([], False)


def test_job_of_one_stage_has_no_marks():
    """Catches: a cluster's job whose log is shown to nobody."""
    lines = []
    take = lines_of("shard", lines.append, is_first=True)
    for line in ("a", "b"):
        take(line)
    assert lines == ["a", "b"]


@pytest.mark.parametrize("stage", ["shard", "train"])
def test_stage_is_awaited_until_its_lines_were_read(stage):
    """Catches: a stage called "done already" that ran a second ago, or read twice."""
    shared = Together(["shard", "train", "sample"])
    assert not shared.is_awaited(stage)
    shared.begin("job", ["shard", "train"])
    assert shared.is_awaited(stage)
    shared.followed.add(stage)
    assert not shared.is_awaited(stage)
    assert not shared.is_awaited("sample")
    assert list(shared.after("shard")) == ["train", "sample"]
    assert list(shared.after("study")) == []
