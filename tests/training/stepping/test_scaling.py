"""The scale of a loss whose gradient is in float16, alone and through the step that trains."""

import math

import pytest
import torch

from ddpm_core.training.stepping import scaling as scaling_module
from ddpm_core.training.stepping.optimiser import Optimiser
from ddpm_core.training.stepping.scaling import FLOOR, LARGEST_SCALE, STEPS_TO_GROW, LossScaling
from tests.training.small import (
    CPU,
    average_of,
    copy_of,
    load,
    make_learner,
    rank_slice,
    small_config,
    small_images,
    state_of,
)


def after(norms):
    """Return the scale after gradients of those norms, and which steps were left out."""
    scaling = LossScaling(CPU)
    left_out = [float(scaling.judge(torch.tensor(float(norm)))) for norm in norms]
    return float(scaling.scale), left_out


@pytest.fixture
def _soon(monkeypatch):
    """Let the scale grow after 10 steps instead of 2000."""
    monkeypatch.setattr(scaling_module, "STEPS_TO_GROW", 10)


@pytest.mark.usefixtures("_soon")
def test_the_scale_is_that_of_torch():
    """Catches a growth after one step too many or too few, a count of good steps that an overflow
    does not begin anew, and a factor other than 2: `torch.amp.GradScaler` is the oracle.
    """
    assert torch.amp.GradScaler("cpu").get_growth_interval() == STEPS_TO_GROW
    ours, theirs = LossScaling(CPU), torch.amp.GradScaler("cpu", growth_interval=10)
    param = torch.nn.Parameter(torch.ones(1))
    adam = torch.optim.SGD([param], lr=0.1)
    theirs.scale(torch.ones(()))  # which makes its tensors
    overflows = {0, 1, 7, 17, 28, 49, 60}
    for step in range(80):
        value = math.inf if step in overflows else 1.0
        param.grad = torch.full((1,), value)
        theirs.step(adam)
        theirs.update()
        ours.judge(torch.tensor(value))
        assert float(ours.scale) == theirs.get_scale(), step
    assert float(ours.noted()["skipped_steps"]) == len(overflows)


@pytest.mark.usefixtures("_soon")
def test_the_scale_has_a_floor_and_a_ceiling():
    """Catches a scale of 0 or infinity, from which no step leads back."""
    assert after([math.nan] * 40) == (FLOOR, [1.0] * 40)
    assert after([1.0] * 100) == (LARGEST_SCALE, [0.0] * 100)


def test_a_step_that_is_left_out_moves_nothing():
    """Catches moments that take in an infinity, and a step that Adam counts all the same; of one
    that is taken, a gradient that is still scaled, and a norm of the scaled one.
    """
    params = {"a": torch.nn.Parameter(torch.ones(3)), "b": torch.nn.Parameter(torch.ones(2))}
    optimiser, scaling = Optimiser(params), LossScaling(CPU)
    params["a"].grad, params["b"].grad = torch.full((3,), 2.0), torch.tensor([1.0, math.inf])
    optimiser.update(0.1, grad_clip=1.0, scaling=scaling)
    assert all(torch.equal(one.detach(), torch.ones_like(one)) for one in params.values())
    assert not any(one.any() for one in optimiser.state().values())

    scale = float(scaling.scale)
    assert scale == 2.0**15
    params["a"].grad, params["b"].grad = torch.full((3,), 2 * scale), torch.full((2,), scale)
    norm = optimiser.update(0.1, grad_clip=100.0, scaling=scaling)
    assert float(norm) == pytest.approx(math.sqrt(14))
    assert optimiser.state()["step"] == 1
    assert torch.allclose(optimiser.state()["exp_avg.a"], torch.tensor(0.2))
    assert float(scaling.noted()["grad_norm"]) == pytest.approx(math.sqrt(14))


HALF = {"train__precision": "float16", "model__dropout": 0.0}


def run(learner, config, start, stop):
    for step in range(start, stop):
        learner.step(step, rank_slice(config, small_images(), step, 0, 1))


def test_float16_trains_as_float32_does_but_for_rounding():
    """Catches a loss that is scaled and a gradient that is not scaled back, weights in float16, and
    a step that waits for the judgement.
    """
    config = small_config(**HALF)
    learner, reference = make_learner(config), make_learner(small_config(model__dropout=0.0))
    run(learner, config, 0, 6)
    run(reference, config, 0, 6)
    point, exact = learner.trainee.counts.point(), reference.trainee.counts.point()
    assert point["skipped_steps"] == 0
    assert point["loss"] != exact["loss"]
    assert point["loss"] == pytest.approx(exact["loss"], rel=2e-3)
    assert point["grad_norm"] == pytest.approx(exact["grad_norm"], rel=1e-2)
    assert {one.dtype for one in state_of(learner).values()} == {torch.float32, torch.float64}
    moments = [
        torch.cat([one.flatten() for name, one in state_of(each).items() if "exp_avg." in name])
        for each in (learner, reference)
    ]
    assert float(torch.cosine_similarity(*moments, dim=0)) > 0.999


def test_training_with_left_out_steps_continues_bit_for_bit(monkeypatch):
    """Catches a scale, a count of good or of left-out steps, or a last norm that is not saved."""
    monkeypatch.setattr(scaling_module, "STEPS_TO_GROW", 3)
    monkeypatch.setattr(scaling_module, "LARGEST_SCALE", 2.0**31)
    config = small_config(**HALF)
    whole, first, second = (make_learner(config) for _ in range(3))
    for learner in (whole, first):
        learner._scaling.scale.fill_(2.0**30)  # a gradient of 0.0001 is infinite
    run(whole, config, 0, 12)
    run(first, config, 0, 7)
    state = copy_of(state_of(first))
    assert state["scaling.skipped"] > 1
    assert state["scaling.good_steps"] > 0
    assert state["adam.step"] + state["scaling.skipped"] == 7
    load(second, state=state, ema=copy_of(average_of(first)))
    assert second._scaling.noted() == first._scaling.noted()
    run(second, config, 7, 12)
    torch.testing.assert_close(state_of(second), state_of(whole), rtol=0, atol=0)
    torch.testing.assert_close(average_of(second), average_of(whole), rtol=0, atol=0)
    assert state_of(whole)["scaling.scale"] != state["scaling.scale"]
    point = second.trainee.counts.point()
    assert point == whole.trainee.counts.point()
    assert all(math.isfinite(value) for value in point.values())


def test_a_loss_that_overflows_is_left_out_of_the_curve():
    """Catches a mean of the losses that is infinite for one image whose step was left out, and a
    training that ends for it.
    """
    config = small_config(**HALF)
    learner, whole = make_learner(config), make_learner(config)
    for each in (learner, whole):
        run(each, config, 0, 2)
        each.trainee.counts.point()
    before = copy_of(dict(learner.network.named_parameters()))
    losses = learner._losses
    learner._losses = lambda *given: losses(*given) * torch.tensor([math.inf] + 11 * [1.0])
    run(learner, config, 2, 3)
    run(whole, config, 2, 3)
    for name, one in learner.network.named_parameters():
        assert torch.equal(one, before[name]), name
    point, exact = learner.trainee.counts.point(), whole.trainee.counts.point()
    assert point["skipped_steps"] == 1
    assert 0 < point["loss"] != exact["loss"]
    assert math.isfinite(point["loss"])


def test_a_training_in_float32_has_no_scale():
    """Catches checkpoints of before that lack a tensor, and curves that have a scale of 1."""
    learner = make_learner(small_config())
    assert not [name for name in state_of(learner) if name.startswith("scaling")]
    run(learner, small_config(), 0, 1)
    assert "loss_scale" not in learner.trainee.counts.point()
