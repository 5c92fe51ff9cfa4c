"""A chain of some of the steps of a chain, on which every sampler works as on the whole.

Source: Nichol and Dhariwal 2021, arXiv:2102.09672, section 4 (eq. 19).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser, Network
from ddpm_core.diffusion.schedule import NoiseSchedule, make_schedule
from ddpm_core.errors import ConfigError


def respaced(denoiser: Denoiser, timesteps: Sequence[int]) -> Denoiser:
    """Return the denoiser on the chain of these steps alone: abar stays, beta follows from it.

    Index i of the new chain is `timesteps[i]` of the old one, which the network is asked at.

    Args:
        denoiser: on the whole chain.
        timesteps: code indices, ascending, at least two.

    Raises:
        ConfigError: if they are not, or the network predicts x_{t-1}, which is one step only.
    """
    if denoiser.prediction == "x_prev":
        raise ConfigError(
            "prediction=x_prev is trained for steps of one; it cannot leave steps out: sample "
            "with all of them"
        )
    num_timesteps = denoiser.schedule.num_timesteps
    steps = torch.tensor(list(timesteps), dtype=torch.int64)
    if len(steps) < 2 or bool((steps.diff() <= 0).any()):
        raise ConfigError(f"timesteps {list(timesteps)[:5]}... must ascend and be at least two")
    if int(steps[0]) < 0 or int(steps[-1]) >= num_timesteps:
        raise ConfigError(
            f"timesteps {int(steps[0])}...{int(steps[-1])} must lie in 0...{num_timesteps - 1}"
        )
    schedule = subchain(denoiser.schedule, steps)
    return replace(denoiser, network=_At(denoiser.network, steps), schedule=schedule)


def subchain(schedule: NoiseSchedule, steps: Tensor) -> NoiseSchedule:
    """Return the chain whose abar are those of `steps`, ascending code indices."""
    abar = schedule.alphas_cumprod[steps]
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return make_schedule(1 - abar / before)


@dataclass(frozen=True)
class _At:
    """A network that is called with the times of the long chain for those of the short one."""

    network: Network
    steps: Tensor
    _on_device: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the network's output at the time that index `t` stands for.

        Raises:
            ConfigError: for times between two indices, which stand for nothing.
        """
        if t.is_floating_point():
            raise ConfigError(
                "a chain of chosen steps has no times between them; give solvers the whole chain"
            )
        if t.device not in self._on_device:
            self._on_device[t.device] = self.steps.to(t.device)
        return self.network(x_t, self._on_device[t.device][t])
