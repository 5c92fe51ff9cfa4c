"""A chain of chosen times of a path, on which every sampler works as on a whole chain.

Source: Nichol and Dhariwal 2021, arXiv:2102.09672, section 4 (eq. 19).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_core.diffusion.choices import is_of_one_step
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import Path, chain_of
from ddpm_core.diffusion.paths.schedule import NoiseSchedule, expand, make_schedule
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.errors import ConfigError


class _Places(NamedTuple):
    """Where the steps of the chain lie on the denoiser's own path."""

    times: Tensor
    scales: Tensor | None
    """that path's x_t over the chain's; None: 1"""


@dataclass(frozen=True, eq=False)
class Respaced:
    """A denoiser on the chain of some times of its path. Made by `respaced` and `discretised`."""

    denoiser: Denoiser
    path: NoiseSchedule
    places: _Places
    _on_device: dict[torch.device, _Places] = field(default_factory=dict, init=False, repr=False)

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return what is predicted at the time that index `t` stands for, read on this chain.

        Raises:
            ConfigError: for times between two indices, which stand for nothing; for a prediction
                of x_{t-1}, which is one step of the denoiser's own chain.
        """
        if t.is_floating_point():
            raise ConfigError(
                "a chain of chosen steps has no times between them; give solvers the whole chain"
            )
        times, scales = self._places_on(t.device)
        there = x_t if scales is None else expand(scales[t].to(x_t.dtype), x_t) * x_t
        prediction = self.denoiser.predict(there, times[t])
        if is_of_one_step(prediction.kind):
            raise ConfigError(
                f"prediction={prediction.kind} is trained for steps of one; it cannot leave steps "
                "out: sample with all of them (guidance of the mean goes around the chain of fewer "
                "steps)"
            )
        # eps, x_0 and the velocity mean the same on both paths; so does v, whose paths preserve
        # variance and are not scaled.
        return replace(prediction, path=self.path, x_t=x_t, t=t)

    def _places_on(self, device: torch.device) -> _Places:
        if device not in self._on_device:
            times, scales = self.places
            moved = None if scales is None else scales.to(device)
            self._on_device[device] = _Places(times.to(device), moved)
        return self._on_device[device]


def respaced(denoiser: Denoiser, timesteps: Sequence[int]) -> Respaced:
    """Return the denoiser on the chain of these steps alone: abar stays, beta follows from it.

    Index i of the new chain is `timesteps[i]` of the old one, at which the network is called.

    Args:
        denoiser: on a whole chain.
        timesteps: code indices, ascending, at least two.

    Raises:
        ConfigError: if they are not, or the denoiser's path has no steps. A network that predicts
            x_{t-1}, which is one step only, is refused when it is first called.
    """
    schedule = chain_of(denoiser.path)
    steps = torch.tensor(list(timesteps), dtype=torch.int64)
    if len(steps) < 2 or bool((steps.diff() <= 0).any()):
        raise ConfigError(f"timesteps {list(timesteps)[:5]}... must ascend and be at least two")
    if int(steps[0]) < 0 or int(steps[-1]) >= schedule.num_timesteps:
        raise ConfigError(
            f"timesteps {int(steps[0])}...{int(steps[-1])} must lie in "
            f"0...{schedule.num_timesteps - 1}"
        )
    return Respaced(denoiser, subchain(schedule, steps), _Places(steps, None))


def discretised(denoiser: Denoiser, times: Sequence[float]) -> Respaced:
    """Return the denoiser of a continuous path on the chain of these times.

    The chain preserves variance, as all chains do: its x_t is the path's over the root of
    signal**2 + noise**2, and its x_T is standard normal whatever the path's prior. A path that
    ends in pure noise gives a chain that does.

    Args:
        denoiser: on a path that can be called between its times.
        times: ascending, within the path's range, at least two.

    Raises:
        ConfigError: if they are not.
    """
    places = torch.tensor(list(times), dtype=torch.float64)
    low, high = denoiser.path.time_range
    if len(places) < 2 or bool((places.diff() <= 0).any()):
        raise ConfigError(f"times {list(times)[:5]}... must ascend and be at least two")
    if float(places[0]) < low or float(places[-1]) > high:
        raise ConfigError(
            f"times {float(places[0]):g}...{float(places[-1]):g} must lie in the path's range, "
            f"{low:g}...{high:g}"
        )
    abar, scales = _share_and_scale(denoiser.path, places)
    keeps = denoiser.path.preserves_variance
    return Respaced(denoiser, _chain_through(abar), _Places(places, None if keeps else scales))


def chain_at(path: Path, times: Float64[Tensor, " T"]) -> NoiseSchedule:
    """Return the chain that has the path's signal-to-noise ratios at these times, ascending."""
    return _chain_through(_share_and_scale(path, times)[0])


def subchain(schedule: NoiseSchedule, steps: Tensor) -> NoiseSchedule:
    """Return the chain whose abar are those of `steps`, ascending code indices."""
    return _chain_through(schedule.alphas_cumprod[steps])


def _chain_through(abar: Float64[Tensor, " T"]) -> NoiseSchedule:
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return make_schedule(1 - abar / before)


def _share_and_scale(path: Path, times: Float64[Tensor, " T"]) -> tuple[Tensor, Tensor]:
    """Return signal**2 over the sum of both squares, and the root of that sum."""
    signal, noise = path.signal_and_noise(times, times)
    square = signal.square() + noise.square()
    return signal.square() / square, square.sqrt()
