"""The numbers of a study, as JSON values, each with what it was measured on."""

import math
from typing import Any

import torch
from torch import Tensor

from ddpm_core.config import RunConfig, identity
from ddpm_core.diffusion.measures.rate_distortion import codelength, rate_distortion
from ddpm_core.errors import DivergenceError
from ddpm_core.evaluation.distances.moments import frechet_distance
from ddpm_core.evaluation.numbers.seen import Seen
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.sampling.guided import describe_guidance
from ddpm_core.study.ddim import numbers as ddim
from ddpm_core.study.findings import Findings
from ddpm_core.study.published import progressive_coding_of
from ddpm_core.study.settings import flow_refusal, swept
from ddpm_core.study.tables import coding_table

SPLITS = ("train", "test")
SPACES = ("pixels", "features")
SOLVERS = ("heun", "adaptive")


def numbers_of(
    findings: Findings,
    config: RunConfig,
    protocol: dict[str, Any],
    labels: Tensor | None = None,
) -> dict[str, Any]:
    """Return all numbers of the study.

    Args:
        findings: of all units.
        config: the run's.
        protocol: which weights, data and feature network these are, and `num_images` of each split.
        labels: (n,) of the images that are drawn, in their order; None: they have none.

    Raises:
        DivergenceError: if the bound of an image is not finite.
    """
    curves = rate_distortion(findings.bound("test"))
    published = progressive_coding_of(config.data.name, config.diffusion.num_timesteps)
    has_features = findings.has("features", "train")
    reference = findings.seen("features", "train") if has_features else None
    held_out = findings.seen("features", "test") if has_features else None
    samplers = [_sampler(findings, one.key, one.name, reference) for one in swept(config)[0]]
    return {
        "protocol": {
            "version": PROTOCOL_VERSION,
            **protocol,
            **identity.counted("diffusion", config.diffusion),
            **_conditioning(config),
            "study": identity.study(config),
            "distances": "Frechet, to the training images; floor: held-out to training images",
        },
        "bits_per_dim": {split: _bound(findings, split) for split in SPLITS},
        "ode_bits_per_dim": {
            solver: _ode(findings, solver) for solver in SOLVERS if findings.has("ode", solver)
        },
        "ode_refused": flow_refusal(config),
        "coding": coding_table(curves, codelength(findings.bound("test")), published=published),
        "quality": {
            "floor": _distance(held_out, reference),
            "held_out_inception_score": None if held_out is None else held_out.score,
            "samplers": samplers,
            "refused": swept(config)[1],
            "progress": _progress(findings, config.diffusion.num_timesteps, reference),
        },
        "memorisation": {
            space: findings.memorisation(space).as_json()
            for space in SPACES
            if findings.has("neighbours", space)
        },
        "round_trip": _round_trip(findings),
        **(
            {"ddim": ddim.numbers_of(findings, config, reference, labels)}
            if config.study.ddim_steps
            else {}
        ),
    }


def _conditioning(config: RunConfig) -> dict[str, Any]:
    """Return what is given to a network of labels, and how its samples are guided."""
    labels = {} if config.num_classes is None else {"conditioning": "the label of each image"}
    return {**labels, **describe_guidance(config.sample, num_classes=config.num_classes)}


def mean_and_error(values: Tensor) -> dict[str, Any]:
    """Return the mean over images and its standard error; None for a single image."""
    count = len(values)
    error = float(values.std()) / math.sqrt(count) if count > 1 else None
    return {"value": float(values.mean()), "standard_error": error, "num_images": count}


def _bound(findings: Findings, split: str) -> dict[str, Any]:
    bound = findings.bound(split)
    if not bool(bound.total.isfinite().all()):
        first = int((~bound.total.isfinite()).nonzero()[0])
        raise DivergenceError(
            f"the bound of {split} image {first} is {float(bound.total[first])}: the network's "
            "prediction is no number there. Look at the training loss; train.precision=float32 "
            "may help"
        )
    code = codelength(bound)
    return {
        **mean_and_error(bound.total),
        "prior": float(bound.prior.mean()),
        "rate": code.rate - float(bound.prior.mean()),
        "decoder": code.distortion,
    }


def _ode(findings: Findings, solver: str) -> dict[str, Any]:
    evaluations = findings.rows("ode", solver, "evaluations").double()
    return {
        **mean_and_error(findings.rows("ode", solver, "bits")),
        "evaluations": float(evaluations.mean()),
    }


def _distance(images: Seen | None, reference: Seen | None) -> float | None:
    """Return how far two sets of images are apart; None without features."""
    if images is None or reference is None:
        return None
    return frechet_distance(images.moments, reference.moments)


def _sampler(findings: Findings, key: str, name: str, reference: Seen | None) -> dict[str, Any]:
    seen = findings.seen("sweep", name)
    first = next(findings.each("sweep", name))
    return {
        "sampler": key,
        "setting": name,
        "evaluations": int(first["evaluations"]),
        "frechet_distance": _distance(seen, reference),
        "inception_score": None if seen is None else seen.score,
    }


def _progress(
    findings: Findings, num_timesteps: int, reference: Seen | None
) -> list[dict[str, Any]]:
    if not findings.has("progress", "ancestral"):
        return []
    # Units of versions before do not say it: then it was one call for each step of the chain.
    first = next(findings.each("progress", "ancestral"))
    calls = int(first["evaluations"]) if "evaluations" in first else num_timesteps
    return [
        {
            "reverse_step": num_timesteps - t,
            "evaluations": (num_timesteps - t) * calls // num_timesteps,
            "frechet_distance": _distance(seen, reference),
            "inception_score": seen.score,
        }
        for t, seen in reversed(findings.progress())
    ]


def _round_trip(findings: Findings) -> list[dict[str, Any]]:
    if not findings.has("round-trip", "ddim"):
        return []
    found = findings.one("round-trip", "ddim")
    means = torch.stack([row.mean() for row in found["rmse"]])
    return [
        {"steps": steps, "rmse": rmse}
        for steps, rmse in zip(found["steps"].tolist(), means.tolist(), strict=True)
    ]


def metrics_of(numbers: dict[str, Any]) -> list[tuple[str, float, int]]:
    """Return (name, value, step) of what MLflow is to plot.

    The step of a sampler's distance is its number of network evaluations: MLflow's chart of it is
    the plot of quality against cost. That of x_0_hat's is the reverse step.
    """
    points: list[tuple[str, float | None, int]] = []
    for split, bits in numbers["bits_per_dim"].items():
        points += [
            (f"study/bits_per_dim_{split}/{part}", bits[part], 0)
            for part in ("value", "standard_error", "prior", "rate", "decoder")
        ]
    for solver, bits in numbers["ode_bits_per_dim"].items():
        points += [(f"study/ode_bits_per_dim/{solver}", bits["value"], 0)]
    for one in numbers["quality"]["samplers"]:
        name = f"study/frechet_distance/{one['sampler']}"
        points.append((name, one["frechet_distance"], one["evaluations"]))
    for one in numbers["quality"]["progress"]:
        step = one["reverse_step"]
        points.append(("study/progress/frechet_distance", one["frechet_distance"], step))
        points.append(("study/progress/inception_score", one["inception_score"], step))
    for space, found in numbers["memorisation"].items():
        points += [
            (f"study/memorisation/{space}_{key}", found[key], 0) for key in ("share", "expected")
        ]
    share = numbers["coding"]["lossless"]["distortion_share"]
    points.append(("study/coding/distortion_share", share, 0))
    points += ddim.metrics_of(numbers["ddim"]) if "ddim" in numbers else []
    return [(name, value, step) for name, value, step in points if value is not None]
