"""The probability flow: an ordinary differential equation with the chain's own marginals.

In sigma coordinates, x = x_t / sqrt(abar_t) = x_0 + sigma eps, it is dx/dsigma = eps_hat. It leads
from noise to images and back: each image has one latent.

Source: Song et al. 2021, arXiv:2011.13456, section 4.3 and eq. 13; Karras et al. 2022,
arXiv:2206.00364, section 3 (these coordinates, Heun's method).
"""

import math
from functools import partial

import torch
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser, at_sigma, eps_at_sigma
from ddpm_core.diffusion.integrate import Adaptive, Field, Solver
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.shapes import Images
from ddpm_core.errors import ConfigError


@torch.no_grad()
def ode_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    solver: Solver,
    clip_x_0: bool = False,
    denoise: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Follow the flow from noise to images.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode, on a whole chain
            or any other path.
        x_T: standard normal; shape, device and dtype of the result and of all arithmetic.
        solver: from its largest sigma, whose x is sqrt(1 + sigma**2) x_T, to its smallest.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1]. It is then no longer the flow:
            `ode_encode` does not lead back.
        denoise: whether a last step leads from the smallest sigma to 0, along the predicted x_0;
            one call of the network. Without it `ode_encode` leads back to x_T.
        on_step: called after each step, counted down to 0; for solvers on a grid only.

    Returns:
        x_0; without `denoise`, x_0 + sigma eps at the smallest sigma.

    Raises:
        ConfigError: for `on_step` with a solver that has no common steps.
        DivergenceError: if an adaptive solver does not arrive.

    Source: Song et al. 2021, section 4.3; the last step: Karras et al. 2022, algorithm 1.
    """
    field = _flow(denoiser, clip_x_0=clip_x_0)
    x = math.sqrt(1 + solver.high**2) * x_T
    if isinstance(solver, Adaptive):
        if on_step is not None:
            raise ConfigError(
                "an adaptive solver takes other steps for each image; on_step needs FixedStep"
            )
        x = solver.solve(field, x, upward=False).state
    else:
        num_left = len(solver.sigmas) - 1 + denoise
        for stride in solver.strides(field, x, upward=False):
            x, num_left = stride.state, num_left - 1
            if on_step is not None:
                on_step(num_left, x / math.sqrt(1 + stride.sigma**2), stride.at_zero)
    if not denoise:
        return x
    low = torch.full((len(x),), solver.low, dtype=torch.float64, device=x.device)
    x_0 = x - solver.low * field(x, low)
    if on_step is not None:
        on_step(0, x_0, x_0)
    return x_0


@torch.no_grad()
def ode_encode(denoiser: Denoiser, x_0: Images, *, solver: Solver) -> Images:
    """Follow the flow from images to their latents.

    Args:
        denoiser: as of `ode_sample`.
        x_0: images, read as x at the solver's smallest sigma; their dtype is that of all
            arithmetic. float64 leads back best.
        solver: from its smallest sigma to its largest.

    Returns:
        x_T, for which `ode_sample` with the same solver and `denoise=False` returns the images, up
        to the error of both ways.

    Raises:
        DivergenceError: if an adaptive solver does not arrive.

    Source: Song et al. 2021, section 4.3.
    """
    x = solver.solve(_flow(denoiser, clip_x_0=False), x_0, upward=True).state
    return x / math.sqrt(1 + solver.high**2)


def _flow(denoiser: Denoiser, *, clip_x_0: bool) -> Field:
    def clipped(x: Tensor, sigma: Tensor) -> Tensor:
        x_0_hat = at_sigma(denoiser, x, sigma).clamp(-1, 1)
        return (x - x_0_hat) / expand(sigma.to(x.dtype), x)

    return clipped if clip_x_0 else partial(eps_at_sigma, denoiser)
