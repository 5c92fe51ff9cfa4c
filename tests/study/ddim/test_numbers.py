"""The numbers of the tables, and the page and sheets that show them, of findings made up."""

import json

import pytest
import torch

from ddpm_core.drawing.sheet import sheet_figure
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.store.storage import open_store
from ddpm_core.study.ddim import drawings
from ddpm_core.study.ddim.cells import cells
from ddpm_core.study.ddim.numbers import _alike, _beside_others
from ddpm_core.study.numbers import metrics_of, numbers_of
from ddpm_core.study.units import Unit
from tests.study.made_up import NUM_TEST, NUM_TRAIN, made_up, make_up
from tests.study.small import study_config

CONFIG = study_config(**{"study.ddim_steps": [21, 5]})
PROTOCOL = {
    "features": {"kind": "trained"},
    "num_images": {"train": NUM_TRAIN, "test": NUM_TEST},
}


def whole(kind, part, stop):
    return make_up(Unit(kind, part, 0, stop), config=CONFIG)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return made_up(open_store(str(tmp_path_factory.mktemp("made up"))), CONFIG)


@pytest.fixture(scope="module")
def numbers(found):
    return numbers_of(found, CONFIG, PROTOCOL)


def test_a_study_without_the_tables_says_nothing_of_them(found):
    """Catches: a finished study of before whose numbers would be others today."""
    numbers = numbers_of(found, study_config(), PROTOCOL)
    assert "ddim" not in numbers
    assert "ddim_steps" not in numbers["protocol"]["study"]
    assert not [name for name, _, _ in metrics_of(numbers) if "ddim/" in name]


def test_every_cell_has_its_distance(numbers):
    """Catches: cells exchanged, distances to the held-out images."""
    assert json.loads(json.dumps(numbers)) == numbers
    table = numbers["ddim"]["table"]
    assert [(c["noise"], c["tau"], c["steps"]) for c in table] == [
        (cell.noise, cell.tau, cell.num_steps) for cell in cells(CONFIG)
    ]
    train = moments_of(whole("features", "train", NUM_TRAIN)["features"])
    for cell in table:
        part = f"{cell['noise']}-{cell['tau']}-{cell['steps']}"
        own = moments_of(whole("ddim", part, 6)["features"])
        assert cell["frechet_distance"] == pytest.approx(frechet_distance(own, train))
        assert cell["evaluations"] == 9
    points = {(name, step): value for name, value, step in metrics_of(numbers)}
    first = table[0]
    name = "study/ddim/frechet_distance/0-linear"
    assert points[name, first["steps"]] == first["frechet_distance"]
    assert ("study/ddim/reconstruction_rmse/quadratic", 5) in points
    assert ("study/ddim/same_class/1", 5) in points


def test_images_of_one_x_T_are_compared_with_the_longest_way_and_with_another_x_T_s():  # noqa: N802
    """Catches: images compared with themselves, squares for roots, the class of the few steps
    alone."""
    most = {
        "shown": torch.tensor([0.0, 100.0, 200.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2),
        "features": torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]),
        "probabilities": torch.eye(3),
    }
    few = {
        "shown": most["shown"] + 7,
        "features": most["features"] + torch.tensor([0.6, 0.8]),
        "probabilities": torch.eye(3)[[0, 1, 1]],
    }
    assert _alike(few, most) == pytest.approx(
        {"rmse": 7, "feature_distance": 1, "same_class": 2 / 3}
    )
    # Image i beside that of x_T i - 1: 7 - 200, 107 and 107 levels apart.
    other = _alike(*_beside_others(few, most, None))
    assert other["rmse"] == pytest.approx((193 + 107 + 107) / 3)
    assert other["same_class"] == pytest.approx(1 / 3)


def test_consistency_is_of_ddim_and_of_ddpm(numbers):
    """Catches: the most steps taken for the first that were given, one row for both."""
    rows = numbers["ddim"]["consistency"]
    assert [(row["noise"], row["steps"], row["against"]) for row in rows] == [
        ("0", 5, 21), ("1", 5, 21),
    ]  # fmt: skip
    few, most = (whole("ddim", f"1-linear-{steps}", 6)["features"] for steps in (5, 21))
    expected = float((few - most).norm(dim=1).mean())
    assert rows[1]["feature_distance"] == pytest.approx(expected, rel=1e-5)


def test_images_of_labels_are_compared_with_those_of_the_same_label(found):
    """Catches: images of two labels for what x_T does, an image beside itself where it is the only
    one of its label, "the same class" of images that were drawn of it.
    """
    config = CONFIG.replaced({"model.conditioning": "label"})
    labels = torch.tensor([0, 1, 2, 1, 0, 1])
    rows = numbers_of(found, config, PROTOCOL, labels)["ddim"]["consistency"]
    few, most = (whole("ddim", f"0-linear-{steps}", 6)["features"] for steps in (5, 21))
    pairs = [(0, 4), (4, 0), (1, 5), (3, 1), (5, 3)]
    expected = torch.stack([(few[one] - most[other]).norm() for one, other in pairs]).mean()
    assert rows[0]["other_feature_distance"] == pytest.approx(float(expected), rel=1e-5)
    assert rows[0]["feature_distance"] == pytest.approx(float((few - most).norm(dim=1).mean()))
    assert not any("same_class" in key for row in rows for key in row)
    alone = numbers_of(found, config, PROTOCOL, torch.arange(6))["ddim"]
    assert "other_feature_distance" not in alone["consistency"][0]
    page = drawings.tables_markdown(alone, config, "digits")
    assert "In brackets: of two that do not share x_T, of one label." in page


def test_errors_there_and_back_are_of_all_images(numbers):
    """Catches: the first unit alone, the mean of squares for the square of the mean, errors of
    [-1, 1] for the paper's [0, 1]."""
    rows = {(one["tau"], one["steps"]): one for one in numbers["ddim"]["reconstruction"]}
    assert set(rows) == {(tau, steps) for tau in ("linear", "quadratic") for steps in (21, 5)}
    errors = whole("reconstruction", "quadratic", 6)["rmse"]
    for steps, expected in zip((21, 5), errors, strict=True):
        row = rows["quadratic", steps]
        assert row["rmse"] == pytest.approx(float(expected.mean()))
        assert row["mse"] == pytest.approx(float(expected.square().mean()) / 255**2)
        assert row["num_images"] == 6


def test_the_page_has_every_number_in_its_place(numbers):
    """Catches: columns in another order than their heads, the paper's numbers in our rows."""
    lines = drawings.tables_markdown(numbers["ddim"], CONFIG, "digits").splitlines()
    cells = {(c["noise"], c["tau"], c["steps"]): c for c in numbers["ddim"]["table"]}
    for tau in ("linear", "quadratic"):
        at = lines.index(f"## Fréchet distance to the training images, {tau} steps")
        assert lines[at + 2] == "| S | 21 | 5 |"
        row = next(line for line in lines[at:] if line.startswith("| η = 0.2 |"))
        all_steps, few = (
            cells["0.2", name, steps]["frechet_distance"]
            for name, steps in (("linear", 21), (tau, 5))
        )
        assert row == f"| η = 0.2 | {all_steps:.2f} | {few:.2f} |"
    assert "| σ̂ (DDPM, larger variance) | 367.43 | 133.37 | 32.72 | 9.99 | 3.17 |" in lines
    assert "n = 6; the predicted image is clipped to [-1, 1] in each step." in lines
    rows = {(one["tau"], one["steps"]): one for one in numbers["ddim"]["reconstruction"]}
    one = rows["linear", 5]
    assert f"| 5 | linear | {one['rmse']:.2f} | {one['mse']:.2g} | – |" in lines


def test_sheets_have_the_steps_side_by_side(found, numbers, monkeypatch):
    """Catches: steps in the order given, images and steps exchanged, DDPM shown as DDIM."""
    seen = []

    def remember(blocks, **texts):
        seen.append(blocks)
        return sheet_figure(blocks, **texts)

    monkeypatch.setattr(drawings, "sheet_figure", remember)
    drawn = drawings.drawings_of(found, CONFIG, numbers, "digits")
    (ddim, ddpm), (arcs,) = seen
    for block, noise in ((ddim, "0"), (ddpm, "1")):
        assert block.captions == [("5",), ("21",)]
        shown = whole("ddim", f"{noise}-linear-5", 4)["shown"]
        assert torch.equal(torch.from_numpy(block.frames_u8[0]), shown.permute(0, 2, 3, 1))
    assert arcs.frames_u8.shape == (11, 1, 8, 8, 1)
    assert set(drawn) == {"ddim-table", "ddim-figure", "consistency-sheet", "arcs-sheet"}
    for role in set(drawn) - {"ddim-table"}:
        assert drawn[role][1].startswith(b"\x89PNG")
