"""The actor of the study: computes a unit and publishes its result."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, assert_never

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.cluster import GetDevice
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import Adaptive, FixedStep, Solver
from ddpm_core.diffusion.measures.ode_likelihood import ode_bits_per_dim
from ddpm_core.diffusion.paths.sigma import sigma_grid, sigma_range
from ddpm_core.diffusion.trajectories import evenly_spaced_times, progressive_generation
from ddpm_core.evaluation.measuring.context import EvaluationContext, measuring
from ddpm_core.evaluation.measuring.worker import likelihood_part
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.sampling.draw import to_u8
from ddpm_core.study import pictures
from ddpm_core.study.ddim import work as ddim_work
from ddpm_core.study.drawn import chain_noise, counted, drawn
from ddpm_core.study.neighbours import in_chunks, memorisation, nearest_of_each
from ddpm_core.study.settings import swept
from ddpm_core.study.units import Unit, uses_network
from ddpm_core.units.ranges import Arrays

NUM_MOMENTS = 20
"""moments of the reverse process at which x_0_hat is looked at, as the original's code has them"""
NUM_NEIGHBOURS = 8
_DEQUANTISATION, _PROBE = 0, 1


def make_worker(payload: dict[str, Any], get_device: GetDevice) -> Callable[[Unit], None]:
    """Return the function that computes a unit and publishes its result."""
    return measuring(payload, get_device, work, uses_network)


def work(context: EvaluationContext, unit: Unit) -> Arrays:
    """Return the result of a unit."""
    match unit.kind:
        case "bound":
            return _bound(context, unit)
        case "ode":
            return _ode(context, unit)
        case "sweep":
            return _sweep(context, unit)
        case "progress":
            return _progress(context, unit)
        case "features":
            images = context.train if unit.part == "train" else context.test
            seen = [context.look(one) for one in context.batches(images, unit.start, unit.stop)]
            return {name: torch.cat([one[name] for one in seen]) for name in seen[0]}
        case "neighbours":
            return _neighbours(context, unit)
        case "decoding" | "latents" | "mixes" | "depths" | "round-trip":
            return pictures.of(context, unit)
        case "ddim" | "reconstruction" | "arcs":
            return ddim_work.of(context, unit)
        case _:
            assert_never(unit.kind)


def _positions(context: EvaluationContext, unit: Unit) -> Tensor:
    return torch.arange(unit.start, unit.stop, device=context.device)


def _bound(context: EvaluationContext, unit: Unit) -> Arrays:
    return likelihood_part(
        context.denoiser_of(context.exact(unit.part), unit.start, unit.stop),
        context.exact(unit.part).images(unit.start, unit.stop),
        _positions(context, unit),
        seed=context.config.study.seed,
    )


def _ode(context: EvaluationContext, unit: Unit) -> Arrays:
    study, positions = context.config.study, _positions(context, unit)
    schedule, shape = context.denoiser.schedule, context.config.data.shape
    solver: Solver
    if unit.part == "heun":
        solver = FixedStep(sigma_grid(schedule, study.ode_steps))
    else:
        low, high = sigma_range(schedule)
        solver = Adaptive(low, high, rtol=study.ode_tolerance, atol=study.ode_tolerance)
    key = seeding.key(study.seed, "likelihood", 1)
    found = ode_bits_per_dim(
        context.denoiser_of(context.exact("test"), unit.start, unit.stop),
        to_unit_range(context.exact("test").images(unit.start, unit.stop), context.device).double(),
        solver=solver,
        uniform=seeding.uniform(key, _DEQUANTISATION, positions, shape),
        probe=seeding.signs(key, _PROBE, positions, shape),
        num_levels=context.config.data.num_levels,
    )
    return {"bits": found.bits.cpu().double(), "evaluations": found.num_evaluations.cpu()}


def _sweep(context: EvaluationContext, unit: Unit) -> Arrays:
    (setting,) = (one for one in swept(context.config)[0] if one.name == unit.part)
    return drawn(context, unit, context.denoiser, setting.sample)


def _progress(context: EvaluationContext, unit: Unit) -> Arrays:
    positions, shape = _positions(context, unit), context.config.data.shape
    times = moments_of_chain(context.denoiser)
    x_T, noise = chain_noise(context, positions)  # noqa: N806
    denoiser, counts = counted(context, positions, context.denoiser, context.config.sample)
    with torch.inference_mode():
        x_0_hat = progressive_generation(denoiser, x_T, times=times, noise=noise)
    count = unit.stop - unit.start
    images_u8 = to_u8(x_0_hat.flatten(0, 1)).cpu().permute(0, 3, 1, 2)
    shown = images_u8.view(len(times), count, *shape)
    seen = context.look(images_u8)
    return {
        "evaluations": torch.tensor(counts.num_images // count),
        "times": torch.tensor(times),
        "shown": shown[:, : max(0, context.config.study.num_shown - unit.start)].contiguous(),
        **{name: rows.view(len(times), count, -1) for name, rows in seen.items()},
    }


def moments_of_chain(denoiser: NetworkDenoiser) -> list[int]:
    """Return the code indices at which x_0_hat is looked at, from 0 up, each once."""
    num_timesteps = denoiser.schedule.num_timesteps
    return sorted(set(evenly_spaced_times(num_timesteps, NUM_MOMENTS)))


def _neighbours(context: EvaluationContext, unit: Unit) -> Arrays:
    samples = context.first_samples(unit.stop)
    shown = samples[: context.config.study.num_shown]
    look = partial(context.rows, context.network.embed) if unit.part == "features" else _as_they_are
    places = look(samples).to(context.device)
    k = min(NUM_NEIGHBOURS, len(context.train))
    # In one go, since all training images have to be read for it.
    of_samples, of_shown, *of_held_out = nearest_of_each(
        chain(
            [(places, 1), (places[: len(shown)], k)],
            (
                (part.to(context.device), 1)
                for part in in_chunks(context.chunks(look, context.test))
            ),
        ),
        context.chunks(look, context.train),
    )
    compared = memorisation(
        of_samples.distance[:, 0], torch.cat([one.distance[:, 0] for one in of_held_out])
    )
    return {
        "samples": compared.samples,
        "held_out": compared.held_out,
        "threshold": torch.tensor(compared.threshold, dtype=torch.float64),
        "shown": shown,
        "distance": of_shown.distance,
        "nearest": context.train.take(of_shown.index.flatten().numpy()).reshape(
            *of_shown.index.shape, *shown.shape[1:]
        ),
    }


def _as_they_are(images_u8: Tensor) -> Tensor:
    return images_u8
