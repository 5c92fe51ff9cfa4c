"""What an actor does: works on a unit of the study, and publishes what it found."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, assert_never

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.cluster import GetDevice
from ddpm_core.diffusion.continuous import sigma_grid, sigma_range
from ddpm_core.diffusion.denoiser import Denoiser, Network
from ddpm_core.diffusion.integrate import Adaptive, FixedStep, Solver
from ddpm_core.diffusion.ode_likelihood import ode_bits_per_dim
from ddpm_core.diffusion.trajectories import evenly_spaced_times, progressive_generation
from ddpm_core.evaluation.desk import Desk
from ddpm_core.evaluation.worker import likelihood_part
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.study import pictures
from ddpm_core.study.neighbours import in_chunks, memorisation, nearest_of_each
from ddpm_core.study.settings import swept
from ddpm_core.study.units import Found, Unit, publish

NUM_MOMENTS = 20
"""moments of the reverse process at which x_0_hat is looked at, as the original's code has them"""
NUM_NEIGHBOURS = 8
_DEQUANTISATION, _PROBE = 0, 1


def make_worker(payload: dict[str, Any], get_device: GetDevice) -> Callable[[Unit], None]:
    """Return the function that works on a unit; what it needs is read when it is first needed."""
    desk = Desk.of(payload["desk"], get_device())

    def work_and_publish(unit: Unit) -> None:
        publish(desk.store, payload["folder"], unit, work(desk, unit))

    return work_and_publish


def work(desk: Desk, unit: Unit) -> Found:
    """Return what the unit finds."""
    match unit.kind:
        case "bound":
            return _bound(desk, unit)
        case "ode":
            return _ode(desk, unit)
        case "sweep":
            return _sweep(desk, unit)
        case "progress":
            return _progress(desk, unit)
        case "features":
            images = desk.train if unit.part == "train" else desk.test
            seen = [_look(desk, one) for one in desk.batches(images, unit.start, unit.stop)]
            return {name: torch.cat([one[name] for one in seen]) for name in seen[0]}
        case "neighbours":
            return _neighbours(desk, unit)
        case "decoding" | "latents" | "mixes" | "depths" | "round-trip":
            return pictures.of(desk, unit)
        case _:
            assert_never(unit.kind)


def _positions(desk: Desk, unit: Unit) -> Tensor:
    return torch.arange(unit.start, unit.stop, device=desk.device)


def _bound(desk: Desk, unit: Unit) -> Found:
    images = desk.train if unit.part == "train" else desk.test
    found = likelihood_part(
        desk.denoiser,
        images.images(unit.start, unit.stop),
        _positions(desk, unit),
        seed=desk.config.study.seed,
    )
    return {
        "prior": torch.from_numpy(found.prior),
        "terms": torch.from_numpy(found.terms),
        "mse": torch.from_numpy(found.mse),
    }


def _ode(desk: Desk, unit: Unit) -> Found:
    study, positions = desk.config.study, _positions(desk, unit)
    schedule, shape = desk.denoiser.schedule, desk.config.data.shape
    solver: Solver
    if unit.part == "heun":
        solver = FixedStep(sigma_grid(schedule, study.ode_steps))
    else:
        low, high = sigma_range(schedule)
        solver = Adaptive(low, high, rtol=study.ode_tolerance, atol=study.ode_tolerance)
    key = seeding.key(study.seed, "likelihood", 1)
    found = ode_bits_per_dim(
        desk.denoiser,
        to_unit_range(desk.test.images(unit.start, unit.stop), desk.device).double(),
        solver=solver,
        uniform=seeding.uniform(key, _DEQUANTISATION, positions, shape),
        probe=seeding.signs(key, _PROBE, positions, shape),
    )
    return {"bits": found.bits.cpu().double(), "evaluations": found.num_evaluations.cpu()}


def _sweep(desk: Desk, unit: Unit) -> Found:
    (setting,) = (one for one in swept(desk.config)[0] if one.name == unit.part)
    counter = _Counter(desk.denoiser.network)
    x_0 = draw(
        replace(desk.denoiser, network=counter),
        _positions(desk, unit),
        desk.config.data.shape,
        sample=setting.sample,
        seed=desk.config.study.seed,
    )
    images_u8 = to_u8(x_0).cpu().permute(0, 3, 1, 2)
    shown = images_u8[: max(0, desk.config.study.num_shown - unit.start)].contiguous()
    return {
        "evaluations": torch.tensor(counter.calls),
        "shown": shown,
        **_look(desk, images_u8),
    }


class _Counter:
    """A network that counts how often it is asked."""

    def __init__(self, network: Network) -> None:
        self._network, self.calls = network, 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self._network(x_t, t)


def _progress(desk: Desk, unit: Unit) -> Found:
    positions, shape = _positions(desk, unit), desk.config.data.shape
    times = moments_of_chain(desk.denoiser)
    x_T, noise = chain_noise(desk, positions)  # noqa: N806
    with torch.inference_mode():
        x_0_hat = progressive_generation(desk.denoiser, x_T, times=times, noise=noise)
    count = unit.stop - unit.start
    images_u8 = to_u8(x_0_hat.flatten(0, 1)).cpu().permute(0, 3, 1, 2)
    shown = images_u8.view(len(times), count, *shape)
    seen = _look(desk, images_u8)
    return {
        "times": torch.tensor(times),
        "shown": shown[:, : max(0, desk.config.study.num_shown - unit.start)].contiguous(),
        **{name: rows.view(len(times), count, -1) for name, rows in seen.items()},
    }


def moments_of_chain(denoiser: Denoiser) -> list[int]:
    """Return the code indices at which x_0_hat is looked at, from 0 up, each once."""
    num_timesteps = denoiser.schedule.num_timesteps
    return sorted(set(evenly_spaced_times(num_timesteps, NUM_MOMENTS)))


def chain_noise(desk: Desk, positions: Tensor) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Return x_T of these positions, and what gives the noise of a step: those of `sample`."""
    seed, shape = desk.config.study.seed, desk.config.data.shape
    first, steps = seeding.key(seed, "sample_init"), seeding.key(seed, "sample_noise")
    x_T = seeding.normal(first, 0, positions, shape)  # noqa: N806
    return x_T, lambda t: seeding.normal(steps, t, positions, shape)


def _look(desk: Desk, images_u8: Tensor) -> Found:
    """Return features and, if the network has classes, their probabilities; {} without one."""
    if desk.recipe is None:
        return {}
    network = desk.network
    found = {"features": desk.rows(network.embed, images_u8)}
    if network.classify is not None:
        found["probabilities"] = desk.rows(network.classify, images_u8)
    return found


def _neighbours(desk: Desk, unit: Unit) -> Found:
    samples = desk.first_samples(unit.stop)
    shown = samples[: desk.config.study.num_shown]
    look = partial(desk.rows, desk.network.embed) if unit.part == "features" else _as_they_are
    places = look(samples).to(desk.device)
    k = min(NUM_NEIGHBOURS, len(desk.train))
    # In one go, since all training images have to be read for it.
    of_samples, of_shown, *of_held_out = nearest_of_each(
        chain(
            [(places, 1), (places[: len(shown)], k)],
            ((part.to(desk.device), 1) for part in in_chunks(desk.parts(look, desk.test))),
        ),
        desk.parts(look, desk.train),
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
        "nearest": desk.train.take(of_shown.index.flatten().numpy()).reshape(
            *of_shown.index.shape, *shown.shape[1:]
        ),
    }


def _as_they_are(images_u8: Tensor) -> Tensor:
    return images_u8
