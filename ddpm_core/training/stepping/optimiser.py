"""Adam over parameters by name."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from ddpm_core.training.stepping.scaling import LossScaling
from ddpm_core.training.stepping.shares import Share

_EPS = 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimiser:
    """Adam with its moments in place, so that a checkpoint is loaded into what is there.

    The moments lie in memory as their weights do: the fused kernel walks over all in step.

    It is torch's function, not its class: making `torch.optim.Adam` imports torch's compiler, a
    second of every process that trains.

    Args:
        params: what it moves, by the names that the moments have in a checkpoint.
        betas: decay of the first and of the second moment, each in [0, 1).
        fused: whether one kernel does all; else as `torch.optim.Adam` chooses when it is not told.
        share: of the parameters, if this rank moves some of them and others the rest.

    Source: Kingma & Ba 2015, algorithm 1.
    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        fused: bool = True,
        share: Share | None = None,
    ) -> None:
        self.params = dict(params)
        self.betas = betas
        self._fused, self._share = fused or None, share
        held = self.params.keys() if share is None else share.names
        self._state = {
            name: {
                "step": torch.zeros((), device=param.device if fused else None),
                **{
                    moment: torch.zeros_like(
                        param, device=None if name in held else "meta", requires_grad=False
                    )
                    for moment in _MOMENTS
                },
            }
            for name, param in self.params.items()
        }

    @torch.no_grad()
    def update(
        self, rate: float, *, grad_clip: float = math.inf, scaling: LossScaling | None = None
    ) -> Tensor:
        """Move the parameters along their gradients, and drop these.

        Args:
            rate: of this step.
            grad_clip: largest norm of the gradient of all parameters together.
            scaling: of the loss that the gradients are of; where they are not finite, nothing is
                moved, and the step does not count. Needs `fused`.

        Returns:
            The norm before clipping, a scalar on the device.
        """
        if scaling is not None:
            scaling.unscale(
                [param.grad for param in self.params.values() if param.grad is not None]
            )
        norm = nn.utils.clip_grad_norm_(self.params.values(), grad_clip, foreach=True)
        moved = {name: param for name, param in self.params.items() if param.grad is not None}
        found_inf = None if scaling is None else scaling.judge(norm)
        if self._share is None:
            self._move(moved, rate, found_inf)
        else:
            held = {name: moved[name] for name in moved if name in self._share.names}
            self._move(held, rate, found_inf)
            others = [self._state[name]["step"] for name in moved if name not in self._share.names]
            torch._foreach_add_(others, 1)
            if found_inf is not None:
                torch._foreach_add_(others, found_inf, alpha=-1)
            self._share.spread()
        for param in moved.values():
            param.grad = None
        return norm

    def _move(
        self, moved: Mapping[str, nn.Parameter], rate: float, found_inf: Tensor | None
    ) -> None:
        averages, squares, steps = (
            [self._state[name][key] for name in moved] for key in (*_MOMENTS, "step")
        )
        adam(
            list(moved.values()),
            [param.grad for param in moved.values() if param.grad is not None],
            averages,
            squares,
            [],
            steps,
            fused=self._fused,
            found_inf=found_inf,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=rate,
            weight_decay=0.0,
            eps=_EPS,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """Return `exp_avg.*`, `exp_avg_sq.*` and the one `step` of all parameters; not copies.

        What another rank holds is on the device `meta`.
        """
        state = {
            f"{moment}.{name}": own[moment]
            for name, own in self._state.items()
            for moment in _MOMENTS
        }
        return state | {"step": self._steps()[0]}

    def settle(self) -> None:
        """Count on from the `step` that was written into `state`: every parameter has its own."""
        first, *others = self._steps()
        for one in others:
            one.copy_(first)

    def _steps(self) -> list[Tensor]:
        return [own["step"] for own in self._state.values()]
