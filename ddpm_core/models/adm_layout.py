"""The resolutions of the U-Net of guided diffusion, and which channels meet where. Knows no torch.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3 and its code; resampling first:
Saharia et al. 2022, arXiv:2205.11487, appendix B (Efficient U-Net).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One resolution."""

    width: int
    """channels"""
    attends: bool
    """whether attention follows each of its blocks"""
    halves_from: int | None
    """channels of what is halved before its blocks; None: it is at full resolution"""
    down: tuple[int, ...]
    """input channels of each residual block on the way down"""
    up: tuple[int, ...]
    """the same on the way up, one more, with those of what was kept on the way down"""
    doubles: bool
    """whether its result is doubled on the way up"""


def levels_of(
    widths: Sequence[int],
    num_res_blocks: Sequence[int],
    attends: Sequence[bool],
    *,
    resample_first: bool,
) -> tuple[Level, ...]:
    """Return the resolutions, from the highest.

    On the way up a block reads the one before it and, in reverse order, what was kept on the way
    down: the first convolution, unless it is halved at once, and each block and each halving.

    Args:
        widths: channels of each.
        num_res_blocks: blocks of each on the way down; one more on the way up.
        attends: whether each has attention.
        resample_first: whether the highest is half of the images' resolution, so that nothing but
            the first and the last convolution is computed at all of it.
    """
    kept = [] if resample_first else [widths[0]]
    down = []
    for level, (width, count) in enumerate(zip(widths, num_res_blocks, strict=True)):
        halves_from = widths[max(level - 1, 0)] if level or resample_first else None
        if halves_from is not None:
            kept.append(width if resample_first else halves_from)
        down.append((halves_from, (kept[-1], *[width] * (count - 1))))
        kept += [width] * count
    below, levels = widths[-1], []
    for level, width in reversed(list(enumerate(widths))):
        halves_from, inputs = down[level]
        up = tuple(num_in + kept.pop() for num_in in (below, *[width] * len(inputs)))
        doubles = halves_from is not None
        levels.append(Level(width, attends[level], halves_from, inputs, up, doubles))
        below = width
    return tuple(reversed(levels))
