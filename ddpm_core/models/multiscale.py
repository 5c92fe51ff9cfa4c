"""The convolutional network of 2015: convolutions at several scales beside dense layers.

The layers are given x_t alone, as in `mlp`: below, convolutions and dense layers of the whole image
side by side; above them, layers that act on each pixel alone, of which the last is read out by
bumps over the timestep. It begins as the function that is 0 everywhere.

A layer of convolutions is one at each scale, of which the mean is taken, and one nonlinearity, as
the paper has it; its code has one at each scale. The nonlinearity is that of the code, a leaky
ReLU, where the paper has soft ReLU and tanh.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, appendix D.2, and its code `regression.py`,
MultiScaleConvolution and MLP_conv_dense.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_core.conditioning import NOTHING, Conditioning, require_accepted
from ddpm_core.models.blocks import Conv, Linear, Table, initialise, null_of
from ddpm_core.models.mlp import BumpReadout, require_shape

_LEAK = 0.05


class MultiScaleConv(nn.Module):
    """The mean over scales of a convolution of 3x3 of the image made smaller, made larger again.

    Args:
        in_channels: of the image.
        out_channels: of the result.
        num_scales: n; scale s has pixels that are means over 2**s x 2**s, for s = 0 ... n - 1.
    """

    def __init__(self, in_channels: int, out_channels: int, num_scales: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Conv(in_channels, out_channels, 3) for _ in range(num_scales))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        at_each = [
            F.interpolate(conv(F.avg_pool2d(x, 2**scale)), scale_factor=2**scale)
            if scale
            else conv(x)
            for scale, conv in enumerate(self.scales)
        ]
        return torch.stack(at_each).mean(0)


class MultiScale(nn.Module):
    """(x_t, t) -> what it is trained to predict of x_t.

    Computes in the dtype of its parameters or, under autocast, in that of autocast, but the last
    layer and the readout in float32.

    Args:
        shape: (channels, height, width) of the images; height and width are multiples of
            2 ** (num_scales - 1).
        out_channels: channels of the prediction; twice those of the images for a learned variance.
        conv_channels: channels of a convolution.
        num_conv_layers: layers of convolutions, at least 1.
        num_scales: scales of each of them.
        dense_size: features of a dense layer.
        num_dense_layers: dense layers, the one that returns to the pixels included; 0: none.
        dense_channels: channels that the last of them has for each pixel.
        upper_channels: channels of a layer of single pixels.
        num_upper_layers: such layers before the last, at least 1.
        num_bumps: of the readout.
        num_timesteps: of the chain.
        num_classes: as of `UNet`; their rows are added in the first layer of single pixels.
        generator: CPU generator from which the initial weights are drawn.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        out_channels: int,
        conv_channels: int,
        num_conv_layers: int,
        num_scales: int,
        dense_size: int,
        num_dense_layers: int,
        dense_channels: int,
        upper_channels: int,
        num_upper_layers: int,
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
        channels, pixels = shape[0], shape[1] * shape[2]
        rows = None if num_classes is None else num_classes + 1
        self.class_embed = None if rows is None else Table(rows, upper_channels)
        self.convs = nn.ModuleList(
            MultiScaleConv(*pair, num_scales)
            for pair in pairwise([channels, *[conv_channels] * num_conv_layers])
        )
        sizes = [channels * pixels, *[dense_size] * (num_dense_layers - 1), dense_channels * pixels]
        dense = pairwise(sizes) if num_dense_layers else ()
        self.dense = nn.ModuleList(Linear(*pair) for pair in dense)
        below = conv_channels + (dense_channels if num_dense_layers else 0)
        self.upper = nn.ModuleList(
            Conv(*pair, 1) for pair in pairwise([below, *[upper_channels] * num_upper_layers])
        )
        self.layer_out = Conv(upper_channels, out_channels * num_bumps, 1, gain=0.0)
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
        x = self._below(x_t.to(self.layer_out.weight.dtype))
        for number, layer in enumerate(self.upper):
            x = layer(x)
            if number == 0 and self.class_embed is not None:
                x = x + self.class_embed(conditioning.label)[:, :, None, None]
            x = F.leaky_relu(x, _LEAK)
        with torch.autocast(x.device.type, enabled=False):
            values = self.layer_out(x.to(self.layer_out.weight.dtype))
            of_each = values.unflatten(1, (self.out_channels, -1)).movedim(2, -1)
            said = self.readout(of_each.flatten(1, 3), t)
        images: Tensor = said.reshape(len(x), self.out_channels, *self.shape[1:])
        return images

    def _below(self, x_t: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return what convolutions and dense layers make of each pixel, equally weighty."""
        x = x_t
        for conv in self.convs:
            x = F.leaky_relu(conv(x), _LEAK)
        if not self.dense:
            return x
        whole = x_t.flatten(1)
        for layer in self.dense:
            whole = F.leaky_relu(layer(whole), _LEAK)
        beside = whole.reshape(len(x), -1, *self.shape[1:])
        return torch.cat([one / math.sqrt(one.shape[1]) for one in (x, beside)], dim=1)
