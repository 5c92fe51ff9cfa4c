"""Pictures of the paper's views: lossy decoding, generation, shared latents, mixes, neighbours.

Images are uint8 (..., h, w, c); `frames_u8` makes them of what `diffusion` returns. `data` says in
a title which images they are.

Source: Ho et al. 2020, arXiv:2006.11239, figs. 6 to 9 and 13 to 15.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.diffusion.measures.rate_distortion import RateDistortion
from ddpm_core.drawing.sheet import Block, sheet_figure
from ddpm_core.sampling.draw import to_u8

Images = NDArray[np.uint8]

_COLUMNS = 16  # of small images that a page of 1200 pixels takes
_X_0_HAT = r"$\hat{x}_0$"


def frames_u8(images: Tensor) -> Images:
    """Return images (k, b, c, h, w) in [-1, 1] as (k, b, h, w, c) uint8."""
    count, batch = images.shape[:2]
    flat: Images = to_u8(images.flatten(0, 1)).cpu().numpy()
    return flat.reshape(count, batch, *flat.shape[1:])


def progressive_decoding_sheet(
    decoded_u8: Images,
    original_u8: Images,
    *,
    times: Sequence[int],
    curves: RateDistortion,
    data: str,
) -> bytes:
    """Return given images as a receiver sees them, the more bits it has got.

    Args:
        decoded_u8: (times, n, h, w, c), x_0_hat at each time.
        original_u8: (n, h, w, c), the images that are sent.
        times: code indices, falling.
        curves: rate and distortion of the data set: what a column costs on average.
        data: which images.
    """
    columns = [
        (
            str(int(curves.reverse_step[t])),
            f"{float(curves.rate[t]):.3f}",
            f"{float(curves.rmse[t]):.1f}",
        )
        for t in times
    ]
    count = len(original_u8)
    return sheet_figure(
        [
            Block(f"decoded so far: {_X_0_HAT}", decoded_u8, columns),
            Block("original", original_u8[None]),
        ],
        title=f"Progressive lossy decoding of {data}, the first {count} (rate and RMSE: means)",
        caption_names=("reverse step", "bits/dim", "RMSE [levels]"),
    )


def progressive_generation_sheet(
    generated_u8: Images, *, times: Sequence[int], num_timesteps: int, data: str
) -> bytes:
    """Return what each chain heads for on its way (fig. 6), from noise at the left to the image.

    Args:
        generated_u8: (times, n, h, w, c), x_0_hat at each time.
        times: code indices, in the order of `generated_u8`.
        num_timesteps: T.
        data: which images the model was trained on.
    """
    order = np.argsort(times)[::-1]
    captions = [(str(num_timesteps - times[place]),) for place in order]
    return sheet_figure(
        [Block(f"predicted image {_X_0_HAT}", generated_u8[order], captions)],
        title=f"Progressive generation, model of {data}: {generated_u8.shape[1]} samples, "
        "none chosen",
        caption_names=(f"reverse step of {num_timesteps}",),
    )


def shared_latents_sheet(
    latents_u8: Images, images_u8: Images, *, times: Sequence[int], data: str
) -> bytes:
    """Return images that share a latent, a row for each (fig. 7).

    Args:
        latents_u8: (times, h, w, c), x_t at each time.
        images_u8: (times, n, h, w, c), the images that it became.
        times: code indices of the latents.
        data: which images the model was trained on.
    """
    count = images_u8.shape[1]
    return sheet_figure(
        [
            Block("shared $x_t$", latents_u8[None]),
            Block(f"{count} draws from $p(x_0 | x_t)$", images_u8.swapaxes(0, 1)),
        ],
        title=f"Images that share a latent, model of {data}",
        row_names=[f"t = {t + 1}" for t in times],
    )


def interpolation_sheet(
    mixed_u8: Images,
    ends_u8: tuple[Images, Images],
    *,
    weights: Sequence[float],
    depth: int,
    num_timesteps: int,
    data: str,
) -> bytes:
    """Return pairs of images and what lies between them at one depth, a row for each (fig. 8).

    Args:
        mixed_u8: (weights, n, h, w, c).
        ends_u8: the sources, (n, h, w, c) each.
        weights: lambda of each column; 0 and 1 are reconstructions of the sources.
        depth: diffusion steps before they were mixed.
        num_timesteps: T.
        data: which images.
    """
    return _between(
        mixed_u8,
        ends_u8,
        weights,
        title=f"Interpolation after {depth} of {num_timesteps} diffusion steps: {data}",
        row_names=(),
    )


def depths_sheet(
    mixed_u8: Images,
    ends_u8: tuple[Images, Images],
    *,
    weights: Sequence[float],
    depths: Sequence[int],
    num_timesteps: int,
    data: str,
) -> bytes:
    """Return one pair of images and what lies between them at several depths (fig. 9).

    Args:
        mixed_u8: (depths, weights, h, w, c).
        ends_u8: the two sources, (h, w, c) each.
        weights: lambda of each column.
        depths: diffusion steps of each row before mixing; after none pixels are mixed.
        num_timesteps: T.
        data: which images.
    """
    repeated = [np.repeat(end[None], len(depths), axis=0) for end in ends_u8]
    return _between(
        mixed_u8.swapaxes(0, 1),
        (repeated[0], repeated[1]),
        weights,
        title=f"Interpolation, the coarser the more of {num_timesteps} diffusion steps: {data}",
        row_names=[f"{depth} steps" for depth in depths],
    )


def _between(
    mixed_u8: Images,
    ends_u8: tuple[Images, Images],
    weights: Sequence[float],
    *,
    title: str,
    row_names: Sequence[str],
) -> bytes:
    captions = [(f"{weight:g}",) for weight in weights]
    return sheet_figure(
        [
            Block("source", ends_u8[0][None]),
            Block("decoded mixes by λ (0 and 1: reconstructions)", mixed_u8, captions),
            Block("source", ends_u8[1][None]),
        ],
        title=title,
        row_names=row_names,
    )


def neighbours_sheet(
    samples_u8: Images,
    nearest_u8: Images,
    distances: Tensor,
    *,
    num_train: int,
    scale: float = 1.0,
    distance: str,
    data: str,
) -> bytes:
    """Return samples beside their nearest training images, nearest first (figs. 13 to 15).

    Args:
        samples_u8: (n, h, w, c).
        nearest_u8: (n, k, h, w, c), the training images nearest to each, nearest first.
        distances: (n, k), in whatever space.
        num_train: training images among which they were looked for.
        scale: what the distances are multiplied by, to be in a unit that says something.
        distance: what the distances are then, e.g. "RMSE in levels".
        data: which images.
    """
    notes = [[_digits(scale * value) for value in column] for column in distances.T.tolist()]
    return sheet_figure(
        [
            Block("sample", samples_u8[None]),
            Block("nearest training images", nearest_u8.swapaxes(0, 1), notes=notes),
        ],
        title=f"Nearest neighbours among {num_train} training images of {data}; "
        f"numbers: {distance}",
    )


def samplers_sheet(
    cells_u8: Images, *, labels: Sequence[str], steps: Sequence[int], data: str
) -> bytes:
    """Return what every sampler makes of the same noise: a row for each, a block for each image.

    Args:
        cells_u8: (images, steps, samplers, h, w, c); black where a sampler takes no such number.
        labels: of the samplers.
        steps: numbers of steps of the columns, ascending.
        data: which images the model was trained on.
    """
    room = max(1, _COLUMNS // len(steps))
    captions = [(str(number),) for number in steps]
    return sheet_figure(
        [
            Block(f"noise {place + 1}", columns, captions)
            for place, columns in enumerate(cells_u8[:room])
        ],
        title=f"The same noise through every sampler, model of {data}",
        row_names=labels,
        caption_names=("steps",),
    )


def ablations_sheet(
    samples_u8: Images, *, labels: Sequence[str], data: str, num_steps: int
) -> bytes:
    """Return the first samples of each ablation, a row for each; black if its training diverged.

    Args:
        samples_u8: (ablations, n, h, w, c), of the same noise in each column.
        labels: of the ablations.
        data: which images the models were trained on.
        num_steps: optimiser steps of each.
    """
    return sheet_figure(
        [Block("samples, none chosen", samples_u8.swapaxes(0, 1))],
        title=f"The paper's table 2 on {data}: {num_steps} steps each",
        row_names=labels,
    )


def round_trip_sheet(
    returned_u8: Images,
    latents_u8: Images,
    original_u8: Images,
    *,
    steps: Sequence[int],
    rmse: Sequence[float],
    data: str,
) -> bytes:
    """Return given images, their DDIM latents, and what is decoded from them by steps taken.

    Args:
        returned_u8: (steps, n, h, w, c).
        latents_u8: (n, h, w, c), x_T by the most steps.
        original_u8: (n, h, w, c).
        steps: numbers of steps, ascending.
        rmse: mean error of each, in levels.
        data: which images.
    """
    columns = [(str(n), f"{value:.1f}") for n, value in zip(steps, rmse, strict=True)]
    return sheet_figure(
        [
            Block("original", original_u8[None]),
            Block("its $x_T$", latents_u8[None]),
            Block("decoded again, by steps each way", returned_u8, columns),
        ],
        title=f"To $x_T$ and back by DDIM without noise: {data}",
        caption_names=("steps", "RMSE [levels]"),
    )


def _digits(value: float) -> str:
    """Return three figures; what is 0 is 0."""
    return f"{value:.0f}" if value == 0 or value >= 100 else f"{value:#.3g}"
