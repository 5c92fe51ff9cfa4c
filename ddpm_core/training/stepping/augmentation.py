"""Non-leaking augmentation: training images are transformed, and the network is given how.

Images are drawn and measured with the label of no transform, all zeros: a network that has learned
few images under many transforms does not know them by heart as soon, and draws none that is turned.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2 and table 6, with the constants and in
the order of its code. As in its runs this is the geometric part; that of colour is not here.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.config import RunConfig
from ddpm_core.training.stepping.resampling import Resampler

_LOG2_SCALE = 0.2
"""of a scale or a stretch by one standard deviation"""
_SHIFT = 1 / 8
"""of the image's size, by one standard deviation"""


@dataclass(frozen=True)
class Transform:
    """What is done to each image of a batch, all (b,) float64; 0 is nothing.

    In this order; the names in the source are a_0 to a_7.
    """

    mirror: Tensor
    """1: left and right are swapped"""
    upend: Tensor
    """1: top and bottom are swapped"""
    scale: Tensor
    """it is made 2**(0.2 scale) times as large"""
    turn: Tensor
    """angle by which it is turned, counter-clockwise"""
    axis: Tensor
    """angle of the line along which it is stretched, counter-clockwise from the horizontal"""
    stretch: Tensor
    """it is made 2**(0.2 stretch) times as long along that line, and as much shorter across it"""
    right: Tensor
    """it is moved to the right, in eighths of its width"""
    down: Tensor
    """it is moved downwards, in eighths of its height"""

    @property
    def label(self) -> Float[Tensor, "b 9"]:
        """What the network is given of it."""
        numbers = [
            self.mirror,
            self.upend,
            self.scale,
            self.turn.cos() - 1,
            self.turn.sin(),
            self.stretch * self.axis.cos(),
            self.stretch * self.axis.sin(),
            self.right,
            self.down,
        ]
        return torch.stack(numbers, dim=1).float()

    @property
    def resamples(self) -> Tensor:
        """(b,) bool: whether it is more than a mirroring."""
        moves = (self.scale, self.turn, self.stretch, self.right, self.down)
        return torch.stack(moves).any(dim=0)

    def inverse(self, height: int, width: int) -> Float64[Tensor, "b 2 3"]:
        """Return from where each place has what it shows, as `Resampler` takes it; without the
        mirrorings.
        """
        longer = (_LOG2_SCALE * self.stretch).exp2()
        unstretched = torch.diag_embed(torch.stack([1 / longer, longer], dim=1))
        along = _turned(-self.axis) @ unstretched @ _turned(self.axis)
        unscaled = (-_LOG2_SCALE * self.scale).exp2()[:, None, None]
        matrix = unscaled * _turned(self.turn) @ along
        shift = torch.stack([width * _SHIFT * self.right, height * _SHIFT * self.down], dim=1)
        return torch.cat([matrix, -matrix @ shift[:, :, None]], dim=2)


def _turned(angle: Float64[Tensor, " b"]) -> Float64[Tensor, "b 2 2"]:
    """Return the turns by an angle, from the axis to the right to that downwards."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)


def draw_transform(
    seed: int, step: seeding.Step, positions: Tensor, probability: float
) -> Transform:
    """Return the transform of each image of a batch: a function of (seed, step, position).

    Args:
        seed: of the training.
        step: optimiser step; or that of each row.
        positions: (b,) index of each image in the global batch.
        probability: of each transform but the mirroring, which half of all images have, and the
            upending, which half of those have that it would be of.
    """
    uniform = seeding.uniform(seeding.key(seed, "augment"), step, positions, (10,)).unbind(1)
    normal = seeding.normal(
        seeding.key(seed, "augment", 1), step, positions, (4,), dtype=torch.float64
    ).unbind(1)
    upends, scales, turns, stretches, shifts = (one < probability for one in uniform[:5])
    mirrored, upended, turn, axis, leans = uniform[5:]
    return Transform(
        mirror=(mirrored < 0.5).double(),
        upend=((upended < 0.5) & upends).double(),
        scale=normal[0] * scales,
        turn=(2 * turn - 1) * math.pi * turns,
        axis=(2 * axis - 1) * math.pi * (leans < 0.5),
        stretch=normal[1] * stretches,
        right=normal[2] * shifts,
        down=normal[3] * shifts,
    )


class Augmentation:
    """Transforms the images of a training.

    Args:
        config: of the run.
        device: where the images are.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._size = config.data.height, config.data.width
        self._resample = Resampler(*self._size, device)
        # To know which images are more than mirrored, a GPU would be waited for.
        self._chooses = device.type == "cpu"

    def __call__(self, x_0: Float[Tensor, "b c h w"], transform: Transform) -> Tensor:
        """Return each image under its transform; where that is nothing, the image itself.

        Values a little beyond those of the images occur, as always where images are filtered.
        """
        x_0 = torch.where(_rows(transform.mirror > 0), x_0.flip(3), x_0)
        x_0 = torch.where(_rows(transform.upend > 0), x_0.flip(2), x_0)
        inverse, resamples = transform.inverse(*self._size), transform.resamples
        if self._chooses:
            x_0[resamples] = self._resample(x_0[resamples], inverse[resamples])
            return x_0
        return torch.where(_rows(resamples), self._resample(x_0, inverse), x_0)


def _rows(chosen: Tensor) -> Tensor:
    return chosen[:, None, None, None]
