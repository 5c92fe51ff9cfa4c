"""The moving average of the weights, from which images are drawn."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class EMA:
    """average <- decay * average + (1 - decay) * weights, in float32, after each update.

    Which decay an update has is in `profiles`. With a decay of 0.9999 the average reaches back
    10,000 steps, so earlier samples show the first weights.

    Args:
        params: the weights themselves, e.g. `dict(model.named_parameters())`: each update takes
            them as they are then, and in float32 it copies none. The average begins as they are.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self._params = list(params.values())
        self._averages = {
            name: param.detach().to(torch.float32, copy=True) for name, param in params.items()
        }
        self._values = list(self._averages.values())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Take the weights after one optimiser step into the average.

        Args:
            decay: in [0, 1); 0 makes it the weights, as in the first step of a run.
        """
        if decay == 0:
            torch._foreach_copy_(self._values, self._params)
            return
        current = [param.to(torch.float32) for param in self._params]  # themselves, if they are
        torch._foreach_lerp_(self._values, current, 1 - decay)

    def state_dict(self) -> dict[str, Float[Tensor, "..."]]:
        """Return the averages by name: the tensors themselves.

        The next update changes them, and goes on from what was written into them.
        """
        return dict(self._averages)
