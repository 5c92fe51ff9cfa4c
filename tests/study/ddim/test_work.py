"""What each unit finds, against the same done by hand."""

from dataclasses import replace

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.sampling.draw import to_u8
from ddpm_core.study.units import Unit
from ddpm_core.study.worker import work
from tests.study.small import study_config

CONFIG = study_config(**{"study.ddim_steps": [5, 21]})
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def tables(context):
    """Give the context of a run whose study has the tables."""
    return replace(context, config=CONFIG)


def noise_of(positions):
    """Return the x_T of samples of the study's seed, and the noise of each step."""
    first, steps = (
        seeding.key(CONFIG.study.seed, name) for name in ("sample_init", "sample_noise")
    )
    places = torch.tensor(positions)
    x_T = seeding.normal(first, 0, places, SHAPE)
    return x_T, lambda t: seeding.normal(steps, t, places, SHAPE)


def few(context, spacing="linspace", **changes):
    denoiser = replace(context.denoiser, **changes)
    return respaced(denoiser, choose_timesteps(spacing, 21, 5))


def planes(images_u8):
    return images_u8.permute(0, 3, 1, 2)


def test_a_cell_has_its_eta_and_its_steps(tables):
    """Catches: no noise in a row of noise, linear steps for quadratic ones, another
    seed."""
    found = work(tables, Unit("ddim", "0.5-quadratic-5", 1, 3))
    x_T, noise = noise_of([1, 2])
    expected = ddim_sample(few(tables, "quadratic"), x_T, eta=0.5, noise=noise)
    assert torch.equal(found["shown"], planes(to_u8(expected)))
    assert int(found["evaluations"]) == 5
    assert len(found["features"]) == len(found["probabilities"]) == 2


def test_sigma_hat_is_the_larger_variance_whatever_the_run_s(tables):
    """Catches: the row of eta = 1 under another name: the run's own variance is the small one."""
    found = work(tables, Unit("ddim", "sigma-hat-linear-5", 0, 2))
    x_T, noise = noise_of([0, 1])
    larger = few(tables, variance="fixed_large")
    expected = ddpm_sample(larger, x_T, noise=noise)
    assert torch.equal(found["shown"], planes(to_u8(expected)))
    smaller = work(tables, Unit("ddim", "1-linear-5", 0, 2))["shown"]
    assert (found["shown"].int() - smaller.int()).abs().max() > 10


@pytest.mark.parametrize(("tau", "spacing"), [("linear", "linspace"), ("quadratic", "quadratic")])
def test_images_are_encoded_and_decoded_in_the_steps_of_their_row(tables, tau, spacing):
    """Catches: rows exchanged, steps of the other tau, training images, errors of [-1, 1]."""
    found = work(tables, Unit("reconstruction", tau, 1, 4))["rmse"]
    x_0 = to_unit_range(tables.test.pixels[1:4], torch.device("cpu")).double()
    for row, chain in zip(found, (few(tables, spacing), tables.denoiser), strict=True):
        back = ddim_sample(chain, ddim_encode(chain, x_0), clip_x_0=False)
        expected = 127.5 * (back - x_0).square().mean(dim=(1, 2, 3)).sqrt()
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
    assert bool((found[1] < found[0]).all())


def test_arcs_begin_and_end_at_samples_side_by_side(tables):
    """Catches: pairs of 0 and 2, ends exchanged, latents of another seed, axes exchanged."""
    found = work(tables, Unit("arcs", "slerp", 0, 4))["images"]
    assert found.shape == (11, 2, 8, 8, 1)
    samples = to_u8(ddim_sample(tables.denoiser, noise_of([0, 1, 2, 3])[0]))
    for column, ends in ((0, samples[0::2]), (-1, samples[1::2])):
        # A level more or less: at another place of a batch the network may round otherwise.
        assert (found[column].int() - ends.int()).abs().max() <= 1
    middle = found[5].int()
    assert min((middle - found[end].int()).abs().max() for end in (0, -1)) > 5
