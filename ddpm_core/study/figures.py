"""Plots of the paper's views: progressive coding, quality on the way, evaluations, memorisation.

`data` says in a title which images were measured, e.g. "MNIST, held out".

Source: Ho et al. 2020, arXiv:2006.11239, figs. 5 and 10; table 4.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from ddpm_core.diffusion.measures.rate_distortion import Codelength, RateDistortion
from ddpm_core.drawing.plot import BLUE, CATEGORIES, GREY, ORANGE, dress, panels, plot, png
from ddpm_core.study.neighbours import Memorisation
from ddpm_core.study.published import CodingRow

_STEP = "reverse step $T - t + 1$"
_RATE = "rate [bits/dim]"
_RMSE = "distortion: RMSE [levels of 0–255]"
_MARKERS = "osD^vPX"
_NUM_BINS = 40
_DARK = "#222222"


def progressive_coding_figure(
    curves: RateDistortion,
    code: Codelength,
    *,
    data: str,
    num_images: int,
    published: Sequence[CodingRow] = (),
) -> bytes:
    """Return the three plots of fig. 5: distortion and rate over the steps, and one by the other.

    Args:
        curves: of the images.
        code: their lossless code and its parts, for the title.
        data: which images.
        num_images: how many.
        published: the paper's values, drawn beside; see `published.progressive_coding_of`.
    """
    figure, (by_step, rate_by_step, by_rate) = panels(
        3,
        f"Progressive coding of {data} (n = {num_images}): {code.total:.2f} bits/dim lossless = "
        f"rate {code.rate:.2f} + distortion {code.distortion:.2f} "
        f"({100 * code.distortion_share:.0f} % of it, below RMSE {float(curves.rmse[0]):.2f})",
    )
    steps, rate = curves.reverse_step.numpy(), curves.rate.numpy()
    _distortions(by_step, steps, curves)
    rate_by_step.plot(steps, rate, color=BLUE, linewidth=1.8, label="measured here")
    _distortions(by_rate, rate, curves)
    if published:
        paper = np.array(published)
        for axes, x, y in ((by_step, 0, 2), (rate_by_step, 0, 1), (by_rate, 1, 2)):
            axes.plot(
                paper[:, x],
                paper[:, y],
                "D",
                color=ORANGE,
                markersize=6,
                markerfacecolor="none",
                markeredgewidth=1.6,
                label="the paper, table 4",
            )
    for axes, x_label, y_label in (
        (by_step, _STEP, _RMSE),
        (rate_by_step, _STEP, _RATE),
        (by_rate, _RATE, _RMSE),
    ):
        dress(axes, x_label, y_label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if len(axes.lines) > 1:
            axes.legend(frameon=False)
    return png(figure)


def _distortions(axes: Axes, x: NDArray[np.float64], curves: RateDistortion) -> None:
    axes.plot(x, curves.rmse, color=BLUE, linewidth=2.4, label="mean of each image's RMSE")
    # On top, since the two are often as good as one.
    axes.plot(x, curves.rmse_of_mean, ":", color=_DARK, linewidth=1.4, label="root of the mean MSE")


def progressive_quality_figure(
    reverse_steps: Sequence[int],
    scores: Sequence[float | None],
    distances: Sequence[float],
    *,
    data: str,
    num_images: int,
) -> bytes:
    """Return how good the predicted x_0 is over the reverse steps (fig. 10).

    Args:
        reverse_steps: the paper's T - t + 1, in any order.
        scores: inception score of x_0_hat at each; None where the network has no classes.
        distances: Frechet distance of x_0_hat at each.
        data: which images, and which features.
        num_images: samples measured.
    """
    curves: list[tuple[Sequence[float | None], str]] = [
        (distances, "Fréchet distance (lower is better)")
    ]
    if None not in scores:
        curves.insert(0, (scores, "inception score (higher is better)"))
    figure, all_axes = panels(
        len(curves), f"Predicted $x_0$ over the reverse process: {data} (n = {num_images})"
    )
    order = np.argsort(reverse_steps)
    steps = np.asarray(reverse_steps)[order]
    for axes, (values, label) in zip(all_axes, curves, strict=True):
        axes.plot(steps, np.asarray(values)[order], "o-", color=BLUE, linewidth=1.8, markersize=4)
        dress(axes, _STEP, label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    return png(figure)


def evaluations_figure(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    *,
    data: str,
    num_images: int,
    floor: float | None = None,
) -> bytes:
    """Return the Frechet distance of each sampler over its evaluations of the network.

    Args:
        curves: by the sampler's name: (evaluations for an image, distance), in any order.
        data: which images, and which features.
        num_images: samples measured for each point.
        floor: the distance of two sets of real images, if it is known.
    """
    figure, axes = plot(
        f"Samplers by their cost: {data} (n = {num_images})",
        "evaluations of the network for an image",
        "Fréchet distance",
    )
    for place, (name, points) in enumerate(curves.items()):
        again = place // len(CATEGORIES)
        axes.plot(
            *zip(*sorted(points), strict=True),
            marker=_MARKERS[place % len(_MARKERS)],
            color=CATEGORIES[place % len(CATEGORIES)],
            linestyle=("-", "--", ":")[again % 3],
            markerfacecolor="white" if again else None,
            markersize=5,
            linewidth=1.5,
            label=name,
        )
    if floor is not None:
        axes.axhline(floor, color=GREY, linewidth=1.2, linestyle="-.", label="real images")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png(figure)


def ablations_figure(
    values: Mapping[str, float | None],
    *,
    measure: str,
    data: str,
    num_images: int,
    num_steps: int,
) -> bytes:
    """Return how good each ablation is, best first; None for one that diverged.

    Args:
        values: of what was measured, by what the ablation is.
        measure: what it is; the lower, the better.
        data: which images.
        num_images: samples measured.
        num_steps: optimiser steps of each.
    """
    figure, axes = plot(
        f"The paper's table 2 on {data}: {num_steps} steps each, n = {num_images}",
        f"{measure} (lower is better)",
        "",
    )
    known = {name: value for name, value in values.items() if value is not None}
    names = sorted(known, key=lambda name: known[name])
    names += [name for name in values if name not in known]
    for place, name in enumerate(names):
        value = known.get(name)
        axes.barh(place, value or 0, color=BLUE, height=0.6)
        text = "training unstable" if value is None else f"{value:.2f}"
        axes.text(value or 0, place, f"  {text}", va="center", fontsize=10, color=_DARK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    return png(figure)


def _plain_numbers(axes: Axes) -> None:
    """Write 20 and 500 at the ticks, not powers of ten, of which a plot may hold none."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def memorisation_figure(found: Memorisation, *, data: str, distance: str) -> bytes:
    """Return the distances to the nearest training image, of samples and of held-out images.

    Args:
        found: the distances.
        data: which images.
        distance: in which space, and its unit, e.g. "distance in pixel space [levels]".
    """
    figure, axes = plot(
        f"Nearest training image: {data} ({len(found.samples)} samples, "
        f"{len(found.held_out)} held-out images)\n\n",
        f"{distance} to the nearest training image",
        "share of the images",
    )
    sets = ((found.held_out, GREY, "held-out images"), (found.samples, BLUE, "samples"))
    highest = max(float(distances.max()) for distances, _, _ in sets)
    edges = np.linspace(0, highest or 1, _NUM_BINS + 1)
    for distances, colour, label in sets:
        counts, _ = np.histogram(distances, edges)
        axes.stairs(counts / len(distances), edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(counts / len(distances), edges, color=colour, linewidth=1.6, label=label)
    axes.axvline(found.threshold, color=ORANGE, linewidth=1.6, linestyle="--")
    axes.plot(
        [],
        color=ORANGE,
        linestyle="--",
        label=f"nearer than this: {100 * found.share:.1f} % of the samples, "
        f"{100 * found.expected:.1f} % of the held-out",
    )
    axes.set_xlim(left=0)
    # Above the plot: where in it there is room depends on the data.
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    return png(figure)
