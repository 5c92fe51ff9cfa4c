"""Figures of an evaluation, as PNG files of 800 by 480 pixels."""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ddpm_core.config import RunConfig
from ddpm_core.diffusion.choices import OutputKind
from ddpm_core.drawing import pictures
from ddpm_core.drawing.plot import BLUE, DPI, GREY, ORANGE, drawable, dress, plot, png
from ddpm_core.evaluation.numbers.metrics import Bound

_QUARTILE_COLOURS = ("#08306b", "#2f79b9", "#7fb5d9", "#b9cfe0")
_NAMED = 30
"""classes whose names have room beside their bars"""
_NAME_LENGTH = 16
_PREDICTED: dict[OutputKind, str] = {
    "eps": "noise",
    "x_0": "image",
    "x_prev": r"mean of $x_{t-1}$",
    "v": "v",
    "drift": r"drift of $x_{t-1}$",
    "velocity": "velocity",
}


def likelihood_figure(bound: Bound) -> bytes:
    """Return each timestep's share of the bound; the decoder's, at t = 0, apart."""
    figure, axes = plot(
        f"Bound on the held-out images: {bound.total.mean():.3f} bits/dim (n = {len(bound.prior)})",
        "timestep t",
        "term of the bound [bits/dim]",
    )
    terms = bound.terms.mean(axis=0)
    spread = (
        bound.terms.std(axis=0, ddof=1) / np.sqrt(len(bound.prior)) if len(bound.prior) > 1 else 0
    )
    t = np.arange(len(terms))
    # What rounding leaves of a divergence may be 0 or below; a logarithm has no place for it.
    steps = np.where(terms > 0, terms, np.nan)
    axes.plot(t[1:], steps[1:], color=BLUE, linewidth=1.6, label="divergence of each step")
    low, high = steps - spread, steps + spread
    axes.fill_between(
        t[1:], np.where(low > 0, low, np.nan)[1:], high[1:], color=BLUE, alpha=0.2, linewidth=0
    )
    axes.plot(0, terms[0], "o", color=ORANGE, label=f"decoder at t = 0: {terms[0]:.3f}")
    axes.set_yscale("log")
    axes.set_xlim(left=-0.02 * len(terms))
    axes.legend(frameon=False)
    return png(figure)


def rate_distortion_figure(bound: Bound) -> bytes:
    """Return how far the predicted x_0 is from the image once so many bits are known (Fig. 5)."""
    figure, axes = plot(
        "Rate and distortion on the held-out images",
        "rate [bits/dim]",
        "distortion: RMSE of the predicted $x_0$ [levels of 0–255]",
    )
    axes.plot(bound.rate(), bound.distortion(), color=BLUE, linewidth=1.8)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return png(figure)


def loss_label(config: RunConfig) -> str:
    """Return what the training loss of the run is, and its unit; see `Objective.losses`."""
    if config.role != "denoiser":
        return "mean cross entropy [nats]"
    predicted = _PREDICTED[config.diffusion.prediction]
    match config.train.loss:
        case "simple":
            kind = "mean" if config.train.weighting == "none" else "weighted mean"
            return f"{kind} squared error of the predicted {predicted}"
        case "vlb":
            return "mean term of the bound [bits/dim]"
        case "hybrid":
            return f"hybrid loss: error of the {predicted}, and bound"
        case _:
            assert_never(config.train.loss)


def loss_figure(history: Sequence[Mapping[str, float]], *, label: str) -> bytes:
    """Return the training loss over the steps, and by quarter of the chain.

    Args:
        history: points with step, loss and loss_q0 ... loss_q3; none of imported weights.
        label: what the loss is, see `loss_label`.
    """
    figure, axes = plot("Training loss", "step", label)
    if not history:
        axes.text(0.5, 0.5, "imported weights: no curve", ha="center", transform=axes.transAxes)
        return png(figure)
    quarters = [f"t in the {name} quarter" for name in ("first", "second", "third", "last")]
    for quartile, (quarter, colour) in enumerate(zip(quarters, _QUARTILE_COLOURS, strict=True)):
        points = [(p["step"], p[f"loss_q{quartile}"]) for p in history if f"loss_q{quartile}" in p]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, label=quarter)
    steps, losses = [p["step"] for p in history], [p["loss"] for p in history]
    axes.plot(steps, losses, color=ORANGE, linewidth=1.8, label="all timesteps")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, ncols=2)
    return png(figure)


def accuracy_figure(metric: Mapping[str, Any]) -> bytes:
    """Return the share of noised images that a classifier has right over the time of their noise.

    Args:
        metric: of `noised.accuracy_metric`.
    """
    count = metric["protocol"]["num_images"]
    figure, axes = plot(
        f"Noised held-out images classified right: {100 * metric['value']:.1f} % (n = {count})",
        "timestep t",
        "share classified right",
    )
    times = [one["t"] for one in metric["by_noise"]]
    shares = np.array([one["value"] for one in metric["by_noise"]])
    error = np.sqrt(shares * (1 - shares) / count)
    axes.fill_between(times, shares - error, shares + error, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(times, shares, color=BLUE, linewidth=1.8, marker="o", markersize=4)
    axes.axhline(metric["chance"], color=GREY, linestyle="--", label="the commonest class")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    return png(figure)


def classes_figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return bits/dim of each class and, where there is a judge, the share judged right.

    Args:
        rows: of `by_class.class_rows`.
    """
    places = np.arange(len(rows))
    names = [drawable(str(row["class"])[:_NAME_LENGTH]) for row in rows]
    has_judge = "judged_right" in rows[0]
    figure = Figure(figsize=(8.0, 4.8), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2 if has_judge else 1, squeeze=False)[0]
    quantities = [("bits/dim of held-out images", "bits_per_dim", ORANGE)]
    if has_judge:
        quantities.insert(0, ("share judged right (samples; | held out)", "judged_right", BLUE))
    for axes, (label, key, colour) in zip(panels, quantities, strict=True):
        values = [np.nan if row[key] is None else row[key] for row in rows]
        axes.barh(places, values, color=colour, height=0.7)
        if key == "judged_right":
            ceiling = [row["held_out_judged_right"] for row in rows]
            marks = [np.nan if one is None else one for one in ceiling]
            axes.plot(marks, places, "|", color="#333333", markersize=12, markeredgewidth=2)
            axes.set_xlim(0, 1.02)
        if len(rows) <= _NAMED:
            axes.set_yticks(places, names, parse_math=False)
        axes.invert_yaxis()
        dress(axes, label, "class")
    return png(figure)


def comparison_figure(
    samples_u8: NDArray[np.uint8], held_out_u8: NDArray[np.uint8], *, num_images: int = 100
) -> bytes:
    """Return samples beside held-out images, the same number of each.

    Args:
        samples_u8: (n, h, w, c), in their order: none are chosen.
        held_out_u8: (m, h, w, c), in their order.
        num_images: of each, at most.
    """
    count = min(num_images, len(samples_u8), len(held_out_u8))
    figure = Figure(figsize=(8, 4.4), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2)
    titles = (f"{count} samples", f"{count} held-out images")
    for axes, title, images_u8 in zip(panels, titles, (samples_u8, held_out_u8), strict=True):
        sheet = pictures.as_pillow(pictures.grid(images_u8[:count]))
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        axes.set_title(title, fontsize=11)
        axes.axis("off")
    return png(figure)
