"""Numbers that samplers gave before denoisers could be wrapped: sums over all images of a batch.

Not bit for bit: another vector unit, or another build of torch, rounds some of them otherwise.
"""

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.samplers.heun import heun_sample
from ddpm_core.diffusion.wrappers.respacing import respaced

CHAIN = make_schedule(torch.arange(1, 13, dtype=torch.float64) / 32)
X_T = ((torch.arange(24, dtype=torch.float64) * 37) % 64 / 16 - 2).reshape(3, 2, 4)
STEPS = [0, 2, 3, 7, 11]


def network(x_t, t):
    return 0.75 * x_t - 0.25 * x_t.roll(1, dims=-1) + 0.125


def denoiser(prediction):
    return NetworkDenoiser(network, CHAIN, prediction, "fixed_small")


def still(_):
    return torch.zeros_like(X_T)


WAYS = {
    "ddim": lambda d: ddim_sample(d, X_T, clip_x_0=False),
    "ddim, clipped": lambda d: ddim_sample(d, X_T),
    "ddim, few": lambda d: ddim_sample(respaced(d, STEPS), X_T),
    "encode": lambda d: ddim_encode(d, X_T),
    "ancestral": lambda d: ddpm_sample(d, X_T, noise=still),
    "ancestral, few": lambda d: ddpm_sample(respaced(d, STEPS), X_T, noise=still, clip_x_0=False),
    "heun": lambda d: heun_sample(d, X_T, sigmas=[2.0, 1.0, 0.5, 0.25], clip_x_0=False),
}
NUMBERS = {
    ("ddim", "eps"): (-9.437137459030724, -73.0541386374205),
    ("ddim", "x_0"): (4.575380924423602, 68.40823116486527),
    ("ddim", "v"): (-3.6682700394243093, -31.629084749486957),
    ("ddim", "x_prev"): (6.160473678005189, 81.54788326526116),
    ("ddim, clipped", "eps"): (-5.608596293261202, -49.14988818339425),
    ("ddim, clipped", "x_0"): (1.5432890661081649, 18.640591394654034),
    ("ddim, clipped", "v"): (-3.663670930906489, -31.521623863465503),
    ("ddim, clipped", "x_prev"): (3.296323642569618, 40.75262748044719),
    ("ddim, few", "eps"): (-6.016893316336166, -54.61736396772235),
    ("ddim, few", "x_0"): (1.5739054502705798, 19.782481611086734),
    ("ddim, few", "v"): (-3.4980697716763958, -31.919262030648543),
    ("encode", "eps"): (3.1354833586749855, 63.27666011806107),
    ("encode", "x_0"): (-19.842686385393684, -159.53198944362575),
    ("encode", "v"): (2.0551522121251224, 85.14381962406043),
    ("encode", "x_prev"): (-102.52706600856334, -893.500272196067),
    ("ancestral", "eps"): (-8.233982550926628, -89.42068027942516),
    ("ancestral", "x_0"): (5.370200236773327, 69.4811796018221),
    ("ancestral", "v"): (-3.355420650465146, -39.904724020721396),
    ("ancestral", "x_prev"): (5.99810791015625, 76.88109016418457),
    ("ancestral, few", "eps"): (-11.005362934279521, -106.42590432088781),
    ("ancestral, few", "x_0"): (5.154825645347383, 68.17539294201406),
    ("ancestral, few", "v"): (-3.223529631585779, -39.02724993499359),
    ("heun", "eps"): (-5.679847066780443, -41.53355437964523),
}


WEIGHTS = torch.arange(1, 25, dtype=torch.float64).reshape(3, 2, 4)


@pytest.mark.parametrize(("way", "prediction"), NUMBERS)
def test_the_numbers_are_those_of_before(way, prediction):
    """Catches another step, another clipping, another order of pixels, arithmetic in float32."""
    images = WAYS[way](denoiser(prediction))
    found = images.sum().item(), (images * WEIGHTS).sum().item()
    assert found == pytest.approx(NUMBERS[way, prediction], rel=1e-11)
