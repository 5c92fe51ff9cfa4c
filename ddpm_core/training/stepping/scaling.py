"""Scaling of the loss, so that gradients in float16 neither vanish nor overflow.

float16 holds no number below 6e-8 and none above 65,504. The loss is multiplied before the backward
pass and the gradient divided after it. The factor doubles after many steps without overflow; a step
whose gradient overflows is left out, and halves it.

Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2 (loss scaling), with the numbers of
torch.amp.GradScaler. Unlike that, nothing here waits for the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST_SCALE, LARGEST_SCALE = 2.0**16, 2.0**24
FLOOR = 2.0**-14
"""the smallest normal number of float16: a training that overflows even so has diverged"""
STEPS_TO_GROW = 2000


class LossScaling:
    """The factor of the loss, and what it is adapted by; the same on all ranks at all times.

    Args:
        device: of the gradients.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), FIRST_SCALE, device=device)
        """a power of two, and so it rounds nothing but what it lifts out of the subnormal"""
        self._good_steps, self._skipped, self._norm = torch.zeros(3, device=device).unbind()

    def unscale(self, grads: Sequence[Tensor]) -> None:
        """Divide the gradient, which must be that of all ranks, in place."""
        torch._foreach_mul_(list(grads), self.scale.reciprocal())

    def judge(self, norm: Tensor) -> Tensor:
        """Adapt the factor to the step whose gradient has that norm.

        Args:
            norm: scalar, of the gradient of all parameters; not finite if any of them is not.

        Returns:
            1 if the step must be left out, else 0; float32, on the device.
        """
        is_good = norm.isfinite()
        self._good_steps.copy_(torch.where(is_good, self._good_steps + 1, 0))
        grows = self._good_steps >= STEPS_TO_GROW
        self._good_steps.copy_(torch.where(grows, 0, self._good_steps))
        factor = torch.where(is_good, torch.where(grows, 2.0, 1.0), 0.5)
        self.scale.copy_((self.scale * factor).clamp(FLOOR, LARGEST_SCALE))
        left_out = is_good.logical_not().float()
        self._skipped += left_out
        self._norm.copy_(torch.where(is_good, norm, self._norm))
        return left_out

    def noted(self) -> dict[str, Tensor]:
        """Return `loss_scale`, `skipped_steps` since step 0, and `grad_norm`, of the last step that
        was not left out, for the curves.
        """
        return {
            "loss_scale": self.scale,
            "skipped_steps": self._skipped,
            "grad_norm": self._norm,
        }

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step depends on, and the curves; not copies."""
        return {
            "scale": self.scale,
            "good_steps": self._good_steps,
            "skipped": self._skipped,
            "norm": self._norm,
        }
