"""What the sheets of pictures show."""

from dataclasses import replace

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.diffusion.interpolation import interpolate
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.sampling.draw import to_u8
from ddpm_core.study import pictures
from ddpm_core.study.pictures import MIX_WEIGHTS, round_trip_steps
from ddpm_core.study.units import Unit
from tests.study.small import study_config

SEED = study_config().study.seed


def held_out(context, *places: int) -> torch.Tensor:
    return to_unit_range(context.test.pixels[list(places)], torch.device("cpu"))


def spread(images_u8: torch.Tensor) -> float:
    """Return how far images (n, h, w, c) are from their mean, in levels."""
    levels = images_u8.double()
    return float((levels - levels.mean(dim=0)).square().mean().sqrt())


def rmse(one_u8: torch.Tensor, other_u8: torch.Tensor) -> float:
    return float((one_u8.double() - other_u8.double()).square().mean().sqrt())


# -- decoding and shared latents -------------------------------------------------------------------


def test_decoding_goes_from_the_end_of_the_chain_to_the_image(context):
    """Catches: columns from the image to the noise, images of the other split, a last column that
    is not the last."""
    found = pictures.of(context, Unit("decoding", "test", 1, 4))
    times = found["times"].tolist()
    assert (times[0], times[-1]) == (20, 0)
    assert times == sorted(set(times), reverse=True)
    assert found["decoded"].shape == (len(times), 3, 8, 8, 1)
    assert torch.equal(found["original"], context.test.pixels[1:4].permute(0, 2, 3, 1))
    errors = [rmse(decoded, found["original"]) for decoded in found["decoded"]]
    assert errors[-1] < 20 < errors[0]


def test_images_that_share_x_T_are_apart_and_those_that_share_more_are_nearer(context):  # noqa: N802
    """Catches: one noise for all branches, latents of another chain than the images'."""
    found = pictures.of(context, Unit("latents", "quarters", 0, 6))
    assert found["times"].tolist() == [20, 14, 9, 4]
    assert found["latents"].shape == (4, 8, 8, 1)
    assert found["images"].shape == (4, 6, 8, 8, 1)
    spreads = [spread(images) for images in found["images"]]
    assert spreads[0] > 2 * spreads[-1] > 0
    assert len({image.numpy().tobytes() for image in found["images"][0]}) == 6
    assert len({latent.numpy().tobytes() for latent in found["latents"]}) == 4
    fewer = pictures.of(context, Unit("latents", "quarters", 0, 1))
    assert torch.equal(fewer["latents"], found["latents"]), "the chain is not one of the branches"


# -- mixes -----------------------------------------------------------------------------------------


def test_mixes_at_weights_0_and_1_are_reconstructions_of_their_own_ends(context):
    """Catches: pairs of other images than those beside them, ends exchanged, noise of its own for
    each weight."""
    found = pictures.of(context, Unit("mixes", "pairs", 0, 4))
    assert int(found["depth"]) == 10
    originals = context.test.pixels.permute(0, 2, 3, 1)
    assert torch.equal(found["left"], originals[[0, 2]])
    assert torch.equal(found["right"], originals[[1, 3]])
    mixed = found["mixed"]
    assert mixed.shape == (len(MIX_WEIGHTS), 2, 8, 8, 1)
    for places, place in (((0, 2), 0), ((1, 3), -1)):
        ends = held_out(context, *places)
        alone = pictures._u8(pictures._mixed(context, ends, ends, 10))
        # A level more or less: at another place of a batch the network may round otherwise.
        assert (alone[0].int() - mixed[place].int()).abs().max() <= 1
    assert rmse(mixed[0], mixed[-1]) > 1


def test_the_noise_of_a_mix_is_the_study_s(context):
    """Catches: the seed of the samples, the same numbers for x_t and for the first step."""
    x_0, other = held_out(context, 0), held_out(context, 1)

    def noise(stream: int, number: int) -> torch.Tensor:
        key = seeding.key(SEED, "study", stream)
        return seeding.normal(key, number, torch.arange(1), (1, 8, 8))

    expected = interpolate(
        context.denoiser,
        x_0,
        other,
        depth=10,
        weights=MIX_WEIGHTS,
        eps=noise(3, 0),
        noise=lambda number: noise(4, number),
    )
    found = pictures.of(context, Unit("mixes", "pairs", 0, 1))
    assert torch.equal(found["mixed"], pictures._u8(expected))


def test_depth_0_mixes_pixels_and_more_depth_forgets_more_of_them(context):
    """Catches: rows in another order than their depths, a first row that went through the model."""
    found = pictures.of(context, Unit("depths", "pair", 0, 2))
    depths = found["depths"].tolist()
    assert depths == [0, 2, 5, 7, 10, 15, 21]
    assert found["mixed"].shape == (7, len(MIX_WEIGHTS), 8, 8, 1)
    x_0, other = held_out(context, 0), held_out(context, 1)
    for weight, image in zip(MIX_WEIGHTS, found["mixed"][0], strict=True):
        assert torch.equal(image, to_u8((1 - weight) * x_0 + weight * other)[0])
    assert torch.equal(found["ends"], context.test.pixels[:2].permute(0, 2, 3, 1))
    errors = [rmse(row[0], found["ends"][0]) for row in found["mixed"]]
    assert errors[0] == 0
    assert errors[1] < min(errors[4:])


# -- to x_T and back -------------------------------------------------------------------------------


def test_the_way_back_is_the_truer_the_more_steps_it_has(context):
    """Catches: noise or clipping on the way, errors of another number of steps or in another unit,
    the shortest way's latents shown for the longest's."""
    found = pictures.of(context, Unit("round-trip", "ddim", 0, 3))
    assert found["steps"].tolist() == [5, 21]
    assert torch.equal(found["original"], context.test.pixels[:3].permute(0, 2, 3, 1))
    few, all_steps = found["rmse"].mean(dim=1).tolist()
    assert all_steps < 0.8 * few
    assert found["returned"].shape == found["latents"].shape == (2, 3, 8, 8, 1)
    assert rmse(found["latents"][0], found["latents"][1]) > 1


def test_errors_of_the_way_back_are_in_levels_and_of_each_image(context):
    """Catches: errors of [-1, 1], squares, another image's."""
    # The best guess of the noise where images are standard normal: the way back is smooth.
    schedule = context.denoiser.schedule

    def guess(x_t, t):
        return (1 - schedule.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1).to(x_t) * x_t

    smooth = replace(context)
    smooth.measured = replace(context.denoiser, network=guess)
    found = pictures.of(smooth, Unit("round-trip", "ddim", 1, 4))
    few, all_steps = found["rmse"]
    assert bool((all_steps < few).all())
    for errors, returned in zip(found["rmse"], found["returned"], strict=True):
        for error, image, original in zip(errors, returned, found["original"], strict=True):
            # What is shown is rounded, and cut off beyond the range.
            assert float(error) - 6 < rmse(image, original) < float(error) + 1


@pytest.mark.parametrize(
    ("swept", "num_timesteps", "expected"),
    [
        ((5, 10, 20, 50), 200, [5, 10, 20, 50, 200]),
        ((50, 10), 50, [10, 50]),
        ((100,), 50, [50]),
    ],
)
def test_the_way_is_taken_in_each_number_of_steps_and_in_all(swept, num_timesteps, expected):
    """Catches: more steps than the chain has, the whole chain twice or not at all."""
    assert round_trip_steps(swept, num_timesteps) == expected
