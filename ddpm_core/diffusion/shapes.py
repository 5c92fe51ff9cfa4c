"""The shapes of the mathematics; equal letters within one signature are equal sizes."""

from jaxtyping import Float, Int, Real
from torch import Tensor

Images = Float[Tensor, "b *d"]
"""b images, latents or videos: every axis after the first is treated alike"""

PerImage = Float[Tensor, " b"]
"""one number for each image"""

PerImageScale = Float[Tensor, "b ..."]
"""numbers that multiply images: one for each image, or for each of their values"""

Timesteps = Int[Tensor, " b"]
"""code index t of each image, 0..T-1; the paper's step is t + 1"""

Times = Real[Tensor, " b"]
"""code index t of each image, whole or, for the solvers of differential equations, in between"""


def mean_per_image(values: Images) -> PerImage:
    """Return the mean over all axes but the first."""
    axes = tuple(range(1, values.ndim))
    return values.mean(dim=axes) if axes else values  # without axes `mean` would take them all
