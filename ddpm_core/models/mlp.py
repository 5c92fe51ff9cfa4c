"""A network of dense layers, for images that are vectors: read out by bumps over the timestep.

The layers are given x_t alone. What they return is, for each value of the output, a number for each
of n bumps over the timestep; the output at t is their mean, weighted by the bumps there. It begins
as the function that is 0 everywhere.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, appendix D.2 (temporal readout), and its code
`model.py`, generate_temporal_basis.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import NOTHING, Conditioning, require_accepted
from ddpm_core.errors import ConfigError
from ddpm_core.models.blocks import Linear, Table, initialise, null_of


def require_shape(x_t: Float[Tensor, "b c h w"], shape: tuple[int, int, int]) -> None:
    """Refuse images that a network of dense layers cannot take.

    Raises:
        ConfigError: if they have another (channels, height, width) than `shape`.
    """
    if tuple(x_t.shape[1:]) != shape:
        raise ConfigError(
            f"images shaped {tuple(x_t.shape[1:])} were given to a network that takes those of "
            f"{shape}; give such images"
        )


class BumpReadout(nn.Module):
    """Means over n numbers, weighted by Gaussian bumps over the timestep.

    Args:
        num_bumps: n, at least 2; their centres lie equally far apart from the first timestep to the
            last, and half of that distance is their standard deviation.
        num_timesteps: T, of the chain; at least 2.
    """

    def __init__(self, num_bumps: int, num_timesteps: int) -> None:
        super().__init__()
        self.num_bumps, self.last = num_bumps, num_timesteps - 1

    def weights(self, t: Real[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Return the weights of the bumps at code indices `t`, of which the sum is 1; float32."""
        distance = 2 / (self.num_bumps - 1)
        centres = -1 + distance * torch.arange(self.num_bumps, device=t.device)
        away = (2 * t.float() / self.last - 1)[:, None] - centres
        # Bumps over their sum, of which none may vanish.
        return (-2 * (away / distance).square()).softmax(1)

    def forward(
        self, values: Float[Tensor, "b k n"], t: Real[Tensor, " b"]
    ) -> Float[Tensor, "b k"]:
        mean: Tensor = (values * self.weights(t).to(values.dtype)[:, None]).sum(2)
        return mean


class MLP(nn.Module):
    """(x_t, t) -> what it is trained to predict of x_t.

    Computes in the dtype of its parameters or, under autocast, in that of autocast, but the last
    layer and the readout in float32.

    Args:
        shape: (channels, height, width) of the images.
        out_channels: channels of the prediction; twice those of the images for a learned variance.
        hidden_size: features of a layer.
        num_layers: layers before the last, at least 1.
        first_gain: of the weights that the first layer begins with.
        num_bumps: of the readout.
        num_timesteps: of the chain.
        num_classes: as of `UNet`.
        generator: CPU generator from which the initial weights are drawn.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        out_channels: int,
        hidden_size: int,
        num_layers: int,
        first_gain: float = 1.0,
        num_bumps: int,
        num_timesteps: int,
        num_classes: int | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.null = null_of(num_classes)
        """of one image: the value of each part that says nothing"""
        self.accepts = self.null.parts
        """the parts of a conditioning that it takes"""
        self.shape, self.out_channels = shape, out_channels
        pixels = shape[1] * shape[2]
        sizes = [shape[0] * pixels, *[hidden_size] * num_layers]
        rows = None if num_classes is None else num_classes + 1
        self.class_embed = None if rows is None else Table(rows, hidden_size)
        self.layers = nn.ModuleList(
            Linear(before, after, gain=1.0 if number else first_gain)
            for number, (before, after) in enumerate(pairwise(sizes))
        )
        self.layer_out = Linear(hidden_size, out_channels * pixels * num_bumps, gain=0.0)
        self.readout = BumpReadout(num_bumps, num_timesteps)
        initialise(self, generator)

    @property
    def last(self) -> nn.Module:
        """The layer whose output is the prediction, but for the readout; it computes in float32."""
        return self.layer_out

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: Real[Tensor, " b"],
        conditioning: Conditioning = NOTHING,
    ) -> Float[Tensor, "b k h w"]:
        """Return the prediction for images `x_t` at code indices `t`, whole or in between.

        Raises:
            ConfigError: if the images have another shape than `shape`.
            DataError: if the conditioning has other parts than `accepts`.
        """
        if self.accepts or conditioning is not NOTHING:
            require_accepted(conditioning, self.accepts, model="this network")
        require_shape(x_t, self.shape)
        x = x_t.flatten(1).to(self.layer_out.weight.dtype)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number == 0 and self.class_embed is not None:
                x = x + self.class_embed(conditioning.label)
            x = F.silu(x)
        with torch.autocast(x.device.type, enabled=False):
            values = self.layer_out(x.to(self.layer_out.weight.dtype))
            pixels = math.prod(self.shape[1:])
            said = self.readout(values.reshape(len(x), self.out_channels * pixels, -1), t)
        images: Tensor = said.reshape(len(x), self.out_channels, *self.shape[1:])
        return images
