"""Draws of several steps at once are those of each step."""

import pytest
import torch

from ddpm_core import ahead, seeding
from ddpm_core.ahead import MOST_STEPS, Ahead
from ddpm_core.training.stepping.regions import known_regions
from tests.training.small import (
    average_of,
    copy_of,
    load,
    make_learner,
    rank_slice,
    small_config,
    small_images,
    state_of,
)

KEY = seeding.key(0, "noise")
ROWS = torch.tensor([3, 0, 7, 2**33])


def everything(step, rows):
    """Return a draw of each kind."""
    return (
        seeding.normal(KEY, step, rows, (1, 5, 3), dtype=torch.float64),
        seeding.uniform(KEY, step, rows, ()),
        seeding.uniform_int(KEY, step, rows, 1000),
        seeding.coin(KEY, step, rows),
        seeding.signs(KEY, step, rows, (2,)),
        known_regions(KEY, step, rows, torch.empty(1, 1, 6, 4)),
    )


@pytest.mark.parametrize("start", [0, 13, 2**32 - 20])
def test_draws_ahead_are_those_of_each_step_bit_for_bit(start):
    """Catches a step that is that of the first row, rows of another position, the border of a
    chunk, and one that begins where a resumed run does.
    """
    drawn = Ahead(everything, ROWS, row_size=15)
    assert drawn.num_steps == MOST_STEPS
    for step in range(start, start + 20):
        for found, expected in zip(drawn.at(step), everything(step, ROWS), strict=True):
            assert torch.equal(found, expected)


def test_each_chunk_is_drawn_once_also_by_a_sampler_of_two_series():
    """Catches a chunk that is drawn anew for each step, where steps descend or come in turns."""
    seen = []

    def draw(step, rows):
        seen.append(step.tolist())
        return rows + step

    drawn = Ahead(draw, ROWS, row_size=15)
    for step in range(31, -1, -1):
        assert torch.equal(drawn.at(step), ROWS + step)
        assert torch.equal(drawn.at(step + 320), ROWS + step + 320)
    assert [steps[0] for steps in seen] == [16, 336, 0, 320]


def test_large_draws_are_made_one_at_a_time_on_a_cpu(monkeypatch):
    """Catches a chunk that is slower than its steps, and one that is no power of two: the last of
    all steps would be beyond it.
    """
    assert Ahead(everything, ROWS, row_size=2**13).num_steps == 1
    assert Ahead(everything, ROWS, row_size=700).num_steps == 8
    monkeypatch.setattr(ahead, "_MOST_NUMBERS", {})
    assert Ahead(everything, ROWS, row_size=2**17).num_steps == MOST_STEPS
    assert Ahead(everything, ROWS, row_size=2**23).num_steps == 1


@pytest.mark.parametrize("step", [-1, 2**32])
def test_a_step_that_does_not_fit_is_refused(step):
    """Catches a range that is checked for single steps alone: another step's numbers would come."""
    with pytest.raises(ValueError, match="step="):
        Ahead(everything, ROWS, row_size=15).at(step)


def test_a_training_resumed_inside_a_chunk_is_the_one_drawn_step_by_step(monkeypatch):
    """Catches draws that depend on where a training began, or on how many are made at once."""
    config = small_config()
    learner, resumed = make_learner(config), make_learner(config)
    images = small_images()
    for step in range(14, 19):
        learner.step(step, rank_slice(config, images, step, 0, 1))
        if step == 16:
            load(resumed, state=copy_of(state_of(learner)), ema=copy_of(average_of(learner)))
    assert learner._drawing._ahead.num_steps == MOST_STEPS
    monkeypatch.setattr(ahead, "MOST_STEPS", 1)
    alone = make_learner(config)
    assert alone._drawing._ahead.num_steps == 1
    for step in range(14, 19):
        alone.step(step, rank_slice(config, images, step, 0, 1))
        if step > 16:
            resumed.step(step, rank_slice(config, images, step, 0, 1))
    for one in (alone, resumed):
        torch.testing.assert_close(state_of(one), state_of(learner), rtol=0, atol=0)
