"""The original's network on variables as TensorFlow keeps them: (b, h, w, c), and W as (in, out).

Written from the description of the network, sharing nothing with ours, neither names nor layouts.
A variable comes into being, random, when it is first asked for, as with `tf.get_variable`.
"""

import math

import torch
from torch import Tensor


class Variables(dict[str, Tensor]):
    """Variables by name; `get_variable` makes those that are not there."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def get_variable(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            scale = 1 / math.sqrt(math.prod(shape[:-1]) or 1) if len(shape) > 1 else 0.3
            self[name] = scale * torch.randn(*shape, generator=self._generator).double()
        assert self[name].shape == shape
        return self[name]

    def conv(self, name: str, x: Tensor, num_out: int, *, size: int = 3, stride: int = 1) -> Tensor:
        """Sum over the taps; SAME: with a stride of 2 the extra row and column are at the end."""
        W = self.get_variable(f"{name}/W", size, size, x.shape[-1], num_out)
        height, width = x.shape[1] // stride, x.shape[2] // stride
        missing = max((height - 1) * stride + size - x.shape[1], 0)
        before, after = missing // 2, missing - missing // 2
        padded = x.new_zeros(len(x), x.shape[1] + missing, x.shape[2] + missing, x.shape[3])
        padded[:, before : before + x.shape[1], before : before + x.shape[2]] = x
        assert after >= before
        y = self.get_variable(f"{name}/b", num_out)
        for i in range(size):
            for j in range(size):
                rows = slice(i, i + (height - 1) * stride + 1, stride)
                columns = slice(j, j + (width - 1) * stride + 1, stride)
                y = y + padded[:, rows, columns] @ W[i, j]
        return y

    def dense(self, name: str, x: Tensor, num_out: int) -> Tensor:
        W = self.get_variable(f"{name}/W", x.shape[-1], num_out)
        return x @ W + self.get_variable(f"{name}/b", num_out)

    def norm(self, name: str, x: Tensor, num_groups: int) -> Tensor:
        channels = x.shape[-1]
        grouped = x.reshape(len(x), -1, num_groups, channels // num_groups)
        mean = grouped.mean((1, 3), keepdim=True)
        variance = (grouped - mean).square().mean((1, 3), keepdim=True)
        normal = ((grouped - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
        return normal * self.get_variable(f"{name}/gamma", channels) + self.get_variable(
            f"{name}/beta", channels
        )

    def res_block(self, name: str, x: Tensor, temb: Tensor, num_out: int, groups: int) -> Tensor:
        h = self.conv(f"{name}/conv1", swish(self.norm(f"{name}/norm1", x, groups)), num_out)
        h = h + self.dense(f"{name}/temb_proj", swish(temb), num_out)[:, None, None]
        h = self.conv(f"{name}/conv2", swish(self.norm(f"{name}/norm2", h, groups)), num_out)
        if x.shape[-1] != num_out:
            x = self.dense(f"{name}/nin_shortcut", x, num_out)
        return x + h

    def attention(self, name: str, x: Tensor, groups: int) -> Tensor:
        channels = x.shape[-1]
        h = self.norm(f"{name}/norm", x, groups).reshape(len(x), -1, channels)
        q, k, v = (self.dense(f"{name}/{part}", h, channels) for part in "qkv")
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(channels), dim=-1) @ v
        return x + self.dense(f"{name}/proj_out", mixed, channels).reshape(x.shape)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def original_unet(
    v: Variables,
    x: Tensor,
    t: Tensor,
    *,
    base: int,
    mults: tuple[int, ...],
    num_res: int,
    attends: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Return the prediction for x (b, h, w, c), t (b,); attention where the height is `attends`."""
    half = base // 2
    angles = t.float()[:, None] * torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - 1)
    )
    temb = torch.cat([angles.sin(), angles.cos()], dim=1).double()
    temb = v.dense(
        "model/temb/dense1", swish(v.dense("model/temb/dense0", temb, 4 * base)), 4 * base
    )

    hs = [v.conv("model/conv_in", x, base)]
    for level, mult in enumerate(mults):
        name = f"model/down_{level}"
        for j in range(num_res):
            h = v.res_block(f"{name}/block_{j}", hs[-1], temb, base * mult, groups)
            if h.shape[1] in attends:
                h = v.attention(f"{name}/attn_{j}", h, groups)
            hs.append(h)
        if level != len(mults) - 1:
            hs.append(v.conv(f"{name}/downsample/conv", hs[-1], base * mult, stride=2))

    h, width = hs[-1], base * mults[-1]
    h = v.res_block("model/mid/block_1", h, temb, width, groups)
    h = v.attention("model/mid/attn_1", h, groups)
    h = v.res_block("model/mid/block_2", h, temb, width, groups)

    for level in reversed(range(len(mults))):
        name = f"model/up_{level}"
        for j in range(num_res + 1):
            joined = torch.cat([h, hs.pop()], dim=-1)
            h = v.res_block(f"{name}/block_{j}", joined, temb, base * mults[level], groups)
            if h.shape[1] in attends:
                h = v.attention(f"{name}/attn_{j}", h, groups)
        if level:
            doubled = h.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
            h = v.conv(f"{name}/upsample/conv", doubled, h.shape[-1])
    h = swish(v.norm("model/norm_out", h, groups))
    return v.conv("model/conv_out", h, x.shape[-1])
