"""Low resolutions: made small exactly as files are, enlarged, and noised by the process itself."""

import math

import numpy as np
import pytest
import torch

from ddpm_core.diffusion.low_resolution import enlarged, noised_by, shrunk
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.process import q_sample
from ddpm_core.images.resize import resized
from ddpm_core.inference.build import build_schedule
from tests.training.small import small_config

SCHEDULE = make_schedule(make_betas("linear", 1000, 1e-4, 0.02))


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 7), (8, 2)])
def test_it_is_made_small_to_the_byte_as_a_file_is(size):
    """Catches a pooling that covers other pixels where sizes do not divide, means rounded half to
    even, and levels that float32 has moved across a half: data.resize=box is another program."""
    rng = np.random.default_rng(0)
    u8 = rng.integers(0, 256, (64, 8, 7, 3), dtype=np.uint8)
    u8[:32] //= 85  # so few levels that many means are halves
    images = torch.from_numpy(u8).permute(0, 3, 1, 2).float() / 127.5 - 1
    low = shrunk(images, size)
    expected = np.stack([resized(image, size, "box") for image in u8])
    found = ((low.double() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, expected)
    assert torch.equal(shrunk(low, size), low)  # of its size, and on the levels


def test_what_lies_between_the_levels_and_beyond_is_rounded_first():
    """Catches a mean of what no file holds: transformed and drawn images are not on the levels."""
    image = torch.tensor([[[[-1.3, -1.0], [1.2, 0.0]]]])  # 0, 0, 255 and 127.5 -> 128
    level = float((shrunk(image, (1, 1)) + 1) * 127.5)
    assert level == pytest.approx(96.0, abs=1e-4)  # (0 + 0 + 255 + 128) / 4 = 95.75


def test_it_is_enlarged_between_the_centres_of_its_pixels():
    """Catches aligned corners (IF's), which give 0, 1/3, 2/3, 1."""
    low = torch.tensor([[[[0.0, 1.0]]]])
    assert enlarged(low, (1, 4)).flatten().tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_a_level_is_that_many_steps_of_the_process():
    """Catches a level 0 with the noise of the first step, which the chain rule of the bits forbids,
    and levels one step off."""
    images, eps = torch.rand(4, 1, 2, 2) * 2 - 1, torch.randn(4, 1, 2, 2)
    found = noised_by(SCHEDULE, images, torch.tensor([0, 1, 500, 1000]), eps)
    assert torch.equal(found[0], images[0])
    for row, code in ((1, 0), (2, 499), (3, 999)):
        rows = slice(row, row + 1)
        expected = q_sample(SCHEDULE, images[rows], torch.tensor([code]), eps[rows])
        assert torch.allclose(found[rows], expected, rtol=0, atol=1e-6)


def test_on_a_path_that_explodes_it_stays_of_one_size():
    """Catches a low resolution that is given as 50 times the noise: of the path, not its chain."""
    chain = build_schedule(small_config(diffusion__kind="ve", diffusion__sigma_max=50.0))
    eps = torch.full((1, 1, 1, 1), 2.0)
    found = noised_by(chain, torch.ones(1, 1, 1, 1), torch.tensor([chain.num_timesteps]), eps)
    assert float(found) == pytest.approx((1 + 2 * 50) / math.sqrt(1 + 50**2), rel=1e-4)
