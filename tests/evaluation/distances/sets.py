"""Two sets of features of different distributions, and of different sizes."""

import torch
from torch import Tensor


def drawn(count: int, dim: int, *, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator) / dim**0.5
    return torch.randn(count, dim, generator=generator) @ mixing + shift
