"""Training in continuous time, against the same written out plainly."""

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING
from ddpm_core.inference.networks import build_network
from tests.training.small import drawing_as, make_learner, rank_slice, small_config, small_images

QUIET = {"model__dropout": 0.0, "train__random_flip": False}


def noised(kind, x_0, u, eps):
    """Return t, x_t, the target and what the network is given, by each paper's formulas."""
    u, shape = u.double(), (-1, 1, 1, 1)
    if kind == "vp":
        t = 1e-5 + u * (1 - 1e-5)
        signal = (-0.25 * t**2 * 19.9 - 0.05 * t).exp()
        noise = (1 - signal**2).sqrt()
        x_t = signal.float().reshape(shape) * x_0 + noise.float().reshape(shape) * eps
        return x_t, 999 * t, eps, lambda out: out
    if kind == "flow":
        t = torch.special.ndtri(u).sigmoid()
        x_t = (1 - t).float().reshape(shape) * x_0 + t.float().reshape(shape) * eps
        return x_t, 1000 * t, eps - x_0, lambda out: out
    sigma = (-1.2 + 1.2 * torch.special.ndtri(u)).exp()
    s = sigma.float().reshape(shape)
    x = x_0 + s * eps
    skip, out = 0.25 / (s**2 + 0.25), 0.5 * s / (s**2 + 0.25).sqrt()
    # The loss of F alone: Karras et al. 2022, eq. 8.
    return x / (s**2 + 0.25).sqrt(), sigma.log() / 4, (x_0 - skip * x) / out, lambda f: f


@pytest.mark.parametrize("kind", ["vp", "flow", "edm"])
def test_a_step_is_the_papers_written_out_plainly(kind):
    """Catches times that are keyed otherwise or drawn from another distribution, a network that is
    given another clock or another scale of x_t, another target, a wrong quartile."""
    config = small_config(diffusion__kind=kind, **QUIET)
    images, learner = small_images(), make_learner(config)
    network, positions = build_network(config), torch.arange(12)
    pixels = rank_slice(config, images, 0, 0, 1)
    eps = seeding.normal(seeding.key(0, "noise"), 0, positions, (1, 8, 8))
    u = seeding.uniform(seeding.key(0, "timesteps"), 0, positions, ()) + 2**-25
    given, clock, target, read = noised(kind, pixels.double().float() / 127.5 - 1, u, eps)
    errors = (read(network(given, clock)) - target).square().mean(dim=(1, 2, 3))
    learner.step(0, pixels)
    point = learner.trainee.counts.point()
    errors.mean().backward()
    errors = errors.detach()
    assert point["loss"] == pytest.approx(float(errors.mean()), rel=1e-4)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1e9)
    assert point["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    for quartile in range(4):
        mine = errors[(u >= quartile / 4) & (u < (quartile + 1) / 4)]
        if len(mine):
            assert point[f"loss_q{quartile}"] == pytest.approx(float(mine.mean()), rel=1e-3)


def test_two_ranks_train_at_the_times_of_one():
    """Catches times by the place in a rank's batch: as many ranks, as many trainings."""
    config, seen = small_config(diffusion__kind="vp", **QUIET), []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        drawing = drawing_as(make_learner(config), rank, world_size)
        images = torch.zeros(12 // world_size, 1, 8, 8, dtype=torch.uint8)
        inputs = drawing.inputs(3, images, NOTHING)
        seen.append((inputs.t, inputs.quartile, inputs.eps))
    for whole, first, second in zip(*seen, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))
