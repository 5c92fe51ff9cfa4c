"""The averaged network where it computes."""

import pytest
import torch
from torch.nn import functional

from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.inference import denoiser
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.inference.networks import build_network
from ddpm_core.models import blocks
from ddpm_core.recipes import digits
from ddpm_core.sampling.draw import draw
from tests.diffusion.chains import SHORT
from tests.gpu import no_waiting, quiet
from tests.models.nets import noise, perturbed

CPU = torch.device("cpu")
T = torch.tensor([0, 999, 17, 500])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_rounded_once_are_those_that_autocast_rounds_in_each_call(dtype):
    """Catches a last layer or a norm whose weights are rounded too, and an output in that dtype."""
    network = perturbed().eval().to(memory_format=torch.channels_last)
    x_t = noise(4, 3, 8, 8)
    inner = x_t.to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected = network(inner, T)
    averaged = AveragedNetwork(perturbed(), CPU, dtype=dtype)
    for x in (x_t, x_t.double(), inner):
        found = averaged(x, T)
        assert found.dtype == torch.float32
        assert found.is_contiguous()
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["mlp", "multiscale"])
def test_a_network_without_blocks_is_called_in_16_bits(kind):
    """Catches a kind of network that does not say which layer is its last, and a last layer whose
    weights are rounded.
    """
    config = digits().replaced({"model.kind": kind, "train.precision": "bfloat16"})
    network = build_network(config)
    torch.nn.init.normal_(network.last.weight, generator=torch.Generator().manual_seed(0))
    x_t, t = noise(4, *config.data.shape), torch.arange(4)
    expected = network.eval()(x_t, t).detach()
    found = AveragedNetwork(network, CPU, dtype=torch.bfloat16)(x_t, t)
    assert network.last.weight.dtype == torch.float32
    error = float((found - expected).std() / expected.std())
    assert 0 < error < 0.02


def in_float32(norm, x):
    """Normalise as autocast does on a GPU."""
    return functional.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps)


def test_norms_that_stay_in_bfloat16_round_hardly_more(monkeypatch):
    """Catches statistics, or a last layer, in bfloat16, and norms that a GPU computes in float32,
    at twice the bytes. By a CPU, whose autocast rounds no weights of norms.
    """
    x_t, dtypes = noise(4, 3, 8, 8), []
    exact = AveragedNetwork(perturbed(), CPU, dtype=torch.float32)(x_t, T)
    monkeypatch.setattr(blocks, "KEPT_SHORT", ("cpu",))
    monkeypatch.setattr(denoiser, "KEPT_SHORT", ("cpu",))
    network = AveragedNetwork(perturbed(), CPU, dtype=torch.bfloat16)
    for one in network._network.modules():
        if isinstance(one, blocks.Norm):
            one.register_forward_hook(
                lambda norm, x, y: dtypes.append((norm.weight.dtype, y.dtype))
            )
    kept = network(x_t, T)
    assert set(dtypes) == {(torch.bfloat16, torch.bfloat16)}
    monkeypatch.setattr(denoiser, "KEPT_SHORT", ())
    monkeypatch.setattr(blocks.Norm, "forward", in_float32)
    by_autocast = AveragedNetwork(perturbed(), CPU, dtype=torch.bfloat16)(x_t, T)
    errors = [float((one - exact).std() / exact.std()) for one in (by_autocast, kept)]
    assert errors == pytest.approx([0.0112, 0.0133], rel=0.1)


@pytest.mark.gpu
def test_norms_of_a_gpu_stay_in_bfloat16_under_autocast(gpu):
    """Catches a rule of autocast that a CPU has not: norms in float32, and the swish with them."""
    norm, x = blocks.Norm(4, 8).to(gpu), torch.randn(2, 8, 4, 4, device=gpu)
    with torch.autocast("cuda", torch.bfloat16):
        found = norm(x.bfloat16())
        assert found.dtype == torch.bfloat16
        assert norm(x).dtype == torch.float32
    found.float().square().sum().backward()
    assert norm.weight.grad.dtype == torch.float32
    torch.testing.assert_close(found.float(), norm(x), rtol=0, atol=0.03)


@pytest.mark.gpu
def test_a_gpu_predicts_what_a_cpu_does(gpu):
    """Catches axes exchanged by the other memory order, and weights left behind.

    The tolerance is that of the embedding: the sine of an angle of 1000 that is rounded.
    """
    x_t = noise(4, 3, 8, 8)
    expected = AveragedNetwork(perturbed(), CPU, dtype=torch.float32)(x_t, T)
    network = AveragedNetwork(perturbed(), gpu, dtype=torch.float32)
    assert float(expected.std()) > 0.1
    for x in (x_t, x_t.double(), x_t.to(memory_format=torch.channels_last)):
        found = network(x.to(gpu), T.to(gpu))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.gpu
def test_bfloat16_on_a_gpu_rounds_to_about_a_hundredth(gpu):
    """Catches an autocast of another device, and layers whose rounding is not made up for."""
    x_t, t = noise(4, 3, 8, 8).to(gpu), T.to(gpu)
    exact, rounded = (
        AveragedNetwork(perturbed(), gpu, dtype=dtype)(x_t, t)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((rounded - exact).std() / exact.std()) < 0.04


@pytest.mark.gpu
@quiet
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ancestral_sampling_never_waits_for_the_gpu(dtype, gpu):
    """Catches `.item()` in network, denoiser or sampler: the GPU would idle between the layers."""
    sampled = NetworkDenoiser(AveragedNetwork(perturbed(), gpu, dtype=dtype), SHORT)
    positions = torch.arange(2, device=gpu)
    draw(sampled, positions, (3, 8, 8), sample=SampleConfig(), seed=0)
    with no_waiting():
        draw(sampled, positions, (3, 8, 8), sample=SampleConfig(), seed=1)
