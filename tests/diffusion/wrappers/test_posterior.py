"""Posteriors against the closed form of Gaussians, and what they do to samples."""

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.wrappers.posterior import Posterior
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import SHORT, every_t, normal
from tests.diffusion.objectives import saying

STANDARD = NetworkDenoiser(
    lambda x_t, t: SHORT.alphas_cumprod[t].sqrt()[:, None] * x_t, SHORT, "x_0", "fixed_large"
)
"""of standard normal images: E[x_0 | x_t] = sqrt(abar) x_t"""


def test_precisions_add_up_and_weigh_the_means():
    """Catches a variance for a deviation, weights exchanged, and one number for all pixels: by the
    product of the two densities, sigma'**-2 = sigma**-2 + sigma_d**-2."""
    t, x_t, observed = every_t(SHORT), normal(50, 3, seed=1), normal(50, 3, seed=2)
    output = torch.cat([normal(50, 1, 3, seed=3), 0.3 * normal(50, 1, 3, seed=4)], dim=1)
    network = saying(output, SHORT, "v", "learned_range")
    plain = network.predict(x_t[:, None], t).reverse(clip_x_0=True)
    found = Posterior(network, observed[:, None], sigma=0.2).predict(x_t[:, None], t)
    step, variance = found.reverse(clip_x_0=True), plain.log_variance.exp()
    precision = 1 / variance + 1 / 0.2**2
    torch.testing.assert_close(step.log_variance, -precision.log())
    mean = (plain.mean / variance + observed[:, None] / 0.2**2) / precision
    torch.testing.assert_close(step.mean, mean)


def test_a_wide_likelihood_changes_nothing_and_a_mask_is_a_point():
    """Catches a mask of the wrong sign, noise where the image is known, and r everywhere."""
    t, x_t, observed = every_t(SHORT), normal(50, 3, seed=1), normal(50, 3, seed=2)
    plain = STANDARD.predict(x_t, t).reverse(clip_x_0=True)
    wide = Posterior(STANDARD, observed, sigma=1e6).predict(x_t, t).reverse(clip_x_0=True)
    torch.testing.assert_close(wide.mean, plain.mean)
    torch.testing.assert_close(wide.log_variance, plain.log_variance.expand(50, 3))
    mask = torch.tensor([True, False, False])
    said = Posterior(STANDARD, observed, mask=mask).predict(x_t, t).reverse(clip_x_0=True)
    assert torch.equal(said.mean[:, 0], observed[:, 0])
    assert bool((said.log_variance[:, 0] == -torch.inf).all())
    assert torch.equal(said.mean[:, 1:], plain.mean[:, 1:])
    drawn = ddpm_sample(
        Posterior(STANDARD, observed, mask=mask, clip_x_0=False),
        normal(50, 3),
        noise=lambda t: normal(50, 3, seed=10 + t),
        clip_x_0=False,
    )
    assert torch.equal(drawn[:, 0], observed[:, 0])
    assert float(drawn[:, 1:].std()) > 0.5


def test_samples_are_drawn_to_the_observed_image():
    """Catches an r that is forgotten on the way: the nearer, the narrower it is."""
    observed = torch.full((400, 2), 0.5, dtype=torch.float64)

    def away(sigma):
        drawn = ddpm_sample(
            Posterior(STANDARD, observed, sigma=sigma, clip_x_0=False),
            normal(400, 2),
            noise=lambda t: normal(400, 2, seed=10 + t),
            clip_x_0=False,
        )
        return float((drawn - 0.5).square().mean().sqrt())

    assert away(0.02) < 0.05 < away(0.5) < away(1e6)
    assert away(1e6) == pytest.approx(1.1, abs=0.1)


def test_what_has_no_meaning_is_refused():
    """Catches a division by zero, a mask of other images, and steps that are not the chain's."""
    observed = normal(4, 3)
    with pytest.raises(ConfigError, match=r"sigma=0\.0 must be above 0"):
        Posterior(STANDARD, observed, sigma=0.0)
    with pytest.raises(ConfigError, match=r"the mask is shaped \(5,\)"):
        Posterior(STANDARD, observed, mask=torch.ones(5, dtype=torch.bool))
    few = respaced(Posterior(STANDARD, observed, sigma=0.1), [0, 20, 49])
    with pytest.raises(ConfigError, match="cannot leave steps out"):
        few.predict(observed, torch.tensor([0, 1, 2, 1]))
