"""The DDIM paper's tables as a page and a plot, its figs. 5 and 6 as sheets.

Source: Song et al. 2020, arXiv:2010.02502.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ddpm_core.config import RunConfig
from ddpm_core.drawing.sheet import Block, sheet_figure
from ddpm_core.study.ddim.cells import SIGMA_HAT, TAUS, cell_name, noises
from ddpm_core.study.figures import evaluations_figure
from ddpm_core.study.findings import Findings
from ddpm_core.study.pictures import MIX_WEIGHTS
from ddpm_core.study.published import DDIM_FID, DDIM_RECONSTRUCTION, DDIM_STEPS

LABELS = {"0": "η = 0 (DDIM)", "1": "η = 1 (DDPM)", SIGMA_HAT: "σ̂ (DDPM, larger variance)"}


def drawings_of(
    findings: Findings, config: RunConfig, numbers: dict[str, Any], data: str
) -> dict[str, tuple[str, bytes]]:
    """Return role -> (suffix, content) of page, plot and sheets.

    Args:
        findings: of all units.
        config: the run's.
        numbers: all of the study, with `ddim`.
        data: which images the model was trained on.
    """
    steps = sorted(config.study.ddim_steps)
    files = {
        "ddim-table": (".md", tables_markdown(numbers["ddim"], config, data).encode()),
        "consistency-sheet": (".png", _consistency_sheet(findings, steps, data)),
        "arcs-sheet": (".png", _arcs_sheet(findings, max(steps), data)),
    }
    if numbers["quality"]["floor"] is not None:
        curves: dict[str, list[tuple[int, float]]] = {}
        for cell in numbers["ddim"]["table"]:
            curve = curves.setdefault(f"{_label(cell['noise'])}, {cell['tau']}", [])
            curve.append((cell["steps"], cell["frechet_distance"]))
        files["ddim-figure"] = (
            ".png",
            evaluations_figure(
                curves,
                data=data,
                num_images=config.study.num_images,
                floor=numbers["quality"]["floor"],
            ),
        )
    return files


def _label(noise: str) -> str:
    return LABELS.get(noise, f"η = {noise}")


def _consistency_sheet(findings: Findings, steps: Sequence[int], data: str) -> bytes:
    """Return what one x_T becomes without noise on the way, and with it, in ever more steps."""
    blocks = []
    for noise in ("0", "1"):
        parts = [cell_name(noise, "linear", num_steps) for num_steps in steps]
        columns = [next(findings.each("ddim", part))["shown"].numpy() for part in parts]
        frames = np.stack(columns).transpose(0, 1, 3, 4, 2)
        blocks.append(Block(_label(noise), frames, [(str(num_steps),) for num_steps in steps]))
    return sheet_figure(
        blocks,
        title=f"The same $x_T$ in each row, in ever more steps, model of {data}",
        caption_names=("steps",),
    )


def _arcs_sheet(findings: Findings, num_steps: int, data: str) -> bytes:
    return sheet_figure(
        [
            Block(
                "DDIM of the $x_T$ on the arc between two, by the share of its angle",
                findings.one("arcs", "slerp")["images"].numpy(),
                [(f"{weight:g}",) for weight in MIX_WEIGHTS],
            )
        ],
        title=f"Between two samples in {num_steps} steps, model of {data}",
    )


def tables_markdown(numbers: dict[str, Any], config: RunConfig, data: str) -> str:
    """Return tables 1 and 2 of the paper as they came out here, and the paper's beside them.

    Args:
        numbers: as `numbers_of` returned them.
        config: the run's.
        data: which images the model was trained on.
    """
    return "\n".join(
        [
            *_table_1(numbers, config, data),
            *_consistency(numbers["consistency"], config),
            *_table_2(numbers["reconstruction"], data),
        ]
    )


def _table_1(numbers: dict[str, Any], config: RunConfig, data: str) -> Iterator[str]:
    steps = config.study.ddim_steps
    found = {
        cell_name(cell["noise"], cell["tau"], cell["steps"]): cell["frechet_distance"]
        for cell in numbers["table"]
    }
    yield f"# DDIM on {data}"
    for tau in TAUS:
        yield from ["", f"## Fréchet distance to the training images, {tau} steps", ""]
        yield from _head(["S", *steps])
        for noise in noises(config):
            names = [cell_name(noise, tau, one) for one in steps]
            whole = [cell_name(noise, "linear", one) for one in steps]
            values = [found.get(a, found[b]) for a, b in zip(names, whole, strict=True)]
            yield _row([_label(noise), *(_number(value, 2) for value in values)])
    clipped = "clipped to [-1, 1] in each step" if numbers["clip_x_0"] else "not clipped"
    yield from ["", f"n = {config.study.num_images}; the predicted image is {clipped}.", ""]
    yield from ["The paper, CIFAR-10, quadratic steps, FID (compare the order, not the size):", ""]
    yield from _head(["S", *DDIM_STEPS])
    for noise, row in DDIM_FID.items():
        yield _row([_label(noise), *(f"{value:.2f}" for value in row)])


def _consistency(rows: list[dict[str, Any]], config: RunConfig) -> Iterator[str]:
    yield from ["", "## The same x_T in few steps and in the most", ""]
    of_label = "" if config.num_classes is None else ", of one label"
    yield f"In brackets: of two that do not share x_T{of_label}."
    yield ""
    yield from _head(["", "S", "against", "RMSE [levels]", "distance of features", "same class"])
    for row in rows:
        pairs = [
            f"{_number(row.get(key), digits)} ({_number(row.get(f'other_{key}'), digits)})"
            for key, digits in (("rmse", 1), ("feature_distance", 2), ("same_class", 3))
        ]
        yield _row([_label(row["noise"]), row["steps"], row["against"], *pairs])
    shown, drawn = config.study.num_shown, config.study.num_images
    yield from ["", f"RMSE of the {shown} images that are shown, the rest of {drawn}."]


def _table_2(rows: list[dict[str, Any]], data: str) -> Iterator[str]:
    count = rows[0]["num_images"]
    yield from ["", f"## {data}, held out (n = {count}), encoded and decoded", ""]
    yield from _head(["S", "steps", "RMSE [levels]", "MSE of [0, 1]", "The paper, CIFAR-10: MSE"])
    for row in rows:
        paper = DDIM_RECONSTRUCTION.get(row["steps"])
        cells = [row["steps"], row["tau"], f"{row['rmse']:.2f}", f"{row['mse']:.2g}"]
        yield _row([*cells, "–" if paper is None else f"{paper:g}"])
    yield ""


def _head(cells: Sequence[object]) -> list[str]:
    return [_row(cells), "|---|" + "---:|" * (len(cells) - 1)]


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
