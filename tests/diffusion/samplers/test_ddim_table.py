"""DDIM and ancestral sampling of one Gaussian in few steps: numbers that any slip moves.

Of data N(0, 1/4) the best network is linear, so every sampler multiplies: DDIM its x_T by one
factor, which is the standard deviation of what it draws; the exact flow's is .50001. Along the
paper's chain, timesteps spread evenly from 999 to 0, nothing clipped. The numbers were worked out
from the equations with a few lines of numpy, without this code.

Source: Song et al. 2020, arXiv:2010.02502, eqs. 12 to 16; Ho et al. 2020, eqs. 6, 7 and 11.
"""

import numpy as np
import pytest
import torch

from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from tests.diffusion.analytic import Gaussian, affine_moments, row
from tests.diffusion.chains import PAPER

HALF = Gaussian(row(0.0), row(0.5), PAPER)
TABLE = {
    # steps: DDIM's standard deviation, what is left of an x_0 there and back, and the variance of
    # ancestral sampling with fixed_small and fixed_large; of the data it is .25
    10: (0.36161, 0.52325, 0.10422, 0.35852),
    20: (0.43045, 0.74143, 0.15051, 0.29845),
    50: (0.47192, 0.89114, 0.19642, 0.26788),
    100: (0.48585, 0.94454, 0.21898, 0.25865),
    250: (0.49427, 0.97758, 0.23602, 0.25335),
    1000: (0.49850, 0.99436, 0.24613, 0.25075),
}
ONE = torch.ones(1, 1, dtype=torch.float64)


def few(num_steps, variance="fixed_small"):
    steps = choose_timesteps("linspace", 1000, num_steps)
    assert steps == np.linspace(999, 0, num_steps).round().astype(int)[::-1].tolist()
    return respaced(HALF.denoiser(variance), steps)


@pytest.mark.parametrize("num_steps", TABLE)
@pytest.mark.usefixtures("shapes_unchecked")
def test_ddim_of_a_gaussian_has_the_standard_deviation_of_the_table(num_steps):
    """Catches an index off by one, abar of another step, a last step that does not end at 1."""
    drawn = ddim_sample(few(num_steps), ONE, clip_x_0=False)
    assert float(drawn) == pytest.approx(TABLE[num_steps][0], abs=6e-6)


@pytest.mark.parametrize("num_steps", TABLE)
@pytest.mark.usefixtures("shapes_unchecked")
def test_there_and_back_leaves_as_much_as_the_table_says(num_steps):
    """Catches an encoder that evaluates at the end of its step, or one step beside the decoder's.

    Between the x_t of t = 0 and of t = 999, where every step has noise at both of its ends.
    """
    begun, ended = {}, {}
    chain = few(num_steps)
    x_T = ddim_encode(chain, ONE, on_step=lambda t, x_t, _: begun.update({t: float(x_t)}))
    ddim_sample(chain, x_T, clip_x_0=False, on_step=lambda t, x_t, _: ended.update({t: float(x_t)}))
    assert ended[1] / begun[0] == pytest.approx(TABLE[num_steps][1], abs=6e-6)


@pytest.mark.parametrize("num_steps", TABLE)
@pytest.mark.parametrize(("variance", "column"), [("fixed_small", 2), ("fixed_large", 3)])
@pytest.mark.usefixtures("shapes_unchecked")
def test_ancestral_sampling_of_a_gaussian_has_the_variance_of_the_table(
    variance, column, num_steps
):
    """Catches noise of another step's variance, and the chain's beta where steps are left out."""
    mean, found = affine_moments(
        lambda x_T, noise: ddpm_sample(few(num_steps, variance), x_T, noise=noise, clip_x_0=False),
        num_steps,
        1,
    )
    assert float(mean) == 0
    assert float(found) == pytest.approx(TABLE[num_steps][column], abs=6e-6)
