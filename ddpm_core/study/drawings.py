"""All figures and sheets of a study, as files."""

import math
from typing import Any

import torch

from ddpm_core.config import RunConfig
from ddpm_core.diffusion.measures.rate_distortion import codelength, rate_distortion
from ddpm_core.study import figures, sheets
from ddpm_core.study.ddim import drawings as ddim
from ddpm_core.study.findings import Findings
from ddpm_core.study.pictures import MIX_WEIGHTS
from ddpm_core.study.published import progressive_coding_of
from ddpm_core.study.settings import Setting, swept
from ddpm_core.study.tables import coding_markdown

Files = dict[str, tuple[str, bytes]]
"""role -> (suffix, content)"""

_TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "celebahq": "CelebA-HQ",
    "lsun_bedroom": "LSUN Bedroom",
    "lsun_church": "LSUN Church",
    "lsun_cat": "LSUN Cat",
}
_DISTANCES = {"pixels": "RMSE in pixel space [levels]", "features": "distance in feature space"}


def title_of(config: RunConfig) -> str:
    """Return the name of the data set, for titles."""
    return _TITLES.get(config.data.name, config.data.name)


def drawings_of(findings: Findings, config: RunConfig, numbers: dict[str, Any]) -> Files:
    """Return every figure and sheet for which there are findings."""
    data = title_of(config)
    return {
        **_coding(findings, config, numbers, data),
        **_quality(findings, config, numbers, data),
        **_memory(findings, config, numbers, data),
        **_trajectories(findings, config, data),
        **(ddim.drawings_of(findings, config, numbers, data) if "ddim" in numbers else {}),
    }


def _coding(findings: Findings, config: RunConfig, numbers: dict[str, Any], data: str) -> Files:
    bound = findings.bound("test")
    curves, count = rate_distortion(bound), len(bound.total)
    published = progressive_coding_of(config.data.name, config.diffusion.num_timesteps)
    found = findings.one("decoding", "test")
    held_out = f"{data}, held out"
    return {
        "coding-figure": (
            ".png",
            figures.progressive_coding_figure(
                curves, codelength(bound), data=held_out, num_images=count, published=published
            ),
        ),
        "coding-table": (
            ".md",
            coding_markdown(numbers["coding"], data=held_out, num_images=count).encode(),
        ),
        "decoding-sheet": (
            ".png",
            sheets.progressive_decoding_sheet(
                found["decoded"].numpy(),
                found["original"].numpy(),
                times=found["times"].tolist(),
                curves=curves,
                data=held_out,
            ),
        ),
    }


def _quality(findings: Findings, config: RunConfig, numbers: dict[str, Any], data: str) -> Files:
    quality, count = numbers["quality"], config.study.num_images
    files: Files = {}
    settings = {one.name: one for one in swept(config)[0]}
    curves: dict[str, list[tuple[int, float]]] = {}
    for one in quality["samplers"] if quality["floor"] is not None else []:
        point = (one["evaluations"], one["frechet_distance"])
        curves.setdefault(settings[one["setting"]].label, []).append(point)
    if progress := quality["progress"]:
        files["progress-figure"] = (
            ".png",
            figures.progressive_quality_figure(
                [one["reverse_step"] for one in progress],
                [one["inception_score"] for one in progress],
                [one["frechet_distance"] for one in progress],
                data=data,
                num_images=count,
            ),
        )
        last = progress[-1]
        # The sample itself.
        curves["DDPM, every step"] = [(last["evaluations"], last["frechet_distance"])]
    if curves:
        files["samplers-figure"] = (
            ".png",
            figures.evaluations_figure(curves, data=data, num_images=count, floor=quality["floor"]),
        )
    if settings:
        files["samplers-sheet"] = (".png", _samplers_sheet(findings, list(settings.values()), data))
    return files


def _samplers_sheet(findings: Findings, settings: list[Setting], data: str) -> bytes:
    """Return the same noise as every sampler makes an image of it."""
    labels = list(dict.fromkeys(one.label for one in settings))
    steps = sorted({one.num_steps for one in settings})
    shown = {
        (one.label, one.num_steps): next(findings.each("sweep", one.name))["shown"]
        for one in settings
    }
    blank = torch.zeros_like(next(iter(shown.values())))
    cells = torch.stack(
        [torch.stack([shown.get((label, n), blank) for label in labels]) for n in steps]
    )  # (steps, labels, images, c, h, w)
    return sheets.samplers_sheet(
        cells.permute(2, 0, 1, 4, 5, 3).numpy(), labels=labels, steps=steps, data=data
    )


def _memory(findings: Findings, config: RunConfig, numbers: dict[str, Any], data: str) -> Files:
    files: Files = {}
    pixel = math.prod(config.data.shape) ** -0.5  # from a distance of levels to their RMSE
    for space in numbers["memorisation"]:
        scale = pixel if space == "pixels" else 1.0
        found = findings.one("neighbours", space)
        files[f"memorisation-{space}-figure"] = (
            ".png",
            figures.memorisation_figure(
                findings.memorisation(space).scaled(scale), data=data, distance=_DISTANCES[space]
            ),
        )
        nearest = found["nearest"].permute(0, 1, 3, 4, 2)
        files[f"neighbours-{space}-sheet"] = (
            ".png",
            sheets.neighbours_sheet(
                found["shown"].permute(0, 2, 3, 1).numpy(),
                nearest.numpy(),
                found["distance"],
                num_train=numbers["protocol"]["num_images"]["train"],
                scale=scale,
                distance=_DISTANCES[space],
                data=data,
            ),
        )
    return files


def _trajectories(findings: Findings, config: RunConfig, data: str) -> Files:
    num_timesteps, files = config.diffusion.num_timesteps, dict[str, tuple[str, bytes]]()
    if findings.has("progress", "ancestral"):
        found = next(findings.each("progress", "ancestral"))
        files["generation-sheet"] = (
            ".png",
            sheets.progressive_generation_sheet(
                found["shown"].permute(0, 1, 3, 4, 2).numpy(),
                times=found["times"].tolist(),
                num_timesteps=num_timesteps,
                data=data,
            ),
        )
    shared = findings.one("latents", "quarters")
    files["latents-sheet"] = (
        ".png",
        sheets.shared_latents_sheet(
            shared["latents"].numpy(),
            shared["images"].numpy(),
            times=shared["times"].tolist(),
            data=data,
        ),
    )
    if findings.has("mixes", "pairs"):
        files |= _mixes(findings, num_timesteps, data)
    if findings.has("round-trip", "ddim"):
        found = findings.one("round-trip", "ddim")
        files["round-trip-sheet"] = (
            ".png",
            sheets.round_trip_sheet(
                found["returned"].numpy(),
                found["latents"][-1].numpy(),
                found["original"].numpy(),
                steps=found["steps"].tolist(),
                rmse=found["rmse"].mean(dim=1).tolist(),
                data=data,
            ),
        )
    return files


def _mixes(findings: Findings, num_timesteps: int, data: str) -> Files:
    mixes, depths = findings.one("mixes", "pairs"), findings.one("depths", "pair")
    return {
        "mixes-sheet": (
            ".png",
            sheets.interpolation_sheet(
                mixes["mixed"].numpy(),
                (mixes["left"].numpy(), mixes["right"].numpy()),
                weights=MIX_WEIGHTS,
                depth=int(mixes["depth"]),
                num_timesteps=num_timesteps,
                data=data,
            ),
        ),
        "depths-sheet": (
            ".png",
            sheets.depths_sheet(
                depths["mixed"].numpy(),
                (depths["ends"][0].numpy(), depths["ends"][1].numpy()),
                weights=MIX_WEIGHTS,
                depths=depths["depths"].tolist(),
                num_timesteps=num_timesteps,
                data=data,
            ),
        ),
    }
