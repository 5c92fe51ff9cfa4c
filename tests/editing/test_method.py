"""Where an edit begins, what stays of the image, and what its noise depends on."""

from itertools import pairwise
from typing import get_args

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.conditioning import Known
from ddpm_core.config import RunConfig, SampleConfig
from ddpm_core.diffusion.choices import Sampler
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.samplers.repaint import resampling_levels
from ddpm_core.editing.method import Method, depth_of, edit_images
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits
from tests.diffusion.chains import SHORT, normal
from tests.diffusion.samplers.toys import toy

IMAGES = normal(3, 1, 2, 4, seed=5, dtype=torch.float32).clamp(-1, 1)
KNOWN = Known(IMAGES, torch.tensor([True, True, False, False]).expand(3, 1, 2, 4))
POSITIONS = torch.tensor([7, 2**62 + 1, 9])


def sample_of(sampler: str = "ancestral", **options) -> SampleConfig:
    options = {"clip_x_0": False, **options} if sampler == "langevin" else options
    return SampleConfig(sampler=sampler, **options)


def edited(method: Method, sample: SampleConfig, known=KNOWN, *, denoiser=None, rows=None):
    rows = torch.arange(3) if rows is None else rows
    part = None if known is None else Known(known.values[rows], known.mask[rows])
    return edit_images(
        toy(SHORT) if denoiser is None else denoiser,
        IMAGES[rows],
        part,
        POSITIONS[rows],
        method=method,
        sample=sample,
        seed=3,
    )


@pytest.mark.parametrize(
    ("sampler", "method"),
    [("ancestral", Method()), *((one, Method(strength=0.4)) for one in get_args(Sampler))],
)
def test_what_is_known_is_exact_and_the_rest_a_function_of_seed_and_position(sampler, method):
    """Catches known pixels that are rounded, noise of a row's place in its batch, and a sampler
    that is not started from the depth."""
    sample = sample_of(sampler, num_steps=10)
    found = edited(method, sample)
    assert torch.equal(found[..., :2], IMAGES[..., :2])
    assert not torch.equal(found[..., 2:], IMAGES[..., 2:])
    turned = torch.tensor([2, 0])
    torch.testing.assert_close(edited(method, sample, rows=turned), found[turned])


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "heun", "unipc"])
@pytest.mark.parametrize("num_steps", [None, 10])
def test_strength_is_the_share_of_the_path_that_is_gone(sampler, num_steps):
    """Catches a depth that is counted in the steps taken or from the other end, steps that lie
    closer than over the whole chain, and a start that is scaled for another solver.

    The first that the network sees is signal x_0 + noise eps at the depth, for every solver.
    """
    seen = []

    def network(x_t, t):
        seen.append((float(t[0]), x_t))
        return IMAGES

    denoiser = NetworkDenoiser(network, SHORT, "x_0", "fixed_small")
    sample = sample_of(sampler, num_steps=num_steps)
    edited(Method(strength=0.4), sample, None, denoiser=denoiser)
    t, x_t = seen[0]
    assert t == depth_of(0.4, 50) - 1 == 19
    abar = float(SHORT.alphas_cumprod[19])
    eps = seeding.normal(seeding.key(3, "edit", 0), 0, POSITIONS, (1, 2, 4))
    torch.testing.assert_close(x_t, abar**0.5 * IMAGES + (1 - abar) ** 0.5 * eps)
    wanted = 20 if num_steps is None else 4
    assert len({time for time, _ in seen}) == wanted


def test_repaint_goes_back_up_as_often_as_it_is_told():
    """Catches RePaint that is replacement by another name, and resampling over the whole chain
    where steps are left out."""
    calls = []

    def network(x_t, t):
        calls.append(int(t[0]))
        return 0.5 * x_t

    denoiser = NetworkDenoiser(network, SHORT, "eps", "fixed_small")
    method = Method("repaint", jump_length=2, num_resamplings=3)
    found = edited(method, sample_of(num_steps=10), denoiser=denoiser)
    levels = resampling_levels(10, jump_length=2, num_resamplings=3)
    assert len(calls) == sum(after < level for level, after in pairwise(levels))
    assert torch.equal(found[..., :2], IMAGES[..., :2])


def refused(method: Method, **changes) -> str:
    config: RunConfig = digits().replaced(changes)
    with pytest.raises(ConfigError) as caught:
        method.require_possible(config)
    return str(caught.value)


def test_what_does_not_go_together_is_refused():
    """Catches a setting that has no effect, and a depth that no path has."""
    assert "above 0 and at most 1" in refused(Method(strength=0.0))
    assert "above 0 and at most 1" in refused(Method(strength=float("nan")))
    leading = {"sample.spacing": "leading", "sample.sampler": "ddim", "sample.num_steps": 10}
    assert "sample.spacing=trailing" in refused(Method(strength=0.5), **leading)
    assert "sample.sampler=ancestral" in refused(Method("repaint"), **{"sample.sampler": "ddim"})
    assert "from 1 to 1000" in refused(Method("repaint", num_resamplings=0))
    assert "from 1 to 1000" in refused(Method("repaint", num_resamplings=10**8))
    assert "less than the 10 steps" in refused(Method("repaint"), **{"sample.num_steps": 10})
    half = Method("repaint", 0.5, jump_length=5)
    assert "less than the 5 steps" in refused(half, **{"sample.num_steps": 10})


def test_an_adaptive_solver_begins_at_the_depth_with_steps_of_its_own():
    """Catches a number of steps that is given to a solver which takes none."""
    seen = []

    def network(x_t, t):
        seen.append(float(t[0]))
        return IMAGES

    denoiser = NetworkDenoiser(network, SHORT, "x_0", "fixed_small")
    sample = sample_of("ode", ode_method="adaptive")
    edited(Method(strength=0.4), sample, None, denoiser=denoiser)
    assert seen[0] == depth_of(0.4, 50) - 1
    assert "steps_from_there" not in Method(strength=0.4).about(sample, 50)
