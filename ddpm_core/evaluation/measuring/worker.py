"""The evaluation actor: computes the bound of held-out images, and features of images.

Chunks are fixed: they do not depend on the number of workers. What they found is put together in
the order of the chunks, not of their arrival, so that neither shows in the last bit.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil
from typing import Any, Literal, assert_never

import numpy as np
import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.cluster import GetDevice
from ddpm_core.config import ContinuousConfig, EvaluateConfig, RunConfig
from ddpm_core.diffusion.binomial import denoiser as binomial
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.integrate import FixedStep
from ddpm_core.diffusion.measures.likelihood import bits_per_dim
from ddpm_core.diffusion.measures.ode_likelihood import ode_bits_per_dim
from ddpm_core.diffusion.paths.sigma import sigma_grid
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier
from ddpm_core.evaluation.measuring.caption_use import MAX_POOL, candidates, matched_part
from ddpm_core.evaluation.measuring.cascade import chain_part
from ddpm_core.evaluation.measuring.context import EvaluationContext, measuring
from ddpm_core.evaluation.measuring.enlarging import enlarged_part, levels_of
from ddpm_core.evaluation.measuring.label_use import classified_part
from ddpm_core.evaluation.measuring.masked import bytes_part, hidden_share
from ddpm_core.evaluation.measuring.noised import accuracy_part
from ddpm_core.inference import continuous
from ddpm_core.inference.build import build_schedule
from ddpm_core.loading.loader import num_levels_of, to_unit_range
from ddpm_core.units.ranges import Arrays, Range

Kind = Literal[
    "bound",
    "flow",
    "unlabelled",
    "classes",
    "captions",
    "features",
    "words",
    "accuracy",
    "enlarged",
    "chain",
    "bytes",
]
"""bound: bits/dim by every term, of held-out images; flow: the same images' through the probability
flow, of a process in continuous time; unlabelled: the bound of a network of labels or texts that is
given none; classes, captions: how well it predicts their noise by each label, by their own caption
and by others; features: of the images of a set; words: which words of captions a judge finds in
samples and held-out images; accuracy: what a classifier makes of held-out images at each noise;
enlarged: of held-out images made small and enlarged again, whether they have the low resolution;
chain: the bound of their low resolutions by the stages below; bytes: how well a language model says
hidden bytes of captions"""
SOURCES = ("samples", "test", "train")
"""the sets of images whose features are looked at"""
Unit = Range[Kind]

_NUM_LIKELIHOOD_UNITS = 8
_MIN_LIKELIHOOD_IMAGES = 16
_DEQUANTISATION, _PROBE = 0, 1
FEATURE_IMAGES = 2500
"""in a unit of real images: reading them costs more than computing their features"""


def units_of(
    config: RunConfig,
    num_train: int,
    num_test: int,
    *,
    has_features: bool = True,
    has_chain: bool = False,
    has_judge: bool = False,
) -> list[Unit]:
    """Return all units; the bound first: its units take longest, and the last should be short.

    Args:
        config: the run's.
        num_train: training images there are.
        num_test: held-out images there are.
        has_features: whether there is a feature network.
        has_chain: whether the bits of stages below are measured, see `cascade.has_chain`.
        has_judge: whether there is a judge of captions.
    """
    if config.role != "denoiser":
        kind: Kind = "bytes" if config.role == "text" else "accuracy"
        return list(_network_units(kind, num_test, config.evaluate))
    features = (
        *Unit.cut("features", "train", num_train, FEATURE_IMAGES),
        *Unit.cut("features", "test", num_test, FEATURE_IMAGES),
        # One unit of samples each.
        *Unit.cut("features", "samples", config.sample.num_images, config.sample.unit_size),
    )
    evaluate, is_continuous = config.evaluate, isinstance(config.diffusion, ContinuousConfig)
    num_bound = min(evaluate.num_likelihood_images, num_test)
    of_the_network = (
        *_network_units("bound", num_bound, evaluate),
        *_network_units("flow", num_bound if is_continuous else 0, evaluate),
        *_network_units("unlabelled", num_bound if evaluate.label_worth else 0, evaluate),
        *_network_units(
            "captions" if config.model.uses_text else "classes",
            min(evaluate.num_classified_images, num_test),
            evaluate,
        ),
        *_network_units("chain", num_bound if has_chain else 0, evaluate),
        *_network_units("enlarged", min(evaluate.num_enlarged_images, num_test), evaluate),
    )
    sample = config.sample
    words = (
        *Unit.cut("words", "test", num_test, FEATURE_IMAGES),
        *Unit.cut("words", "samples", sample.num_images, sample.unit_size),
    )
    return [
        *of_the_network,
        *(features if has_features else ()),
        *(words if has_judge else ()),
    ]


def _network_units(kind: Kind, total: int, evaluate: EvaluateConfig) -> Iterator[Unit]:
    """Cut the first `total` held-out images into about eight chunks."""
    size = max(_MIN_LIKELIHOOD_IMAGES, ceil(total / _NUM_LIKELIHOOD_UNITS))
    return Unit.cut(kind, "test", total, min(size, evaluate.batch_size))


def uses_network(unit: Unit) -> bool:
    """Say whether what a unit finds depends on the feature network."""
    return unit.kind in ("features", "words")


def likelihood_part(
    denoiser: Denoiser | binomial.BitDenoiser,
    images: Tensor,
    positions: Tensor,
    *,
    seed: int,
) -> Arrays:
    """Return the bound of images (n, c, h, w) in bits/dim, each with noise of its own.

    As `LikelihoodTerms`, float64: `prior` (n,), `terms` and `mse` (n, T).

    Args:
        denoiser: on the device of `positions`.
        images: uint8, or uint16, of which the bits are those of 65536 levels.
        positions: (n,) place of each image in the held-out split: the noise is a function of
            (seed, t, position), whatever stands beside the image.
        seed: of the noise.
    """
    key = seeding.key(seed, "likelihood")
    shape = tuple(images.shape[1:])
    x_0 = to_unit_range(images, positions.device)

    def noise(t: int) -> Tensor:
        return seeding.normal(key, t, positions, shape)

    with torch.inference_mode():
        if isinstance(denoiser, binomial.BitDenoiser):
            found = binomial.bits_per_dim(denoiser, x_0, noise=noise)
        else:
            found = bits_per_dim(denoiser, x_0, noise=noise, num_levels=num_levels_of(images))
    parts = {"prior": found.prior, "terms": found.terms, "mse": found.mse}
    return {name: part.to("cpu", torch.float64) for name, part in parts.items()}


def flow_part(
    denoiser: NetworkDenoiser,
    images: Tensor,
    positions: Tensor,
    *,
    num_steps: int,
    seed: int,
) -> Arrays:
    """Return the bits/dim of images through the probability flow, float64 as all its arithmetic.

    Args:
        denoiser: of a process in continuous time, on the chain made of its path.
        images: as of `likelihood_part`.
        positions: as of `likelihood_part`, of dequantisation and probe.
        num_steps: of the solver, on the path from its beginning to its end.
        seed: of both.
    """
    key, shape = seeding.key(seed, "likelihood", 1), tuple(images.shape[1:])
    of_path = continuous.without_steps(denoiser)
    found = ode_bits_per_dim(
        of_path,
        to_unit_range(images, positions.device).double(),
        solver=FixedStep(sigma_grid(of_path.path, num_steps), "rk4"),
        uniform=seeding.uniform(key, _DEQUANTISATION, positions, shape),
        probe=seeding.signs(key, _PROBE, positions, shape),
        num_levels=num_levels_of(images),
    )
    return {"bits": found.bits.to("cpu", torch.float64)}


def make_worker(payload: dict[str, Any], get_device: GetDevice) -> Callable[[Unit], None]:
    """Return the function that measures a unit and publishes what it found."""
    return measuring(payload, get_device, work, uses_network)


def work(context: EvaluationContext, unit: Unit) -> Arrays:
    """Return what a unit finds."""
    match unit.kind:
        case "bound":
            return likelihood_part(
                context.measured_of(context.exact(unit.part), unit.start, unit.stop),
                context.exact(unit.part).images(unit.start, unit.stop),
                torch.arange(unit.start, unit.stop, device=context.device),
                seed=context.config.evaluate.seed,
            )
        case "flow":
            return flow_part(
                context.denoiser_of(context.exact(unit.part), unit.start, unit.stop),
                context.exact(unit.part).images(unit.start, unit.stop),
                torch.arange(unit.start, unit.stop, device=context.device),
                num_steps=context.config.evaluate.ode_steps,
                seed=context.config.evaluate.seed,
            )
        case "unlabelled":
            return likelihood_part(
                context.denoiser_of_nothing(context.exact(unit.part), unit.start, unit.stop),
                context.exact(unit.part).images(unit.start, unit.stop),
                torch.arange(unit.start, unit.stop, device=context.device),
                seed=context.config.evaluate.seed,
            )
        case "classes":
            return classified_part(
                context.denoiser_of_nothing(context.test, unit.start, unit.stop),
                context.test.images(unit.start, unit.stop),
                torch.arange(unit.start, unit.stop, device=context.device),
                num_classes=context.config.num_classes or 0,
                seed=context.config.evaluate.seed,
            )
        case "captions":
            images = context.test
            own = context.texts.firsts(images, np.arange(unit.start, unit.stop))
            pool = context.texts.firsts(images, np.arange(min(MAX_POOL, len(images))))
            positions = torch.arange(unit.start, unit.stop, device=context.device)
            seed = context.config.evaluate.seed
            return matched_part(
                context.denoiser_of_nothing(images, unit.start, unit.stop),
                images.images(unit.start, unit.stop),
                candidates(own, pool, positions, seed=seed),
                positions,
                text_length=context.config.model.text_length,
                seed=seed,
            )
        case "words":
            return {"found": torch.cat([context.words_in(one) for one in _batches(context, unit)])}
        case "features":
            # The classes of training images are not used.
            seen = [
                context.look(one, classify=unit.part != "train") for one in _batches(context, unit)
            ]
            return {name: torch.cat([one[name] for one in seen]) for name in seen[0]}
        case "accuracy":
            return _accuracy(context, unit)
        case "bytes":
            return bytes_part(
                context.byte_model,
                context.text_of(context.test, unit.start, unit.stop),
                torch.arange(unit.start, unit.stop, device=context.device),
                share=hidden_share(context.config),
                seed=context.config.evaluate.seed,
            )
        case "enlarged":
            return _enlarged(context, unit)
        case "chain":
            return _chain(context, unit)
        case _:
            assert_never(unit.kind)


def _accuracy(context: EvaluationContext, unit: Unit) -> Arrays:
    images, score = context.exact(unit.part), context.score
    own: Arrays = {}
    if isinstance(score, Classifier):
        classifier, labels = score, context.labels_of(images, unit.start, unit.stop)
    else:
        classifier, numbers = context.captions
        labels = numbers[unit.start : unit.stop]
        own = {"caption": labels.cpu()}
    found = accuracy_part(
        classifier,
        build_schedule(context.config),
        images.images(unit.start, unit.stop),
        labels,
        torch.arange(unit.start, unit.stop, device=context.device),
        seed=context.config.evaluate.seed,
    )
    return {**found, **own}


def _enlarged(context: EvaluationContext, unit: Unit) -> Arrays:
    if context.low is None:
        raise ValueError("a unit enlarges images, and the network enlarges none")
    return enlarged_part(
        context.denoiser,
        context.guide,
        context.low,
        context.test,
        unit.start,
        unit.stop,
        given=context.given_of(context.test, unit.start, unit.stop, is_drawn=True),
        levels=levels_of(context.config),
        sample=context.config.sample,
    )


def _chain(context: EvaluationContext, unit: Unit) -> Arrays:
    images, (start, stop) = context.exact(unit.part), (unit.start, unit.stop)
    return chain_part(
        context.below,
        images.images(start, stop),
        torch.arange(start, stop, device=context.device),
        given=lambda stage: context.given_to(stage, images, start, stop),
        bound=partial(likelihood_part, seed=context.config.evaluate.seed),
    )


def _batches(context: EvaluationContext, unit: Unit) -> Iterator[Tensor]:
    if unit.part == "samples":
        return iter([context.sampled(unit.start // context.config.sample.unit_size)])
    return context.batches(
        context.train if unit.part == "train" else context.test, unit.start, unit.stop
    )
