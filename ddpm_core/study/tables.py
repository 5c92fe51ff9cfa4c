"""Table 4 of the paper, of any data set: rate and distortion at every tenth of the reverse process.

Source: Ho et al. 2020, arXiv:2006.11239, table 4 and section 4.3.
"""

from collections.abc import Sequence
from typing import Any

from ddpm_core.diffusion.measures.rate_distortion import Codelength, RateDistortion
from ddpm_core.study.published import CodingRow

_NUM_ROWS = 10


def coding_table(
    curves: RateDistortion, code: Codelength, *, published: Sequence[CodingRow] = ()
) -> dict[str, Any]:
    """Return table 4 and the split of the lossless code as JSON values.

    Args:
        curves: of the images.
        code: their lossless code.
        published: the paper's rows, each put beside the same reverse step.
    """
    num_timesteps = len(curves.rate)
    paper = {row.reverse_step: row for row in published}
    # A chain of fewer than ten steps has fewer rows.
    steps = {num_timesteps * tenth // _NUM_ROWS for tenth in range(1, _NUM_ROWS + 1)} - {0}
    rows = []
    for step in sorted(steps, reverse=True):
        t = num_timesteps - step
        row: dict[str, Any] = {
            "reverse_step": step,
            "rate": float(curves.rate[t]),
            "rmse": float(curves.rmse[t]),
            "rmse_of_mean": float(curves.rmse_of_mean[t]),
        }
        if step in paper:
            row["paper"] = {"rate": paper[step].rate, "rmse": paper[step].rmse}
        rows.append(row)
    return {
        "unit": "rate: bits/dim; rmse: levels of 0...255; reverse_step: the paper's T - t + 1",
        "num_timesteps": num_timesteps,
        "rows": rows,
        "lossless": {
            "total": code.total,
            "rate": code.rate,
            "distortion": code.distortion,
            "distortion_share": code.distortion_share,
        },
    }


def coding_markdown(table: dict[str, Any], *, data: str, num_images: int) -> str:
    """Return what `coding_table` returned as a page.

    Args:
        table: the values.
        data: which images.
        num_images: how many.
    """
    beside = any("paper" in row for row in table["rows"])
    heads = ["Reverse step (T − t + 1)", "Rate (bits/dim)", "Distortion (RMSE, 0–255)"]
    heads += ["of the mean error"]
    heads += ["Paper: rate", "Paper: distortion"] if beside else []
    lines = [
        f"# Progressive coding of {data} (n = {num_images}, T = {table['num_timesteps']})",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---:|" * len(heads),
    ]
    for row in table["rows"]:
        cells = [row["reverse_step"], f"{row['rate']:.5f}", f"{row['rmse']:.5f}"]
        cells += [f"{row['rmse_of_mean']:.5f}"]
        if beside:
            paper = row.get("paper")
            cells += [f"{paper['rate']:.5f}", f"{paper['rmse']:.5f}"] if paper else ["", ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lossless = table["lossless"]
    lines += [
        "",
        f"Lossless: {lossless['total']:.3f} bits/dim = rate {lossless['rate']:.3f} + distortion "
        f"{lossless['distortion']:.3f}; {100 * lossless['distortion_share']:.1f} % of the code "
        f"describes what is left below an RMSE of {table['rows'][0]['rmse']:.2f} levels.",
        "",
    ]
    return "\n".join(lines)


def ablation_markdown(rows: Sequence[dict[str, Any]], labels: Sequence[str], data: str) -> str:
    """Return table 2 of the paper as it came out here, the paper's values on CIFAR-10 beside it.

    Args:
        rows: in the paper's order.
        labels: what each ablation is.
        data: which images.
    """
    lines = [
        f"# Ablations on {data}: {rows[0]['num_steps']} optimiser steps each, "
        f"{rows[0]['num_samples']} samples",
        "",
        "| Prediction, objective, variance | Inception score | Fréchet distance (train) | "
        "Bits/dim | Paper, CIFAR-10: IS | FID |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, label in zip(rows, labels, strict=True):
        if row["diverged"] is None:
            cells = [
                _number(row[key], 2)
                for key in ("inception_score", "frechet_distance_train", "bits_per_dim")
            ]
        else:
            cells = ["unstable"] * 3
        paper = [
            "unstable" if value is None else _number(value, 2)
            for value in (row["paper"]["inception_score"], row["paper"]["fid"])
        ]
        lines.append("| " + " | ".join([label, *cells, *paper]) + " |")
    lines += [
        "",
        "Inception scores and distances of a classifier of the data set compare these rows with "
        "one another, not with the paper's.",
        "",
    ]
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
