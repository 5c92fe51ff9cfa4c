"""The learning rate of each step, in closed form, and what of its segments counts."""

import math

import pytest
import torch
from diffusers.optimization import (
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from ddpm_core.config.rates import counted, learning_rate
from ddpm_core.config.train import TrainConfig
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits


def rates(steps, **changes):
    train = TrainConfig(**{"num_steps": 20, "learning_rate": 2e-4, "warmup_steps": 4, **changes})
    return [learning_rate(step, train) for step in steps]


def test_it_is_0_at_first_grows_linearly_and_stays():
    """Catches: a warm-up that starts at 1/warmup (step + 1), or that never ends."""
    found = rates((0, 1, 2, 3, 4, 5, 10**6))
    assert found == pytest.approx([0, 0.5e-4, 1e-4, 1.5e-4, 2e-4, 2e-4, 2e-4], rel=1e-12)
    assert found[0] == 0
    assert rates((0, 1, 100), warmup_steps=0) == [2e-4] * 3, "no division by 0"


def test_schedules_in_closed_form():
    """Catches: a fall that begins with the warm-up, ends elsewhere, or has another shape."""
    steps = (2, 4, 8, 12, 16, 20)
    linear = rates(steps, learning_rate_schedule="linear", learning_rate=1.0)
    assert linear == pytest.approx([0.5, 1, 0.75, 0.5, 0.25, 0], abs=1e-15)
    cosine = rates(steps, learning_rate_schedule="cosine", learning_rate=1.0)
    half = math.sqrt(0.5)
    assert cosine == pytest.approx([0.5, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0], abs=1e-15)
    root = rates((2, 4, 9, 16, 10**4), learning_rate_schedule="inverse_sqrt", learning_rate=1.0)
    assert root == pytest.approx([0.5, 1, 2 / 3, 0.5, 0.02], rel=1e-12)
    # Vaswani et al., equation 3, with d_model ** -0.5 such that its highest rate is 1.
    vaswani = [2 * min(step**-0.5, step * 4**-1.5) for step in (2, 4, 9, 16, 10**4)]
    assert root == pytest.approx(vaswani, rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize(
    ("schedule", "oracle"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_linear_and_cosine_are_those_of_diffusers(schedule, oracle, warmup):
    """Catches: another shape or another beginning than the one that recipes mean by these names."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-4)
    theirs = oracle(optimiser, warmup, 20)
    for step in range(20):
        ours = rates((step,), learning_rate_schedule=schedule, warmup_steps=warmup)
        assert ours == pytest.approx(theirs.get_last_lr(), rel=1e-9, abs=1e-18)
        optimiser.step()
        theirs.step()


def segment(until, **changes):
    return {"until": until, "num_steps": until, "learning_rate": 2e-4,
            "learning_rate_schedule": "constant", **changes}  # fmt: skip


def train(*earlier, **changes):
    values = {f"train.{key}": value for key, value in changes.items()}
    return digits().replaced({"train.num_steps": 20, "train.learning_rate": 2e-4,
                              "train.warmup_steps": 0, "train.earlier": list(earlier),
                              **values}).train  # fmt: skip


def test_what_depends_on_the_length_runs_over_its_own_segment():
    """Catches: a longer cosine that rewrites what was trained, or a restart at the wrong step."""
    short = {"learning_rate_schedule": "cosine"}
    went_on = train(segment(10, **short), **short)
    alone = [rates((step,), num_steps=10, warmup_steps=0, **short)[0] for step in range(10)]
    found = [learning_rate(step, went_on) for step in range(20)]
    assert found[:10] == pytest.approx(alone, rel=1e-12)
    assert found[10:] == pytest.approx(alone, rel=1e-12), "a warm restart over the rest"
    fallen = train(segment(10, **short), learning_rate=1e-5)
    assert [learning_rate(step, fallen) for step in (0, 9, 10, 19)] == [
        2e-4, pytest.approx(alone[9], rel=1e-12), 1e-5, 1e-5,
    ]  # fmt: skip


def test_segments_count_where_the_rates_differ_from_those_of_one_training():
    """Catches: a longer run that is another experiment though its weights are the same, and two
    trainings at other rates that are one."""
    assert counted(train()) == counted(train(segment(5), segment(10))) == []
    root = {"learning_rate_schedule": "inverse_sqrt", "warmup_steps": 4}
    assert counted(train(segment(10, learning_rate_schedule="inverse_sqrt"), **root)) == []
    others = [
        train(segment(10, learning_rate=1e-4)),
        train(segment(12, learning_rate=1e-4)),
        train(segment(10, learning_rate_schedule="linear")),
        train(segment(10), learning_rate_schedule="linear"),
        train(segment(10, num_steps=15, learning_rate_schedule="linear")),
        train(segment(5), segment(10, learning_rate=1e-4)),
    ]
    assert len({str(counted(one)) for one in others}) == len(others)
    assert all(counted(one) for one in others)
    nothing = train(segment(0, num_steps=10, learning_rate=1e-4))
    assert counted(nothing) == [], "no step was trained so"
    twice = train(segment(10, learning_rate=1e-4), segment(10, learning_rate=1e-4))
    assert counted(twice) == counted(train(segment(10, learning_rate=1e-4)))
    assert learning_rate(9, twice) == 1e-4


ROOT = segment(10, learning_rate_schedule="inverse_sqrt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.learning_rate_schedule": "inverse_sqrt", "train.warmup_steps": 0}, "at least 1"),
        ({"train.earlier": [ROOT], "train.warmup_steps": 0}, "at least 1"),
        ({"train.earlier": [segment(10), segment(5)]}, "must end where the next begins"),
        ({"train.earlier": [segment(900)]}, "earlier has segments until"),
        ({"train.earlier": [segment(10, num_steps=5)]}, "none after its own num_steps"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    """Catches: a division by 0 in the middle of a training, and segments that overlap."""
    with pytest.raises(ConfigError, match=words):
        digits().replaced(changes)
