"""The moving average of the weights, from which images are drawn."""

from collections.abc import Collection, Mapping

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
        held: of which the average is kept here; it is on the device `meta` for the others. None:
            of all.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(
        self, params: Mapping[str, Tensor], *, held: Collection[str] | None = None
    ) -> None:
        names = list(params) if held is None else [name for name in params if name in held]
        self._params = [params[name] for name in names]
        averages = {name: params[name].detach().to(torch.float32, copy=True) for name in names}
        self._values = list(averages.values())
        self._averages = {
            name: averages[name]
            if name in averages
            else torch.empty_like(param, dtype=torch.float32, device="meta", requires_grad=False)
            for name, param in params.items()
        }

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Take the weights after one optimiser step into the average.

        Args:
            decay: in [0, 1); 0 makes it the weights, as in the first step of a run.
        """
        if not self._values:
            return
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
