"""Generation by what is known of an image, in continuous time (Song et al. 2021, appendix I)."""

import math

import pytest
import torch

from ddpm_core.config.diffusion import VeConfig, VpConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.path_network import ChainNetwork
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.diffusion.wrappers.classifier_guidance import ClassifierGuided
from ddpm_core.diffusion.wrappers.colourising import Colourised
from ddpm_core.diffusion.wrappers.pinning import Known, Pinned
from ddpm_core.errors import ConfigError
from ddpm_core.inference import continuous
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import normal
from tests.diffusion.every_path import exact

pytestmark = pytest.mark.usefixtures("shapes_unchecked")
both_paths = pytest.mark.parametrize(
    "section", [VpConfig(num_timesteps=400), VeConfig(num_timesteps=100)]
)
COLOURS = Mixture(row(1.0), row(0.4, 0.1, -0.2)[None], torch.full((1, 3), 0.3).double())
"""three channels of a pixel, each N(., 0.3**2): its colours do not depend on its brightness"""


def denoiser_of(section, data):
    path, chain = continuous.path_of(section), continuous.chain_made_of(section)
    inside = exact(data, path).network
    return NetworkDenoiser(ChainNetwork(inside, path, chain), chain, "eps", section.variance)


def noise(number):
    return normal(500, 3, seed=number)


@both_paths
def test_the_brightness_is_as_given_and_colours_that_do_not_depend_on_it_are_as_without(section):
    """Catches a brightness that is the sum, colours that move with it, a turn that is no turn."""
    denoiser, x_T = denoiser_of(section, COLOURS), normal(500, 3, seed=99)
    grey = 0.5 * normal(500, 1, seed=98)
    free = ddpm_sample(denoiser, x_T, noise=noise, clip_x_0=False)
    found = ddpm_sample(Colourised(denoiser, grey), x_T, noise=noise, clip_x_0=False)
    torch.testing.assert_close(found.mean(1, keepdim=True), grey)
    assert float((free.mean(1, keepdim=True) - grey).abs().mean()) > 0.1
    colours = [images - images.mean(1, keepdim=True) for images in (free, found)]
    torch.testing.assert_close(colours[0], colours[1])
    # In three channels of 0.3 the colours of a pixel have 2/3 of the variance.
    spread = float(colours[1].var(dim=0).sum())
    assert spread == pytest.approx(2 * 0.3**2, rel=0.1)


def test_a_brightness_of_three_channels_is_refused():
    """Catches a colour image for its brightness: colours that are not drawn at all."""
    with pytest.raises(ConfigError, match="must have one channel"):
        Colourised(denoiser_of(VpConfig(), COLOURS), torch.zeros(2, 3, 4, 4))


@both_paths
def test_a_known_channel_is_pinned_in_continuous_time(section):
    """Catches known parts in the coordinates of the chain where they should be those of images."""
    known = Known(torch.full((500, 3), 0.7).double(), torch.tensor([[True, False, False]]))
    pinned = Pinned(denoiser_of(section, COLOURS), known)
    found = ddpm_sample(pinned, normal(500, 3, seed=99), noise=noise, clip_x_0=False)
    torch.testing.assert_close(found[:, 0], known.values[:, 0])
    assert float(found[:, 1].std()) == pytest.approx(0.3, rel=0.1)


@both_paths
def test_a_class_is_drawn_by_adding_the_score_of_its_classifier(section):
    """Catches a gradient in the path's coordinates that is added in the chain's: with the true
    classifier of x_t the samples are those of the class, N(-0.8, 0.1**2), of a mixture."""
    data = Mixture(row(0.3, 0.7), row(-0.8, 0.5)[:, None], row(0.1, 0.2)[:, None])
    denoiser = denoiser_of(section, data)

    def log_probability(x_t, t):
        signal, spread = denoiser.path.signal_and_noise(t, x_t)
        variance = (signal * row(0.1, 0.2)).square() + spread.square()
        away = x_t - signal * row(-0.8, 0.5)
        logs = -0.5 * (away.square() / variance + variance.log()) + row(0.3, 0.7).log()
        return logs.log_softmax(1)[:, 0]

    guided = ClassifierGuided(denoiser, log_probability, 1.0)
    x_0 = ddim_sample(guided, normal(500, 1, seed=1), clip_x_0=False)
    assert float(x_0.mean()) == pytest.approx(-0.8, abs=0.02)
    assert float(x_0.std()) == pytest.approx(0.1, abs=0.02)
    free = ddim_sample(denoiser, normal(500, 1, seed=1), clip_x_0=False)
    assert float((free < -0.3).double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 500))
