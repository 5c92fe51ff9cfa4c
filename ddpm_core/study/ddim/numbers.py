"""The numbers of the DDIM paper's tables, as JSON values.

Source: Song et al. 2020, arXiv:2010.02502, tables 1 and 2, section 5.2.
"""

from typing import Any

import torch
from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.evaluation.distances.moments import frechet_distance
from ddpm_core.evaluation.numbers.seen import Seen
from ddpm_core.study.ddim.cells import TAUS, cell_name, cells
from ddpm_core.study.findings import Findings


def numbers_of(
    findings: Findings, config: RunConfig, reference: Seen | None, labels: Tensor | None
) -> dict[str, Any]:
    """Return the numbers of the tables.

    Args:
        findings: of all units.
        config: the run's, with `study.ddim_steps`.
        reference: what was seen of the training images; None without a feature network.
        labels: (n,) of the images that are drawn, in their order; None: they have none.
    """
    return {
        "clip_x_0": config.sample.clip_x_0,
        "table": [
            {
                "noise": cell.noise,
                "tau": cell.tau,
                "steps": cell.num_steps,
                **_quality(findings, cell.name, reference),
            }
            for cell in cells(config)
        ],
        "consistency": _consistency(findings, config, labels),
        "reconstruction": [
            one for tau in TAUS for one in _reconstruction(findings, tau, config.study.ddim_steps)
        ],
    }


def _quality(findings: Findings, name: str, reference: Seen | None) -> dict[str, Any]:
    seen = findings.seen("ddim", name)
    known = seen is not None and reference is not None
    return {
        "evaluations": int(next(findings.each("ddim", name))["evaluations"]),
        "frechet_distance": frechet_distance(seen.moments, reference.moments) if known else None,  # type: ignore[union-attr]
        "inception_score": None if seen is None else seen.score,
    }


def _consistency(
    findings: Findings, config: RunConfig, labels: Tensor | None
) -> list[dict[str, Any]]:
    """Return how alike the images of the same x_T are, in few steps and in the most.

    Each number is of an image and that of its own x_T in the most steps, and beside it (`other`) of
    an image and that of another x_T, of the same label where there are labels: what would be found
    if x_T said nothing. Then the class says nothing either, and is left out.
    """
    steps, found = sorted(config.study.ddim_steps), []
    for noise in ("0", "1"):
        most = _images_of(findings, noise, steps[-1])
        if labels is not None:
            most.pop("probabilities", None)
        for num_steps in steps[:-1]:
            few = _images_of(findings, noise, num_steps)
            own, other = _alike(few, most), _alike(*_beside_others(few, most, labels))
            found.append({"noise": noise, "steps": num_steps, "against": steps[-1], **own})
            found[-1] |= {f"other_{key}": value for key, value in other.items()}
    return found


def _images_of(findings: Findings, noise: str, num_steps: int) -> dict[str, Tensor]:
    part = cell_name(noise, "linear", num_steps)
    names = next(findings.each("ddim", part)).keys() & {"shown", "features", "probabilities"}
    return {name: findings.rows("ddim", part, name) for name in names}


def _beside_others(
    few: dict[str, Tensor], most: dict[str, Tensor], labels: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return each image of `few`, and from `most` that of another x_T: the last before it of the
    same label, of the first of a label the last. Images without another are left out.
    """
    kept, others = {}, {}
    for name in few.keys() & most.keys():
        count = len(few[name])
        of_each = torch.zeros(count) if labels is None else labels[:count]
        other = torch.arange(count)
        for label in set(of_each.tolist()):
            places = (of_each == label).nonzero().flatten()
            other[places] = places.roll(1)
        has_other = other != torch.arange(count)
        kept[name], others[name] = few[name][has_other], most[name][other[has_other]]
    return kept, others


def _alike(few: dict[str, Tensor], most: dict[str, Tensor]) -> dict[str, float]:
    """Return RMSE in levels and distance of features, as means, and the share of one class."""
    found = {}
    if len(few["shown"]):
        apart_u8 = few["shown"].double() - most["shown"].double()
        found["rmse"] = float(apart_u8.flatten(1).square().mean(dim=1).sqrt().mean())
    if len(few.get("features", ())):
        found["feature_distance"] = float((few["features"] - most["features"]).norm(dim=1).mean())
    if len(most.get("probabilities", ())):
        classes = few["probabilities"].argmax(1) == most["probabilities"].argmax(1)
        found["same_class"] = float(classes.double().mean())
    return found


def _reconstruction(findings: Findings, tau: str, steps: tuple[int, ...]) -> list[dict[str, Any]]:
    parts = [found["rmse"] for found in findings.each("reconstruction", tau)]
    errors = torch.cat(parts, dim=1)
    return [
        {
            "tau": tau,
            "steps": num_steps,
            "rmse": float(rmse.mean()),
            "mse": float((rmse / 255).square().mean()),
            "num_images": len(rmse),
        }
        for num_steps, rmse in zip(steps, errors, strict=True)
    ]


def metrics_of(numbers: dict[str, Any]) -> list[tuple[str, float | None, int]]:
    """Return (name, value, number of steps) of what MLflow is to plot."""
    return [
        *(
            (f"study/ddim/frechet_distance/{one['noise']}-{one['tau']}",
             one["frechet_distance"], one["steps"])
            for one in numbers["table"]
        ),
        *(
            (f"study/ddim/reconstruction_rmse/{one['tau']}", one["rmse"], one["steps"])
            for one in numbers["reconstruction"]
        ),
        *(
            (f"study/ddim/same_class/{one['noise']}", one.get("same_class"), one["steps"])
            for one in numbers["consistency"]
        ),
    ]  # fmt: skip
