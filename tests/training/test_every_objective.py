"""Every way to train a network, through the step that trains: it learns, resumes, and spreads."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_core import seeding
from ddpm_core.diffusion.process import q_sample
from ddpm_core.inference.build import build_objective, build_schedule
from ddpm_core.inference.networks import build_network
from tests.diffusion.objectives import PAIRS
from tests.training.small import (
    average_of,
    copy_of,
    load,
    make_learner,
    rank_slice,
    run_group,
    small_config,
    small_images,
    state_of,
)

LEARNED = [("eps", "learned", "vlb"), ("v", "learned_range", "hybrid")]


def config_of(prediction, variance, loss, **changes):
    return small_config(
        model__dropout=0.0,
        diffusion__prediction=prediction,
        diffusion__variance=variance,
        train__loss=loss,
        **changes,
    )


def run(learner, config, start, stop, rank=0, world_size=1):
    images = small_images()
    for step in range(start, stop):
        learner.step(step, rank_slice(config, images, step, rank, world_size))


@pytest.mark.parametrize(("prediction", "variance", "loss"), PAIRS)
def test_the_loss_of_a_fixed_batch_falls(prediction, variance, loss):
    """Catches an objective that the step does not minimise: a target, a sign, an output half that
    is not connected. Step 9 again and again: the same images, timesteps and noise.
    """
    config = config_of(prediction, variance, loss)
    learner, batch = make_learner(config), rank_slice(config, small_images(), 9, 0, 1)
    points = []
    for _ in range(12):
        learner.step(9, batch)
        points.append(learner.trainee.counts.point())
    assert all(math.isfinite(value) for point in points for value in point.values())
    assert points[-1]["loss"] < 0.98 * points[0]["loss"]
    assert {name.rstrip("0123") for name in points[0]} == {"loss", "grad_norm", "loss_q"}


@pytest.mark.parametrize(
    ("prediction", "variance", "loss", "weighting"),
    [
        ("eps", "fixed_small", "simple", "p2"),
        ("v", "fixed_large", "simple", "min_snr"),
        ("x_0", "learned_range", "hybrid", "min_snr"),
    ],
)
def test_the_curve_is_the_configured_loss(prediction, variance, loss, weighting):
    """Catches a step that trains by L_simple whatever is configured, or without its weights."""
    config = config_of(
        prediction, variance, loss, train__weighting=weighting, train__random_flip=False
    )
    images_u8, positions = rank_slice(config, small_images(), 9, 0, 1), torch.arange(12)
    learner = make_learner(config)
    learner.step(9, images_u8)
    x_0 = images_u8.float() / 127.5 - 1
    t = seeding.uniform_int(seeding.key(0, "timesteps"), 9, positions, 24)
    eps = seeding.normal(seeding.key(0, "noise"), 9, positions, (1, 8, 8))
    x_t = q_sample(build_schedule(config), x_0, t, eps)
    output = build_network(config)(x_t, t).detach()
    expected = build_objective(config).losses(output, x_0, x_t, t, eps).mean()
    assert learner.trainee.counts.point()["loss"] == pytest.approx(float(expected), rel=1e-4)
    plain = build_objective(config.replaced({"train.weighting": "none"}))
    unweighted = plain.losses(output, x_0, x_t, t, eps).mean()
    assert abs(float(unweighted - expected)) > 0.01


@pytest.mark.parametrize("choice", LEARNED)
def test_a_learned_variance_is_trained_and_continues_bit_for_bit(choice):
    """Catches a network without the second half of its last layer, and a state without it."""
    config = config_of(*choice)
    whole, first, second = (make_learner(config) for _ in range(3))
    before = whole.network.conv_out.weight.detach().clone()
    assert before.shape[0] == 2
    run(whole, config, 0, 8)
    run(first, config, 0, 5)
    load(second, state=copy_of(state_of(first)), ema=copy_of(average_of(first)))
    run(second, config, 5, 8)
    torch.testing.assert_close(state_of(second), state_of(whole), rtol=0, atol=0)
    torch.testing.assert_close(average_of(second), average_of(whole), rtol=0, atol=0)
    assert second.trainee.counts.point() == whole.trainee.counts.point()
    moved = (whole.network.conv_out.weight.detach() - before).abs().amax((1, 2, 3))
    assert bool((moved > 1e-4).all())


def _two_ranks(rank, world_size, folder):
    for number, choice in enumerate(LEARNED):
        config = config_of(*choice)
        learner = make_learner(config, rank, world_size)
        run(learner, config, 0, 3, rank, world_size)
        tensors = {name: tensor.contiguous() for name, tensor in state_of(learner).items()}
        save_file(tensors, folder / f"{number}-rank{rank}.safetensors")


def test_two_ranks_train_a_learned_variance_as_one_does(tmp_path):
    """Catches parameters that the ranks wait for because no loss reaches them."""
    run_group(_two_ranks, 2, tmp_path)
    for number, choice in enumerate(LEARNED):
        config = config_of(*choice)
        alone = make_learner(config)
        run(alone, config, 0, 3)
        zero, one = (load_file(tmp_path / f"{number}-rank{rank}.safetensors") for rank in range(2))
        window = zero.pop("window") + one.pop("window")
        torch.testing.assert_close(zero, one, rtol=0, atol=0)
        state = copy_of(state_of(alone))
        torch.testing.assert_close(window, state.pop("window"), rtol=1e-5, atol=0)
        for name, tensor in state.items():
            torch.testing.assert_close(zero[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
