import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.diffusion.measures.rate_distortion import RateDistortion
from ddpm_core.drawing import sheet
from ddpm_core.drawing.sheet import Block, sheet_figure
from ddpm_core.study import sheets


def frames(columns: int, rows: int, channels: int = 1, first: int = 40) -> np.ndarray:
    """Return flat images, each of a level of its own: first + 10 column + row."""
    levels = first + 10 * np.arange(columns)[:, None] + np.arange(rows)
    shape = (columns, rows, 8, 8, channels)
    return np.broadcast_to(levels[:, :, None, None, None], shape).astype(np.uint8)


@pytest.fixture
def seen(monkeypatch):
    """What a sheet is asked to show."""
    asked = {}

    def remember(blocks, **texts):
        asked.update(blocks=blocks, **texts)
        return sheet_figure(blocks, **texts)

    monkeypatch.setattr(sheets, "sheet_figure", remember)
    return asked


def levels_of(block: Block) -> list[list[int]]:
    return block.frames_u8[:, :, 0, 0, 0].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_their_rows_and_columns_pixel_by_pixel(channels):
    """Catches: rows and columns exchanged, a sheet upside down, resampling by the figure."""
    blocks = [Block("left", frames(2, 3, channels)), Block("right", frames(4, 3, channels, 120))]
    png = sheet_figure(blocks, title="a title", row_names=["one", "two", "three"])
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    plan = sheet._Plan(blocks, ["one", "two", "three"], [], "a title")
    assert pixels.shape == (plan.height, plan.width, 3)
    for block, left in zip(blocks, plan.block_lefts, strict=True):
        for column, levels in enumerate(levels_of(block)):
            for row, level in enumerate(levels):
                y, x = plan.row(row), plan.column(left, column)
                cell = pixels[y : y + plan.cell_height, x : x + plan.cell_width]
                assert (cell == level).all()
                assert (pixels[y : y + plan.cell_height, x + plan.cell_width] == 255).all()


def test_a_sheet_is_the_same_each_time_and_grows_with_its_rows():
    """Catches: dates in the file, rows that are cut off, notes that lie on the images below."""
    block = Block("images", frames(3, 2), [("a", "b")] * 3, [("1.5", "2.5")] * 3)
    png = sheet_figure([block], title="t", caption_names=("first", "second"))
    assert png == sheet_figure([block], title="t", caption_names=("first", "second"))
    plain = sheet._Plan([Block("images", frames(3, 2))], [], [], "t")
    noted = sheet._Plan([block], [], ["first", "second"], "t")
    assert noted.row(1) - noted.row(0) >= plain.row(1) - plain.row(0) + 15
    assert noted.top >= plain.top + 30


@pytest.mark.parametrize("columns", [1, 5, 11, 30])
def test_a_sheet_is_as_wide_as_a_slide_where_it_can_be(columns):
    """Catches: cells too small to see, cells that are larger than legible, a cut title."""
    plan = sheet._Plan([Block("images", frames(columns, 2))], [], [], "a long title " * 4)
    assert 48 <= plan.cell_width <= 128
    assert plan.width >= 52 * 8
    assert plan.width <= 1210 or plan.cell_width == 48


def test_frames_keep_times_and_images_apart():
    """Catches: axes exchanged, another rounding than that of the samples."""
    images = torch.tensor([[-1.0, 0.0, 1.0], [0.2, -2.0, 3.0]])[:, :, None, None, None]
    found = sheets.frames_u8(images.expand(2, 3, 1, 4, 5))
    assert found.shape == (2, 3, 4, 5, 1)
    assert found[:, :, 0, 0, 0].tolist() == [[0, 128, 255], [153, 0, 255]]


def test_decoding_names_what_each_column_cost(seen):
    """Catches: rates by place instead of by time, code t for the reverse step."""
    t = torch.arange(50)
    curves = RateDistortion(50 - t, 2 - t.double() / 25, t.double(), t.double())
    sheets.progressive_decoding_sheet(
        frames(3, 2), frames(1, 2, first=200)[0], times=[40, 10, 0], curves=curves, data="digits"
    )
    decoded, original = seen["blocks"]
    assert decoded.captions == [
        ("10", "0.400", "40.0"), ("40", "1.600", "10.0"), ("50", "2.000", "0.0"),
    ]  # fmt: skip
    assert levels_of(original) == [[200, 201]]


def test_generation_runs_from_noise_to_image(seen):
    """Catches: captions that stay where they were when the columns are turned."""
    sheets.progressive_generation_sheet(
        frames(3, 2), times=[0, 10, 40], num_timesteps=50, data="digits"
    )
    (block,) = seen["blocks"]
    assert levels_of(block) == [[60, 61], [50, 51], [40, 41]]
    assert block.captions == [("10",), ("40",), ("50",)]


def test_a_latent_stands_beside_its_own_images(seen):
    """Catches: latents and images of different rows."""
    sheets.shared_latents_sheet(
        frames(2, 1, first=200)[:, 0], frames(2, 3), times=[49, 24], data="digits"
    )
    latents, images = seen["blocks"]
    assert levels_of(latents) == [[200, 210]]
    assert levels_of(images) == [[40, 50], [41, 51], [42, 52]]
    assert seen["row_names"] == ["t = 50", "t = 25"]


def test_mixes_stand_between_their_sources(seen):
    """Catches: sources exchanged, pairs mixed up."""
    left, right = frames(1, 2, first=100)[0], frames(1, 2, first=200)[0]
    sheets.interpolation_sheet(
        frames(3, 2), (left, right), weights=[0, 0.5, 1], depth=25, num_timesteps=50, data="digits"
    )
    first, mixes, last = seen["blocks"]
    assert (levels_of(first), levels_of(last)) == ([[100, 101]], [[200, 201]])
    assert levels_of(mixes) == [[40, 41], [50, 51], [60, 61]]
    assert mixes.captions == [("0",), ("0.5",), ("1",)]
    assert "25 of 50" in seen["title"]


def test_depths_are_rows_and_weights_columns(seen):
    """Catches: a sheet that is turned by 90 degrees."""
    left, right = frames(1, 1, first=100)[0, 0], frames(1, 1, first=200)[0, 0]
    sheets.depths_sheet(
        frames(2, 3), (left, right), weights=[0.1, 0.5, 0.9], depths=[0, 50], num_timesteps=50,
        data="digits",
    )  # fmt: skip
    first, mixes, last = seen["blocks"]
    assert (levels_of(first), levels_of(last)) == ([[100, 100]], [[200, 200]])
    assert levels_of(mixes) == [[40, 50], [41, 51], [42, 52]]
    assert seen["row_names"] == ["0 steps", "50 steps"]


def test_neighbours_stand_beside_their_sample_with_their_distances(seen):
    """Catches: neighbours of another sample, distances in another order or unit."""
    nearest_u8 = frames(1, 5)[0][np.array([[4, 0], [2, 3]])]
    sheets.neighbours_sheet(
        frames(1, 2, first=200)[0], nearest_u8, torch.tensor([[16.0, 80.0], [0.0, 1000.0]]),
        num_train=5, scale=1 / 8, distance="RMSE", data="digits",
    )  # fmt: skip
    samples, nearest = seen["blocks"]
    assert levels_of(samples) == [[200, 201]]
    assert levels_of(nearest) == [[44, 42], [40, 43]]
    assert nearest.notes == [["2.00", "0"], ["10.0", "125"]]
    assert "5 training images" in seen["title"]


def test_samplers_are_rows_and_steps_columns_of_a_block_for_each_noise(seen):
    """Catches: samplers and steps exchanged, the cells of another noise, more than a page takes."""
    # (images, steps, samplers): levels 100 image + 10 step + sampler
    cells = np.stack([frames(2, 3, first=100 * place) for place in range(2)])
    sheets.samplers_sheet(cells, labels=["a", "b", "c"], steps=[5, 10], data="digits")
    first, second = seen["blocks"]
    assert levels_of(first) == [[0, 1, 2], [10, 11, 12]]
    assert levels_of(second) == [[100, 101, 102], [110, 111, 112]]
    assert [block.captions for block in seen["blocks"]] == [[("5",), ("10",)]] * 2
    assert (first.title, second.title) == ("noise 1", "noise 2")
    assert (seen["row_names"], seen["caption_names"]) == (["a", "b", "c"], ("steps",))
    many = np.repeat(cells, 8, axis=0)
    sheets.samplers_sheet(many, labels=["a", "b", "c"], steps=[5, 10], data="digits")
    assert len(seen["blocks"]) == 8
    wide = np.repeat(cells, 10, axis=1)
    sheets.samplers_sheet(wide, labels=["a", "b", "c"], steps=range(2, 22), data="digits")
    assert len(seen["blocks"]) == 1


def test_ablations_are_rows_of_the_same_noise(seen):
    """Catches: a sheet turned by 90 degrees, labels of other rows, a title without the steps."""
    sheets.ablations_sheet(frames(2, 3), labels=["first", "second"], data="digits", num_steps=9)
    (block,) = seen["blocks"]
    assert levels_of(block) == [[40, 50], [41, 51], [42, 52]]
    assert seen["row_names"] == ["first", "second"]
    assert seen["title"] == "The paper's table 2 on digits: 9 steps each"


def test_the_way_to_x_T_and_back_is_read_from_left_to_right(seen):  # noqa: N802
    """Catches: latents for images, errors of another number of steps."""
    sheets.round_trip_sheet(
        frames(2, 3), frames(1, 3, first=100)[0], frames(1, 3, first=200)[0], steps=[5, 21],
        rmse=[12.34, 0.56], data="digits",
    )  # fmt: skip
    original, latents, returned = seen["blocks"]
    assert levels_of(original) == [[200, 201, 202]]
    assert levels_of(latents) == [[100, 101, 102]]
    assert levels_of(returned) == [[40, 41, 42], [50, 51, 52]]
    assert returned.captions == [("5", "12.3"), ("21", "0.6")]
    assert seen["caption_names"] == ("steps", "RMSE [levels]")
