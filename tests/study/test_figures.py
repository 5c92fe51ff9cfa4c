import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.diffusion.measures.rate_distortion import Codelength, RateDistortion
from ddpm_core.study import figures
from ddpm_core.study.neighbours import Memorisation
from ddpm_core.study.published import PROGRESSIVE_CODING
from ddpm_core.study.tables import coding_markdown, coding_table


def curves(num_timesteps: int) -> RateDistortion:
    t = torch.arange(num_timesteps)
    rmse = t.double() / num_timesteps * 60 + 1
    return RateDistortion(num_timesteps - t, 2 / (t.double() + 1), rmse, 1.1 * rmse)


CODE = Codelength(rate=2.0, distortion=1.5)
COPIES = Memorisation(torch.zeros(3), torch.zeros(4), 0.0)
DRAWINGS = {
    "coding": lambda: figures.progressive_coding_figure(
        curves(50), CODE, data="digits", num_images=5
    ),
    "coding beside the paper": lambda: figures.progressive_coding_figure(
        curves(1000), CODE, data="CIFAR-10", num_images=5, published=PROGRESSIVE_CODING
    ),
    "quality": lambda: figures.progressive_quality_figure(
        [50, 10, 30], [3.0, 1.0, 2.0], [1.0, 90.0, 30.0], data="digits", num_images=9
    ),
    "evaluations": lambda: figures.evaluations_figure(
        {f"sampler {i}": [(100, 3.0 + i), (10, 50.0 + i)] for i in range(16)},
        data="digits", num_images=9, floor=2.0,
    ),
    "evaluations, one": lambda: figures.evaluations_figure(
        {"ancestral": [(250, 3.0)]}, data="digits", num_images=9
    ),
    "memory": lambda: figures.memorisation_figure(
        Memorisation(torch.linspace(0, 1, 30), torch.linspace(0.1, 1, 40), 0.1),
        data="digits", distance="distance",
    ),
    "nothing but copies": lambda: figures.memorisation_figure(
        COPIES, data="digits", distance="distance"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_a_png_that_is_the_same_each_time(name):
    """Catches: warnings of matplotlib, writing that fits nowhere, dates in the file."""
    png = DRAWINGS[name]()
    with Image.open(io.BytesIO(png)) as image:
        assert image.height == 480
        assert image.width in (800, 960, 1440)
        pixels = np.asarray(image.convert("L"))
    assert (pixels < 128).mean() > 0.002, "nothing is drawn"
    assert DRAWINGS[name]() == png


def _drawn(monkeypatch, draw):
    """Return the lines of each plot, by their label, instead of the file."""
    plots = []

    def lines(figure):
        plots.extend(
            {line.get_label(): line.get_xydata() for line in axes.lines} for axes in figure.axes
        )
        return b""

    monkeypatch.setattr(figures, "png", lines)
    draw()
    return plots


def test_fig_5_has_the_right_numbers_on_the_right_axes(monkeypatch):
    """Catches: rate for distortion, the paper's columns exchanged, axes from t instead of steps."""
    found = curves(1000)
    by_step, rate_by_step, by_rate = _drawn(monkeypatch, DRAWINGS["coding beside the paper"])
    steps = found.reverse_step.double()
    for plot, label, x, y in (
        (by_step, "mean of each image's RMSE", steps, found.rmse),
        (by_step, "root of the mean MSE", steps, found.rmse_of_mean),
        (rate_by_step, "measured here", steps, found.rate),
        (by_rate, "mean of each image's RMSE", found.rate, found.rmse),
        (by_rate, "root of the mean MSE", found.rate, found.rmse_of_mean),
    ):
        np.testing.assert_allclose(plot[label], torch.stack([x, y], 1))
    for plot, x, y in ((by_step, 0, 2), (rate_by_step, 0, 1), (by_rate, 1, 2)):
        expected = [(row[x], row[y]) for row in PROGRESSIVE_CODING]
        np.testing.assert_allclose(plot["the paper, table 4"], expected)


def test_without_published_numbers_none_are_drawn(monkeypatch):
    """Catches: CIFAR-10's numbers beside other images."""
    for plot in _drawn(monkeypatch, DRAWINGS["coding"]):
        assert not any("paper" in label for label in plot)


def test_curves_over_steps_and_evaluations_run_from_left_to_right(monkeypatch):
    """Catches: zigzags of points that come in another order, values that lose their step."""
    scores, distances = _drawn(monkeypatch, DRAWINGS["quality"])
    assert next(iter(scores.values())).tolist() == [[10, 1], [30, 2], [50, 3]]
    assert next(iter(distances.values())).tolist() == [[10, 90], [30, 30], [50, 1]]
    (samplers,) = _drawn(monkeypatch, DRAWINGS["evaluations"])
    assert samplers["sampler 3"].tolist() == [[10, 53], [100, 6]]
    assert samplers["real images"][:, 1].tolist() == [2, 2]


# -- table 4 ---------------------------------------------------------------------------------------


def test_table_4_has_every_tenth_step_and_the_paper_beside():
    """Catches: rows off by one step, the paper's row beside another step."""
    found = coding_table(curves(1000), CODE, published=PROGRESSIVE_CODING)
    assert [row["reverse_step"] for row in found["rows"]] == list(range(1000, 0, -100))
    first, last = found["rows"][0], found["rows"][-1]
    assert (first["rate"], first["rmse"]) == (2.0, 1.0)
    assert first["paper"] == {"rate": 1.77581, "rmse": 0.95136}
    assert last["rate"] == pytest.approx(2 / 901)
    assert last["rmse_of_mean"] == pytest.approx(1.1 * (0.9 * 60 + 1))
    assert last["paper"]["rmse"] == 67.60125
    assert found["lossless"] == {
        "total": 3.5, "rate": 2.0, "distortion": 1.5, "distortion_share": 1.5 / 3.5,
    }  # fmt: skip


def test_a_short_chain_has_a_shorter_table():
    """Catches: a step 0, which is index T."""
    found = coding_table(curves(4), CODE)
    assert [row["reverse_step"] for row in found["rows"]] == [4, 3, 2, 1]
    assert [row["rate"] for row in found["rows"]] == pytest.approx([2, 1, 2 / 3, 0.5])


@pytest.mark.parametrize("published", [(), PROGRESSIVE_CODING])
def test_the_page_has_a_cell_for_every_number(published):
    """Catches: rows that are shorter than their head, which break the table."""
    table = coding_table(curves(1000), CODE, published=published)
    page = coding_markdown(table, data="CIFAR-10, test", num_images=7)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 12
    assert {line.count("|") for line in rows} == {7 if published else 5}
    assert "CIFAR-10, test (n = 7, T = 1000)" in page
    assert "42.9 %" in page
    assert ("| 1000 | 2.00000 | 1.00000 | 1.10000 |" in page) is True
    assert ("1.77581" in page) is bool(published)


# -- what may be missing ---------------------------------------------------------------------------


def test_without_scores_the_distances_are_drawn_alone(monkeypatch):
    """Catches: a plot of None, or an empty one, where the network has no classes."""

    def draw():
        return figures.progressive_quality_figure(
            [50, 10], [None, None], [1.0, 90.0], data="digits", num_images=9
        )

    with Image.open(io.BytesIO(draw())) as image:
        assert image.height == 480
    (distances,) = _drawn(monkeypatch, draw)
    assert next(iter(distances.values())).tolist() == [[10, 90], [50, 1]]


def test_ablations_stand_best_first_and_the_unstable_last(monkeypatch):
    """Catches: bars beside other names, a diverged training drawn as the best."""
    seen = {}

    def bars(figure):
        (axes,) = figure.axes
        seen["names"] = [tick.get_text() for tick in axes.get_yticklabels()]
        seen["lengths"] = [bar.get_width() for bar in axes.patches]
        seen["texts"] = [text.get_text().strip() for text in axes.texts]
        bottom, top = axes.get_ylim()
        seen["upside down"] = bottom > top
        return b""

    distances = {"worst": 30.0, "diverged": None, "best": 2.5, "between": 4.0}
    with monkeypatch.context() as patch:
        patch.setattr(figures, "png", bars)
        figures.ablations_figure(
            distances, measure="bits", data="digits", num_images=9, num_steps=7
        )
    assert seen == {
        "names": ["best", "between", "worst", "diverged"],
        "lengths": [2.5, 4.0, 30.0, 0],
        "texts": ["2.50", "4.00", "30.00", "training unstable"],
        "upside down": True,
    }
    nothing = dict.fromkeys(distances)
    png = figures.ablations_figure(
        nothing, measure="bits", data="digits", num_images=9, num_steps=7
    )
    assert png.startswith(b"\x89PNG")
