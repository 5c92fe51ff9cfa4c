"""The Inception network of 2015, by which the FID, the inception score and the sFID are defined.

The layers have the names of the published weights (`weights-inception-2015-12-05-6726825d.pth`,
converted from TensorFlow's graph), which differ from torchvision's network in four places: averages
over a border leave the padding out, the last block takes a maximum instead of an average, the
normalisation has eps = 1e-3, and there are 1008 classes.

Source: Szegedy et al. 2016, arXiv:1512.00567; the pretrained graph `inception-2015-12-05.tgz`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299
NUM_CLASSES = 1008
SPATIAL_CHANNELS = 7
"""of `mixed_6/conv`, as the sFID of ADM counts them"""
_EPS = 1e-3


@dataclass(frozen=True)
class Taps:
    """What is read off on the way, each averaged over its map but `spatial`."""

    f64: Float[Tensor, "b 64"]
    """after the first pooling"""
    f192: Float[Tensor, "b 192"]
    """after the second pooling"""
    spatial: Float[Tensor, "b 2023"]
    """the first 7 channels of block `Mixed_6d` (`mixed_6/conv` of the graph) at 17x17 places, place
    by place, as ADM's statistics have them"""
    f768: Float[Tensor, "b 768"]
    """before the third reduction"""
    pooled: Float[Tensor, "b 2048"]
    """the features of the FID and the KID"""
    logits_unbiased: Float[Tensor, "b 1008"]
    """without the bias of the last layer, as inception scores are published"""
    logits: Float[Tensor, "b 1008"]
    """with it"""


def resized_like_tensorflow(
    images: Float[Tensor, "b c h w"], height: int, width: int
) -> Float[Tensor, "b c {height} {width}"]:
    """Return images resized by TensorFlow 1's `resize_bilinear(align_corners=False)`.

    Pixel i of the result lies at i * (old / new) of the old ones: no half pixels, and nothing is
    averaged where images shrink. The numbers of the FID depend on just that.

    Source: tensorflow/core/kernels/image_resizer_state.h and resize_bilinear_op.cc of version 1.
    """
    upper, lower, down = _between(images.shape[2], height, images)
    left, right, across = _between(images.shape[3], width, images)
    rows_above, rows_below = images[:, :, upper], images[:, :, lower]
    above = rows_above[..., left] + (rows_above[..., right] - rows_above[..., left]) * across
    below = rows_below[..., left] + (rows_below[..., right] - rows_below[..., left]) * across
    return above + (below - above) * down[:, None]


def _between(old: int, new: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the old pixels before and behind each new one, and how far it is from the first."""
    scale = torch.tensor(old / new, dtype=torch.float32, device=like.device)
    at = torch.arange(new, dtype=like.dtype, device=like.device) * scale
    before = at.long()
    return before, (before + 1).clamp_max(old - 1), at - before.to(at.dtype)


class Conv(nn.Module):
    """A convolution without bias, its normalisation, and the rectifier."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=_EPS)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class BlockA(nn.Module):
    """At 35x35: branches of 1x1, 5x5, two 3x3, and the average."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1 = Conv(inputs, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, twice, self.branch_pool(_average(x))], dim=1)


class ReductionB(nn.Module):
    """From 35x35 to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockC(nn.Module):
    """At 17x17: branches of 1x1, 7x7 and two 7x7 in lines and columns, and the average."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        line, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(inputs, 192, 1)
        self.branch7x7_1 = Conv(inputs, inner, 1)
        self.branch7x7_2 = Conv(inner, inner, line, padding=(0, 3))
        self.branch7x7_3 = Conv(inner, 192, column, padding=(3, 0))
        self.branch7x7dbl_1 = Conv(inputs, inner, 1)
        self.branch7x7dbl_2 = Conv(inner, inner, column, padding=(3, 0))
        self.branch7x7dbl_3 = Conv(inner, inner, line, padding=(0, 3))
        self.branch7x7dbl_4 = Conv(inner, inner, column, padding=(3, 0))
        self.branch7x7dbl_5 = Conv(inner, 192, line, padding=(0, 3))
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(_average(x))], dim=1)


class ReductionD(nn.Module):
    """From 17x17 to 8x8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(inputs, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(inputs, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], dim=1)


class BlockE(nn.Module):
    """At 8x8: branches of 1x1, a 3x3 and two 3x3 that end in a line and a column, and a pooling."""

    def __init__(self, inputs: int, *, takes_maximum: bool) -> None:
        super().__init__()
        self.takes_maximum = takes_maximum
        line, column = (1, 3), (3, 1)
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a = Conv(384, 384, line, padding=(0, 1))
        self.branch3x3_2b = Conv(384, 384, column, padding=(1, 0))
        self.branch3x3dbl_1 = Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, line, padding=(0, 1))
        self.branch3x3dbl_3b = Conv(384, 384, column, padding=(1, 0))
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        three, twice = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(_maximum(x) if self.takes_maximum else _average(x)),
        ]
        return torch.cat(branches, dim=1)


class Inception(nn.Module):
    """The network; its state is that of the published file, name by name."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = ReductionB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = ReductionD(768)
        self.Mixed_7b = BlockE(1280, takes_maximum=False)
        self.Mixed_7c = BlockE(2048, takes_maximum=True)
        self.fc = nn.Linear(2048, NUM_CLASSES)

    def forward(self, images_u8: UInt8[Tensor, "b 3 h w"]) -> Taps:
        """Return what is read off of images of any size, levels 0 to 255."""
        x = resized_like_tensorflow(images_u8.to(self.fc.weight.dtype), SIDE, SIDE)
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        f64 = x.mean(dim=(2, 3))
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        f192 = x.mean(dim=(2, 3))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))
        spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_6e(x)
        f768 = x.mean(dim=(2, 3))
        pooled = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))
        logits_unbiased = pooled @ self.fc.weight.T
        logits = logits_unbiased + self.fc.bias
        return Taps(f64, f192, spatial, f768, pooled, logits_unbiased, logits)
