import numpy as np
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.samplers.ancestral import draw_previous
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.inference.networks import build_network
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.sampling.draw import draw, to_levels, to_u8
from tests.sampling.tiny import tiny_config

SCHEDULE = make_schedule(make_betas("linear", 21))
SHAPE = (1, 4, 4)
ANCESTRAL = SampleConfig()


def pointwise(x_t, t):
    """Stand in for a network: no arithmetic that depends on the size of the batch."""
    return 0.9 * x_t + 0.01 * t[:, None, None, None]


def denoiser_of(network, variance="fixed_small"):
    return NetworkDenoiser(network, SCHEDULE, variance=variance)


def network():
    unet = build_network(tiny_config(**{"model.dropout": 0.5}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in unet.parameters():
            param.add_(0.05 * torch.randn(param.shape, generator=generator))
    return AveragedNetwork(unet, torch.device("cpu"), dtype=torch.float32)


def drawn(network, positions, *, shape=SHAPE, seed=0, sample=ANCESTRAL, **options):
    return draw(
        denoiser_of(network), torch.tensor(positions), shape, sample=sample, seed=seed, **options
    )


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_draw_is_the_chain_from_noise_keyed_by_seed_step_and_position(variance):
    """Catches: one noise for all steps, noise keyed by place in the batch, noise at the end."""
    positions = torch.tensor([7, 2])
    denoiser = denoiser_of(pointwise, variance)
    x = seeding.normal(seeding.key(5, "sample_init"), 0, positions, SHAPE)
    for t in range(SCHEDULE.num_timesteps - 1, -1, -1):
        steps = torch.tensor([t, t])
        noise = seeding.normal(seeding.key(5, "sample_noise"), t, positions, SHAPE)
        x = draw_previous(denoiser.predict(x, steps).reverse(clip_x_0=True), steps, noise)
    found = draw(denoiser, positions, SHAPE, sample=ANCESTRAL, seed=5)
    assert torch.equal(found, x)


def test_an_image_is_the_same_in_any_batch_bit_for_bit():
    """Catches: noise from a generator, or keyed by the row of the batch or its size."""
    whole = drawn(pointwise, [0, 1, 2, 3, 4, 5])
    assert torch.equal(drawn(pointwise, [4, 1]), whole[[4, 1]])
    assert torch.equal(drawn(pointwise, [3]), whole[[3]])


def test_an_image_of_a_network_is_the_same_in_any_batch_to_rounding_and_in_the_same_exactly():
    """Catches: dropout or batch statistics left on, besides what the test above catches."""
    denoiser, shape = network(), tiny_config().data.shape
    whole = drawn(denoiser, list(range(8)), shape=shape)
    part = drawn(denoiser, [6, 2, 3], shape=shape)
    # 21 steps carry the rounding of another batch size on; a level is 7.8e-3 wide.
    torch.testing.assert_close(part, whole[[6, 2, 3]], rtol=0, atol=1e-4)
    assert torch.equal(drawn(denoiser, list(range(8)), shape=shape), whole)


def test_seeds_and_positions_make_other_images():
    """Catches: a seed or position that is ignored."""
    images = torch.cat([drawn(pointwise, [0, 1]), drawn(pointwise, [0, 1], seed=1)])
    for i in range(4):
        for j in range(i):
            assert (images[i] - images[j]).abs().mean() > 0.01


def test_on_step_is_called_with_every_state_on_the_way():
    """Catches: a strip that shows the states of other steps, or the clipped for the real."""
    told = []
    x_0 = drawn(
        pointwise, [0], on_step=lambda t, x_prev, x_0_hat: told.append((t, x_prev, x_0_hat))
    )
    assert [t for t, _, _ in told] == list(range(20, -1, -1))
    assert torch.equal(told[-1][1], x_0)
    assert all(x_0_hat.abs().max() <= 1 for _, _, x_0_hat in told)


def test_the_state_is_in_the_configured_arithmetic():
    """Catches: noise drawn in float32 and widened, or a state that falls back to it."""
    exact = SampleConfig(state="float64")
    double, single = drawn(pointwise, [0, 3], sample=exact), drawn(pointwise, [0, 3])
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    assert 0 < float((double - single).abs().max()) < 1e-4


def test_to_u8_inverts_the_scaling_of_every_level():
    """Catches: truncation, which darkens every second level, and *128 for *127.5."""
    levels = torch.arange(256, dtype=torch.float32)
    x_0 = (levels / 127.5 - 1).reshape(1, 1, 16, 16)
    assert np.array_equal(to_u8(x_0).numpy().ravel(), levels.numpy())
    assert np.array_equal(to_u8(x_0 + 0.3 / 127.5).numpy().ravel(), levels.numpy())


def test_16_bits_come_back_from_what_the_network_sees():
    """Catches: 65536 levels scaled by 127.5, by 32768, or rounded in arithmetic of 16 bits."""
    levels = torch.from_numpy(np.arange(2**16, dtype=np.uint16)).reshape(1, 1, 256, 256)
    x_0 = to_unit_range(levels, torch.device("cpu"))
    assert (float(x_0.min()), float(x_0.max())) == (-1, 1)
    for shift in (0, 0.3, -0.3):
        back = to_levels(x_0 + shift / 32767.5, 2**16)
        assert back.dtype == torch.uint16
        assert np.array_equal(back.numpy().ravel(), levels.numpy().ravel())


def test_to_u8_clips_and_puts_channels_last():
    """Catches: wrap-around of values outside [-1, 1], and channels read as rows."""
    x_0 = torch.tensor([-1.5, 1.7, 0.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 5)
    images_u8 = to_u8(x_0)
    assert images_u8.shape == (2, 4, 5, 3)
    assert images_u8.dtype == torch.uint8
    assert images_u8[1, 3, 4].tolist() == [0, 255, 128]
