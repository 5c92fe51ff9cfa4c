"""Blocks whose activations are computed again in the backward pass instead of being kept.

Source: Chen et al. 2016, arXiv:1604.06174, section 4: with n blocks of equal size the memory of the
activations falls from all that is inside of them to what lies between them, and the forward pass is
computed twice.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A module that can be computed again. Abstract.

    The second time has the dropout masks and the autocast of the first, so that gradients have
    the same bits.
    """

    is_recomputed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as of nn.Module
        if self.is_recomputed and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)


def recompute_activations(network: nn.Module) -> None:
    """Have all blocks of a network that can be recomputed keep nothing between the passes."""
    for module in network.modules():
        if isinstance(module, Recomputable):
            module.is_recomputed = True
