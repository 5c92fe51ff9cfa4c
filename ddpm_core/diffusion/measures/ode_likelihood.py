"""Bits per dimension through the probability flow, which turns noise into images one to one.

The density of an image is that of its latent, times how much the flow spreads volumes on the way:
log p(x) = log p_high(x_high) + integral from low to high of div(eps_hat) dsigma.

The prior is what `ode_sample` begins with: x_T standard normal, which is
x_high = sqrt(1 + high**2) x_T ~ N(0, (1 + high**2) I) in sigma coordinates. An image is read as x
at the smallest sigma, as `ode_encode` does: the result is the density of images with that little
noise (0.01 for the paper's chain) in them.

Source: Song et al. 2021, arXiv:2011.13456, section 4.3 and appendix D.2; Chen et al. 2018,
arXiv:1806.07366, theorem 1; Grathwohl et al. 2019, arXiv:1810.01367, section 3.1 (the estimate of
the divergence).
"""

import math
from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser, eps_at_sigma
from ddpm_core.diffusion.integrate import Field, Solver
from ddpm_core.diffusion.shapes import Images, PerImage
from ddpm_core.errors import ConfigError

Bins = Literal["equal", "centred"]
"""Which part of [-1, 1] belongs to level k of 256, and of other numbers of levels likewise.

equal: from k/128 - 1 to (k+1)/128 - 1, as published numbers have it. centred: within 1/255 of
k/127.5 - 1, where networks are shown that level and where the bound's decoder looks for it; images
with much of level 0 or 255 cost up to 0.1 bits/dim less.
"""


class OdeLikelihood(NamedTuple):
    """What the flow says of each image."""

    bits: PerImage
    """-log2 p per dimension: of the density, or of the image as 256 levels"""
    latent: Images
    """x_T, standard normal if the network were perfect"""
    num_evaluations: Int[Tensor, " b"]
    """calls of the network that the image needed"""


def ode_bits_per_dim(
    denoiser: Denoiser,
    x_0: Images,
    *,
    solver: Solver,
    uniform: Images,
    probe: Images | None = None,
    bins: Bins = "equal",
    num_levels: int = 256,
) -> OdeLikelihood:
    """Return bits/dim of images on levels, spread evenly over their bins.

    In expectation over `uniform` an upper bound of the bits of the levels under the flow. The
    offset of the density, log2(256/2) or log2(255/2) of 256 levels, is that of the width of a bin.

    Args:
        denoiser: as of `ode_density`.
        x_0: images on the levels, in [-1, 1], not dequantised.
        solver: as of `ode_density`.
        uniform: uniform on [0, 1), shaped like `x_0`; its dtype is that of all arithmetic.
        probe: as of `ode_density`.
        bins: where a level's bin lies.
        num_levels: of a sample.

    Raises:
        ConfigError, DivergenceError: as `ode_density`.

    Source: Song et al. 2021, appendix D.2; Theis et al. 2016, arXiv:1511.01844, section 3.1.
    """
    half = (num_levels - 1) / 2
    place = ((x_0 + 1) * half).round().to(uniform.dtype) + uniform
    match bins:
        case "equal":
            x, offset = place / (num_levels / 2) - 1, math.log2(num_levels / 2)
        case "centred":
            x, offset = (place - 0.5) / half - 1, math.log2(half)
        case _:
            assert_never(bins)
    density = ode_density(denoiser, x, solver=solver, probe=probe)
    return density._replace(bits=density.bits + offset)


# Inference mode is left, for nothing made in it can be differentiated.
@torch.inference_mode(mode=False)
@torch.no_grad()
def ode_density(
    denoiser: Denoiser, x: Images, *, solver: Solver, probe: Tensor | None = None
) -> OdeLikelihood:
    """Return -log2 of the density of each image, per dimension.

    Args:
        denoiser: of a network that can be differentiated with respect to x_t, without dropout.
        x: images, whatever their values; their dtype is that of all arithmetic.
        solver: from its smallest sigma to its largest, where the prior is. An adaptive one
            controls the density's error too, in nats per dimension.
        probe: for each image +1 and -1 at random, with which its divergence is estimated on the
            whole way, unbiased (Hutchinson), by one backward pass for each call. Without it the
            divergence is exact, by as many passes as an image has numbers: for small ones.

    Raises:
        ConfigError: if the probe is not shaped like the images.
        DivergenceError: if an adaptive solver does not arrive.

    Source: Song et al. 2021, eqs. 39 and 40.
    """
    if probe is not None and probe.shape != x.shape:
        raise ConfigError(
            f"probe is shaped {tuple(probe.shape)} and the images {tuple(x.shape)}; give one "
            "number for each of theirs"
        )
    # Clones, because tensors made in inference mode cannot be differentiated either.
    state = torch.cat([x.clone().flatten(1), x.new_zeros(len(x), 1)], dim=1)
    field = _flow_and_divergence(denoiser, x.shape, None if probe is None else probe.clone())
    state, num_evaluations = solver.solve(field, state, upward=True)
    end, gained = state[:, :-1].reshape(x.shape), state[:, -1]
    variance = 1 + solver.high**2
    mean_square = end.flatten(1).square().mean(dim=1)
    prior = -0.5 * (mean_square / variance + math.log(2 * math.pi * variance))
    return OdeLikelihood(
        bits=-(prior + gained) / math.log(2),
        latent=end / math.sqrt(variance),
        num_evaluations=num_evaluations,
    )


def _flow_and_divergence(denoiser: Denoiser, shape: torch.Size, probe: Tensor | None) -> Field:
    """Return the field of (x, log density gained per dimension), flattened side by side."""

    def field(state: Tensor, sigma: Tensor) -> Tensor:
        x = state[:, :-1].reshape(shape).detach().requires_grad_()
        with torch.enable_grad():
            eps = eps_at_sigma(denoiser, x, sigma)
            divergence = _trace(eps, x) if probe is None else _estimate(eps, x, probe)
        flat = eps.detach().flatten(1)
        return torch.cat([flat, divergence[:, None] / flat.shape[1]], dim=1)

    return field


def _estimate(eps: Images, x: Images, probe: Images) -> PerImage:
    """Return probe . J probe of each image, whose expectation is the trace of J = d eps / d x."""
    (product,) = torch.autograd.grad(eps, x, grad_outputs=probe.to(eps.dtype))
    return (product * probe).flatten(1).sum(dim=1)


def _trace(eps: Images, x: Images) -> PerImage:
    """Return the trace of d eps / d x of each image, by one backward pass for each number."""
    flat = eps.flatten(1)
    diagonal: list[Float[Tensor, " b"]] = []
    for place in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, place].sum(), x, retain_graph=True)
        diagonal.append(row.flatten(1)[:, place])
    return torch.stack(diagonal, dim=1).sum(dim=1)
