"""The units that are pictures: decoding, shared latents, mixes, and the way to x_T and back.

All images are uint8, channels last, and small in number: what a sheet shows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.diffusion.choices import ChainSpacing
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.interpolation import interpolate
from ddpm_core.diffusion.measures.rate_distortion import RMSE_LEVELS, progressive_decoding
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.trajectories import quarters, shared_latents
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.evaluation.measuring.context import EvaluationContext
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.sampling.draw import to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.study.sheets import frames_u8
from ddpm_core.study.units import Unit
from ddpm_core.units.ranges import Arrays

MIX_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_NUM_DECODED = 10
# Streams of the study's noise, one for each thing that is drawn.
_DECODING, _CHAIN, _BRANCHES, _MIX, _MIX_STEPS = range(5)


@torch.inference_mode()
def of(context: EvaluationContext, unit: Unit) -> Arrays:
    """Return what the sheet of this unit shows."""
    match unit.kind:
        case "decoding":
            return _decoding(context, unit)
        case "latents":
            return _latents(context, unit)
        case "mixes":
            return _mixes(context, unit)
        case "depths":
            return _depths(context)
        case _:
            return _round_trip(context, unit)


def _noise(context: EvaluationContext, stream: int, count: int) -> Callable[[int], Tensor]:
    """Return what gives the standard normal numbers of a step."""
    key = seeding.key(context.config.study.seed, "study", stream)
    positions, shape = torch.arange(count, device=context.device), context.config.data.shape
    return lambda number: seeding.normal(key, number, positions, shape)


def _held_out(context: EvaluationContext, start: int, stop: int) -> Tensor:
    return to_unit_range(context.test.images(start, stop), context.device)


def _u8(frames: Tensor) -> Tensor:
    """Return frames (k, b, c, h, w) in [-1, 1] as (k, b, h, w, c) uint8."""
    return torch.from_numpy(frames_u8(frames))


def _decoding(context: EvaluationContext, unit: Unit) -> Arrays:
    """Algorithms 3 and 4 of the paper, without the coder."""
    x_0 = _held_out(context, unit.start, unit.stop)
    num_timesteps = context.denoiser.schedule.num_timesteps
    times = _falling(num_timesteps, _NUM_DECODED)
    received = progressive_decoding(
        context.denoiser_of(context.test, unit.start, unit.stop),
        x_0,
        times=times,
        noise=_noise(context, _DECODING, len(x_0)),
    )
    return {
        "times": torch.tensor(times),
        "decoded": _u8(received.x_0_hat),
        "original": to_u8(x_0).cpu(),
    }


def _falling(num_timesteps: int, count: int) -> list[int]:
    """Return code indices from T - 1 down to 0; denser where the image takes shape."""
    return choose_timesteps("quadratic", num_timesteps, min(count, num_timesteps))[::-1]


def _latents(context: EvaluationContext, unit: Unit) -> Arrays:
    """Fig. 7 of the paper."""
    times = sorted({t for t in quarters(context.denoiser.schedule.num_timesteps) if t >= 0})[::-1]
    chain = _noise(context, _CHAIN, 1)
    first = torch.zeros(1, dtype=torch.int64, device=context.device)
    given, sample = context.plan.conditioning(first), context.config.sample
    shared = shared_latents(
        guided(context.denoiser, given, sample, context.guide),  # as the first sample is drawn
        chain(context.denoiser.schedule.num_timesteps),
        times=times,
        num_images=unit.stop - unit.start,
        noise=chain,
        branch_noise=_noise(context, _BRANCHES, unit.stop - unit.start),
    )
    return {
        "times": torch.tensor(times),
        "latents": torch.cat([to_u8(one.x_t).cpu() for one in shared]),
        "images": torch.stack([to_u8(one.x_0).cpu() for one in shared]),
    }


def _mixes(context: EvaluationContext, unit: Unit) -> Arrays:
    """Fig. 8 of the paper: neighbouring held-out images, mixed at one depth."""
    count = max(1, (unit.stop - unit.start) // 2)
    x_0 = _held_out(context, 0, 2 * count)
    depth = round(context.config.study.mix_depth * context.denoiser.schedule.num_timesteps)
    mixed = _mixed(context, x_0[0::2], x_0[1::2], depth)
    ends = to_u8(x_0).cpu()
    return {
        "depth": torch.tensor(depth),
        "mixed": _u8(mixed),
        "left": ends[0::2].contiguous(),
        "right": ends[1::2].contiguous(),
    }


def _depths(context: EvaluationContext) -> Arrays:
    """Fig. 9 of the paper: one pair, mixed at several depths."""
    x_0, num_timesteps = _held_out(context, 0, 2), context.denoiser.schedule.num_timesteps
    depths = sorted({num_timesteps * eighth // 8 for eighth in (0, 1, 2, 3, 4, 6, 8)})
    rows = [_mixed(context, x_0[:1], x_0[1:], depth)[:, 0] for depth in depths]
    return {
        "depths": torch.tensor(depths),
        "mixed": _u8(torch.stack(rows)),
        "ends": to_u8(x_0).cpu(),
    }


def _mixed(context: EvaluationContext, x_0: Tensor, other: Tensor, depth: int) -> Tensor:
    return interpolate(
        context.denoiser.given_nothing(),  # the two may be of two classes
        x_0,
        other,
        depth=depth,
        weights=MIX_WEIGHTS,
        eps=_noise(context, _MIX, len(x_0))(0),
        noise=_noise(context, _MIX_STEPS, len(x_0)),
    )


def _round_trip(context: EvaluationContext, unit: Unit) -> Arrays:
    """x_0 -> x_T -> x_0 by DDIM without noise, in ever more steps."""
    x_0 = _held_out(context, unit.start, unit.stop)
    num_timesteps = context.denoiser.schedule.num_timesteps
    steps = round_trip_steps(context.config.study.swept_steps, num_timesteps)
    denoiser = context.denoiser_of(context.test, unit.start, unit.stop)
    ways = [there_and_back(denoiser, x_0, spacing="linspace", num_steps=one) for one in steps]
    latents, returned = zip(*ways, strict=True)
    errors = torch.stack([(one - x_0).flatten(1).square().mean(dim=1).sqrt() for one in returned])
    return {
        "steps": torch.tensor(steps),
        "rmse": RMSE_LEVELS * errors.cpu().double(),
        "latents": _u8(torch.stack(latents)),
        "returned": _u8(torch.stack(returned)),
        "original": to_u8(x_0).cpu(),
    }


def there_and_back(
    denoiser: Denoiser, x_0: Tensor, *, spacing: ChainSpacing, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Return the x_T that DDIM without noise encodes images to, and what it decodes from them."""
    chain = chain_of_steps(denoiser, spacing, num_steps)
    x_T = ddim_encode(chain, x_0.double())  # noqa: N806
    return x_T, ddim_sample(chain, x_T, clip_x_0=False)


def chain_of_steps(denoiser: Denoiser, spacing: ChainSpacing, num_steps: int) -> Denoiser:
    """Return the denoiser on so many steps of its chain; with all of them it is itself."""
    num_timesteps = chain_of(denoiser.path).num_timesteps
    if num_steps == num_timesteps:
        return denoiser
    return respaced(denoiser, choose_timesteps(spacing, num_timesteps, num_steps))


def round_trip_steps(swept_steps: Sequence[int], num_timesteps: int) -> list[int]:
    """Return the numbers of steps of the round trip: those of the sweep, and the whole chain."""
    return sorted({steps for steps in swept_steps if steps < num_timesteps} | {num_timesteps})
