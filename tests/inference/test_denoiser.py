"""The averaged network where it computes."""

import pytest
import torch

from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.sampling.draw import draw
from tests.diffusion.chains import SHORT
from tests.gpu import no_waiting, quiet
from tests.models.nets import noise, perturbed

CPU = torch.device("cpu")
T = torch.tensor([0, 999, 17, 500])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_weights_rounded_once_are_those_that_autocast_rounds_in_each_call(bfloat16):
    """Catches a last layer or a norm whose weights are rounded too, and an output in that dtype."""
    network = perturbed().eval().to(memory_format=torch.channels_last)
    x_t = noise(4, 3, 8, 8)
    inner = x_t.to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        expected = network(inner, T)
    averaged = AveragedNetwork(perturbed(), CPU, bfloat16=bfloat16)
    for x in (x_t, x_t.double(), inner):
        found = averaged(x, T)
        assert found.dtype == torch.float32
        assert found.is_contiguous()
        assert torch.equal(found, expected)


@pytest.mark.gpu
def test_a_gpu_predicts_what_a_cpu_does(gpu):
    """Catches axes exchanged by the other memory order, and weights left behind.

    The tolerance is that of the embedding: the sine of an angle of 1000 that is rounded.
    """
    x_t = noise(4, 3, 8, 8)
    expected = AveragedNetwork(perturbed(), CPU, bfloat16=False)(x_t, T)
    network = AveragedNetwork(perturbed(), gpu, bfloat16=False)
    assert float(expected.std()) > 0.1
    for x in (x_t, x_t.double(), x_t.to(memory_format=torch.channels_last)):
        found = network(x.to(gpu), T.to(gpu))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.gpu
def test_bfloat16_on_a_gpu_rounds_to_about_a_hundredth(gpu):
    """Catches an autocast of another device, and layers whose rounding is not made up for."""
    x_t, t = noise(4, 3, 8, 8).to(gpu), T.to(gpu)
    exact, rounded = (AveragedNetwork(perturbed(), gpu, bfloat16=b)(x_t, t) for b in (False, True))
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((rounded - exact).std() / exact.std()) < 0.04


@pytest.mark.gpu
@quiet
@pytest.mark.parametrize("bfloat16", [False, True])
def test_ancestral_sampling_never_waits_for_the_gpu(bfloat16, gpu):
    """Catches `.item()` in network, denoiser or sampler: the GPU would idle between the layers."""
    denoiser = NetworkDenoiser(AveragedNetwork(perturbed(), gpu, bfloat16=bfloat16), SHORT)
    positions = torch.arange(2, device=gpu)
    draw(denoiser, positions, (3, 8, 8), sample=SampleConfig(), seed=0)
    with no_waiting():
        draw(denoiser, positions, (3, 8, 8), sample=SampleConfig(), seed=1)
