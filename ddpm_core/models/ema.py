"""The moving average of the weights, from which images are drawn."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm_core.errors import ConfigError


class EMA:
    """theta_ema <- decay * theta_ema + (1 - decay) * theta, in float32, after each update.

    There is no warm-up: the first update copies, as in the original. With decay 0.9999 the average
    reaches back 10,000 steps, so earlier samples show the first weights.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        """Begin with a copy of `params`, e.g. `dict(model.named_parameters())`."""
        self._averages = {
            name: param.detach().to(torch.float32, copy=True) for name, param in params.items()
        }

    @torch.no_grad()
    def update(self, params: Mapping[str, Tensor], decay: float, *, first: bool) -> None:
        """Take the weights after one optimiser step into the average.

        Args:
            params: the weights, under the names given at the beginning.
            decay: in [0, 1).
            first: whether this is the first step of the run; the average then becomes `params`.

        Raises:
            ConfigError: if the names are not those of the beginning.
        """
        if params.keys() != self._averages.keys():
            raise ConfigError(_difference("the parameters", params, self._averages))
        averages = list(self._averages.values())
        current = [params[name].detach() for name in self._averages]
        if first:
            torch._foreach_copy_(averages, current)
            return
        current = [param.to(torch.float32) for param in current]
        torch._foreach_lerp_(averages, current, 1 - decay)

    def state_dict(self) -> dict[str, Float[Tensor, "..."]]:
        """Return the averages by name: the tensors themselves.

        The next update changes them, and goes on from what was written into them.
        """
        return dict(self._averages)


def _difference(what: str, given: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> str:
    missing, unknown = sorted(known.keys() - given.keys()), sorted(given.keys() - known.keys())
    return (
        f"{what} do not match those averaged: {len(missing)} missing {missing[:3]}, "
        f"{len(unknown)} unknown {unknown[:3]}; give the parameters of the same model"
    )
