"""The units of the DDIM paper's tables and figures: samples, images there and back, and arcs.

Source: Song et al. 2020, arXiv:2010.02502, sections 5.1, 5.3 and 5.4.
"""

from dataclasses import replace

import torch

from ddpm_core.diffusion.interpolation import slerp
from ddpm_core.diffusion.measures.rate_distortion import RMSE_LEVELS
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.evaluation.measuring.context import EvaluationContext
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.sampling.guided import guided
from ddpm_core.study.ddim.cells import SIGMA_HAT, TAUS, cells
from ddpm_core.study.drawn import chain_noise, drawn
from ddpm_core.study.pictures import MIX_WEIGHTS, chain_of_steps, there_and_back
from ddpm_core.study.sheets import frames_u8
from ddpm_core.study.units import Unit
from ddpm_core.units.ranges import Arrays


def of(context: EvaluationContext, unit: Unit) -> Arrays:
    """Return the result of a unit."""
    match unit.kind:
        case "ddim":
            return _cell(context, unit)
        case "reconstruction":
            return _reconstruction(context, unit)
        case _:
            return _arcs(context, unit)


def _cell(context: EvaluationContext, unit: Unit) -> Arrays:
    (cell,) = (one for one in cells(context.config) if one.name == unit.part)
    denoiser = context.denoiser
    if cell.noise == SIGMA_HAT:
        denoiser = replace(denoiser, variance="fixed_large")
    return drawn(context, unit, denoiser, cell.sample)


@torch.inference_mode()
def _reconstruction(context: EvaluationContext, unit: Unit) -> Arrays:
    """Table 2: the error of each image after encoding and decoding, in levels, (steps, n)."""
    x_0 = to_unit_range(context.test.images(unit.start, unit.stop), context.device)
    denoiser = context.denoiser_of(context.test, unit.start, unit.stop)
    errors = []
    for num_steps in context.config.study.ddim_steps:
        _, back = there_and_back(denoiser, x_0, spacing=TAUS[unit.part], num_steps=num_steps)
        errors.append(RMSE_LEVELS * (back - x_0).flatten(1).square().mean(dim=1).sqrt())
    return {"rmse": torch.stack(errors).cpu().double()}


@torch.inference_mode()
def _arcs(context: EvaluationContext, unit: Unit) -> Arrays:
    """Fig. 6: what DDIM makes of the x_T on the arc between two, in the most steps there are.

    Their ends are the x_T of samples 0 and 1, 2 and 3, and so on.
    """
    num_steps = max(context.config.study.ddim_steps)
    x_T, _ = chain_noise(context, torch.arange(unit.start, unit.stop, device=context.device))  # noqa: N806
    mixed = slerp(x_T[0::2], x_T[1::2], MIX_WEIGHTS)
    first = torch.zeros(1, dtype=torch.int64, device=context.device)
    given, sample = context.plan.conditioning(first), context.config.sample
    images = ddim_sample(
        # All of what the first sample is of.
        chain_of_steps(
            guided(context.denoiser, given, sample, context.guide, form="eps"),
            "linspace",
            num_steps,
        ),
        mixed.flatten(0, 1),
        clip_x_0=context.config.sample.clip_x_0,
    )
    return {"images": torch.from_numpy(frames_u8(images.view(mixed.shape)))}
