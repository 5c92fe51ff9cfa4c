"""The style of all figures: colours, axes, and PNG files that are the same each time."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

DPI = 100
BLUE, ORANGE, GREY = "#1f5fa8", "#d9730d", "#8a8a8a"
# Distinguishable without seeing red or green (Okabe and Ito 2008), without the yellow,
# which is too faint on white.
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")


def plot(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return a figure of 800 by 480 pixels with one pair of axes."""
    figure = Figure(figsize=(8.0, 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=12)
    dress(axes, x_label, y_label)
    return figure, axes


def panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of 480 pixels of height with so many plots side by side."""
    # Figure, not pyplot: no global state, no display, no backend to choose.
    figure = Figure(figsize=(4.8 * count, 4.8), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=13)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Name the axes, and leave out what says nothing."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GREY, alpha=0.2, linewidth=0.6)


def drawable(name: str) -> str:
    """Return a name with `?` for each character of which the figures' font has no glyph."""
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    return "".join(one if one.isprintable() and ord(one) in glyphs else "?" for one in name)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file without date or version."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
