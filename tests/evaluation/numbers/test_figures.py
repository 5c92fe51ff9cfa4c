import io

import numpy as np
import pytest
from PIL import Image

from ddpm_core.drawing.plot import plot
from ddpm_core.evaluation.numbers import figures
from ddpm_core.evaluation.numbers.metrics import Bound
from ddpm_core.recipes import digits


def bound(num: int) -> Bound:
    generator = np.random.default_rng(0)
    terms = generator.random((num, 30))
    terms[:, -3:] = [0, -1e-9, 1e-9]  # what rounding leaves of the last divergences
    return Bound(generator.random(num) * 1e-5, terms, generator.random((num, 30)))


HISTORY = [
    {"step": step, "loss": 1 / step, **{f"loss_q{q}": (q + 1) / step for q in range(4)}}
    for step in range(10, 100, 10)
]
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
DRAWINGS = {
    "likelihood": lambda: figures.likelihood_figure(bound(5)),
    "likelihood of one": lambda: figures.likelihood_figure(bound(1)),
    "rate and distortion": lambda: figures.rate_distortion_figure(bound(5)),
    "loss": lambda: figures.loss_figure(HISTORY, label="of x"),
    "loss of one point": lambda: figures.loss_figure(HISTORY[:1], label="of x"),
    "grey": lambda: figures.comparison_figure(IMAGES, IMAGES[:9]),
    "colour": lambda: figures.comparison_figure(IMAGES.repeat(3, axis=3), IMAGES.repeat(3, axis=3)),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_a_png_of_800_pixels_that_is_the_same_each_time(name):
    """Catches: warnings about logarithms of 0, dates in the file, a size that no one can read."""
    png = DRAWINGS[name]()
    with Image.open(io.BytesIO(png)) as image:
        assert image.width == 800
        assert 400 <= image.height <= 480
        pixels = np.asarray(image.convert("L"))
    assert (pixels < 128).mean() > 0.002, "nothing is drawn"
    assert DRAWINGS[name]() == png


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "mean squared error of the predicted noise"),
        ({"diffusion.prediction": "v"}, "mean squared error of the predicted v"),
        (
            {"diffusion.prediction": "x_0", "train.weighting": "min_snr"},
            "weighted mean squared error of the predicted image",
        ),
        (
            {"diffusion.prediction": "x_prev"},
            r"mean squared error of the predicted mean of $x_{t-1}$",
        ),
        ({"train.loss": "vlb"}, "mean term of the bound [bits/dim]"),
        (
            {"train.loss": "hybrid", "diffusion.variance": "learned_range"},
            "hybrid loss: error of the noise, and bound",
        ),
    ],
)
def test_the_axis_of_the_loss_says_what_was_trained(changes, label):
    """Catches: the error of the noise for a run that predicts v; words cut by the figure's edge."""
    assert figures.loss_label(digits().replaced(changes)) == label
    figure, axes = plot("Training loss", "step", label)
    figure.draw_without_rendering()
    words = axes.yaxis.label.get_window_extent()
    assert words.y0 >= 0
    assert words.y1 <= figure.bbox.height


def test_a_class_may_have_any_name_a_folder_has(recwarn):
    """Catches: a name that is read as mathematics, which ends an evaluation after all is measured;
    one without glyphs that warns; one with a byte that is no text.
    """
    names = ["$a_$", "$\\frac$", "\u732b", "a\nb", "\udcff", "cat"]
    rows = [{"class": name, "bits_per_dim": 1.0} for name in names]
    assert figures.classes_figure(rows).startswith(b"\x89PNG")
    assert not recwarn.list
    plain = [{"class": name, "bits_per_dim": 1.0} for name in ["a", "b", "c", "d", "e", "f"]]
    assert figures.classes_figure(rows) != figures.classes_figure(plain)
