"""Images that a study draws in some way: what is seen of them, and what each of them cost."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.wrappers.classifier_guidance import Score
from ddpm_core.evaluation.measuring.context import EvaluationContext
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.study.units import Unit
from ddpm_core.units.ranges import Arrays

D = TypeVar("D", bound=NetworkDenoiser | Score)


class Counts:
    """Counts the images that pass through networks."""

    def __init__(self) -> None:
        self.num_images = 0

    def of(self, whole: D) -> D:
        """Return the denoiser, or what guides it, of a network whose images are counted."""
        called: Callable[..., Tensor] = whole.network

        def network(x_t: Tensor, t: Tensor, conditioning: Conditioning = NOTHING) -> Tensor:
            self.num_images += len(x_t)
            return called(x_t, t, conditioning) if conditioning.parts else called(x_t, t)

        return replace(whole, network=network)


def counted(
    context: EvaluationContext, positions: Tensor, denoiser: NetworkDenoiser, sample: SampleConfig
) -> tuple[Denoiser, Counts]:
    """Return the denoiser of the samples at these positions, and what counts its calls.

    Args:
        context: of the actor.
        positions: of the images.
        denoiser: of the run's network.
        sample: how they are guided.
    """
    counts, guide = Counts(), context.guide
    followed = guided(
        counts.of(denoiser),
        context.plan.conditioning(positions),
        sample,
        None if guide is None else counts.of(guide),
    )
    return followed, counts


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
    followed, counts = counted(context, positions, denoiser, sample)
    x_0 = draw(
        followed,
        positions,
        context.config.data.shape,
        sample=sample,
        seed=context.config.study.seed,
    )
    images_u8 = to_u8(x_0).cpu().permute(0, 3, 1, 2)
    shown = images_u8[: max(0, context.config.study.num_shown - unit.start)].contiguous()
    return {
        "evaluations": torch.tensor(counts.num_images // len(positions)),
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
