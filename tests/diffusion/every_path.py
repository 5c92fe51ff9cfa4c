"""The paths that are tested, what their sources say of them, and exact denoisers on them."""

import itertools
import math
from collections.abc import Callable

from torch import Tensor

from ddpm_core.diffusion.choices import OutputKind
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.flow import Straight
from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.paths.sde import (
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from tests.diffusion.analytic import Mixture
from tests.diffusion.chains import PAPER

CONTINUOUS: dict[str, Path] = {
    "vp": VariancePreserving(),
    "sub_vp": SubVariancePreserving(),
    "ve": VarianceExploding(),
    "flow": Straight(end=0.999),
}
PATHS: dict[str, Path] = {"chain": PAPER, **CONTINUOUS}


def exact(data: Mixture, path: Path, kind: OutputKind = "eps") -> NetworkDenoiser:
    """Return the denoiser whose network is exact: it knows the posterior of each component.

    In the coordinates of x_t, so that a path may end in pure noise.
    """

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = (part[:, :, None] for part in path.signal_and_noise(t, x_t))
        variance = (signal * data.stds).square() + noise.square()
        away = x_t[:, None] - signal * data.means
        parts = -0.5 * (away.square() / variance + variance.log()).sum(2) + data.weights.log()
        images = data.means + signal * data.stds.square() * away / variance
        x_0 = (parts.softmax(1)[:, :, None] * images).sum(1)
        signal, noise = signal[:, 0], noise[:, 0]
        eps = (x_t - signal * x_0) / noise
        forms = {"eps": eps, "x_0": x_0, "velocity": eps - x_0, "v": signal * eps - noise * x_0}
        return forms[kind]

    return NetworkDenoiser(network, path, kind)


# -- as the sources write them ------------------------------------------------------------------

BETA_0, BETA_1, SIGMA_MIN, SIGMA_MAX = 0.1, 20.0, 0.01, 50.0


def published_marginal(name: str, t: float) -> tuple[float, float]:
    """Return signal and noise: Song et al. 2021, eq. 29, and Liu et al. 2022, eq. 1."""
    half = -0.25 * t**2 * (BETA_1 - BETA_0) - 0.5 * t * BETA_0
    match name:
        case "vp":
            return math.exp(half), math.sqrt(1 - math.exp(2 * half))
        case "sub_vp":
            return math.exp(half), 1 - math.exp(2 * half)
        case "ve":
            return 1.0, SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t
        case _:
            return 1 - t, t


def drift_and_diffusion(name: str, t: float) -> tuple[float, float]:
    """Return f and g**2 of dx = f x dt + g dw: Song et al. 2021, appendix C.

    The straight line's: what has its marginals, of f = signal'/signal.
    """
    beta = BETA_0 + t * (BETA_1 - BETA_0)
    whole = BETA_0 * t + 0.5 * (BETA_1 - BETA_0) * t**2
    match name:
        case "vp":
            return -beta / 2, beta
        case "sub_vp":
            return -beta / 2, beta * (1 - math.exp(-2 * whole))
        case "ve":
            sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t
            return 0.0, 2 * sigma**2 * math.log(SIGMA_MAX / SIGMA_MIN)
        case _:
            return -1 / (1 - t), 2 * t / (1 - t)


def rk4(slope: Callable[[float, Tensor], Tensor], state: Tensor, times: list[float]) -> Tensor:
    """Return the state at the last of the times."""
    for begin, stop in itertools.pairwise(times):
        h, middle = stop - begin, (begin + stop) / 2
        k1 = slope(begin, state)
        k2 = slope(middle, state + h / 2 * k1)
        k3 = slope(middle, state + h / 2 * k2)
        k4 = slope(stop, state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return state
