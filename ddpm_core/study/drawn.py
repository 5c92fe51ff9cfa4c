"""Images that a study draws in some way: what is seen of them, and what each of them cost."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import Network, NetworkDenoiser
from ddpm_core.evaluation.context import EvaluationContext
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.plan import conditioned
from ddpm_core.study.units import Unit
from ddpm_core.units.ranges import Arrays


class Counter:
    """A network that counts the images that pass through it."""

    def __init__(self, network: Network) -> None:
        self._network, self.num_images = network, 0

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning = NOTHING) -> Tensor:
        self.num_images += len(x_t)
        return self._network(x_t, t, conditioning)


def drawn(
    context: EvaluationContext, unit: Unit, denoiser: NetworkDenoiser, sample: SampleConfig
) -> Arrays:
    """Return what is seen of the images of a unit, drawn in one way, and the first of them.

    Args:
        context: of the actor.
        unit: which images; image i is a function of (study.seed, i).
        denoiser: of the run's network.
        sample: the sampler and its settings.
    """
    positions = torch.arange(unit.start, unit.stop, device=context.device)
    counter, given = Counter(denoiser.network), context.plan.conditioning(positions)
    x_0 = draw(
        conditioned(replace(denoiser, network=counter), given, sample.guidance_scale),
        positions,
        context.config.data.shape,
        sample=sample,
        seed=context.config.study.seed,
    )
    images_u8 = to_u8(x_0).cpu().permute(0, 3, 1, 2)
    shown = images_u8[: max(0, context.config.study.num_shown - unit.start)].contiguous()
    return {
        "evaluations": torch.tensor(counter.num_images // len(positions)),
        "shown": shown,
        **context.look(images_u8),
    }


def chain_noise(
    context: EvaluationContext, positions: Tensor
) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Return x_T of these positions, and what gives the noise of a step: those of `sample`."""
    seed, shape = context.config.study.seed, context.config.data.shape
    first, steps = seeding.key(seed, "sample_init"), seeding.key(seed, "sample_noise")
    x_T = seeding.normal(first, 0, positions, shape)  # noqa: N806
    return x_T, lambda t: seeding.normal(steps, t, positions, shape)
