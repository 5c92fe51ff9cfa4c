"""Adam over parameters by name, and the learning rate of a step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_EPS = 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate(step: int, maximum: float, warmup_steps: int) -> float:
    """Return the learning rate of the step after `step` completed ones.

    It grows linearly over the warm-up and stays; the very first step has 0.

    Source: Ho et al. 2020, appendix B; where it starts: the original's utils.py.
    """
    return maximum * min(step / warmup_steps, 1.0) if warmup_steps else maximum


class Optimiser:
    """Adam with its moments in place, so that a checkpoint is loaded into what is there.

    The moments lie in memory as their weights do: the fused kernel walks over all in step.

    Args:
        params: what it moves, by the names that the moments have in a checkpoint.
        betas: decay of the first and of the second moment, each in [0, 1).
    """

    def __init__(
        self, params: Mapping[str, nn.Parameter], *, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.params = dict(params)
        every = list(self.params.values())
        self._adam = torch.optim.Adam(every, lr=0.0, betas=betas, eps=_EPS, fused=True)
        for param in every:
            self._adam.state[param] = {
                "step": torch.zeros((), dtype=torch.float32, device=param.device),
                "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(param, memory_format=torch.preserve_format),
            }

    def update(self, rate: float, *, grad_clip: float) -> Tensor:
        """Move the parameters along their gradients, and drop these.

        Args:
            rate: of this step.
            grad_clip: largest norm of the gradient of all parameters together.

        Returns:
            The norm before clipping, a scalar on the device.
        """
        norm = nn.utils.clip_grad_norm_(self.params.values(), grad_clip, foreach=True)
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return `exp_avg.*`, `exp_avg_sq.*` and the one `step` of all parameters; not copies."""
        state = {
            f"{moment}.{name}": self._adam.state[param][moment]
            for name, param in self.params.items()
            for moment in _MOMENTS
        }
        return state | {"step": self._steps()[0]}

    def settle(self) -> None:
        """Count on from the `step` that was written into `state`: every parameter has its own."""
        first, *others = self._steps()
        for one in others:
            one.copy_(first)

    def _steps(self) -> list[Tensor]:
        return [self._adam.state[param]["step"] for param in self.params.values()]
