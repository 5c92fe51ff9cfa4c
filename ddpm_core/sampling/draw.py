"""Image i of a seed: a function of (seed, i) and the weights, of no batch and no worker."""

import math

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.ahead import Ahead
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.inference.levels import to_levels, to_u8
from ddpm_core.sampling.sampler import run_sampler

__all__ = ["draw", "to_levels", "to_u8"]


@torch.inference_mode()
def draw(
    denoiser: Denoiser | BitDenoiser,
    positions: Tensor,
    shape: tuple[int, int, int],
    *,
    sample: SampleConfig,
    seed: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draw the images at `positions` by the sampler that `sample` names.

    Every number drawn is keyed by (seed, position, step): the same position in another batch, unit
    or process gives the same image, up to the rounding of the network at another batch size.

    Args:
        denoiser: its weights in evaluation mode, on `positions`' device.
        positions: (b,) int64, the index of each image; the images are made on its device.
        shape: (channels, height, width) of one image.
        sample: the sampler and its settings.
        seed: seed of x_T and of the noise of the steps.
        on_step: called with (steps to go, x_t, x_0_hat) after each step.

    Returns:
        x_0, (b, *shape) in the arithmetic of `sample`; `to_levels` rounds it.
    """
    dtype = torch.float64 if sample.state == "float64" else torch.float32
    init_key, noise_key = seeding.key(seed, "sample_init"), seeding.key(seed, "sample_noise")
    x_T = seeding.normal(init_key, 0, positions, shape, dtype=dtype)  # noqa: N806
    noise = Ahead(
        lambda number, rows: seeding.normal(noise_key, number, rows, shape, dtype=dtype),
        positions,
        row_size=math.prod(shape),
    )
    return run_sampler(denoiser, sample, x_T, noise=noise.at, on_step=on_step)
