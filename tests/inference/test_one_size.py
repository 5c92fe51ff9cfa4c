"""A network that is called with batches of one size: recorded by a double of a graph, or plain."""

import pytest
import torch

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import ComputeConfig, SampleConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.wrappers.guidance import Guided
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.inference.one_size import OfOneSize
from ddpm_core.inference.replay import NUM_WARM_UP, record_graph, recorder
from ddpm_core.sampling.draw import draw
from tests.diffusion.chains import SHORT
from tests.graph_double import record_double
from tests.models.nets import noise, perturbed

CPU = torch.device("cpu")
LABELS = Conditioning(label=torch.tensor([0, 3, 1, 2]))


def recorded(**changes) -> tuple[AveragedNetwork, list[int]]:
    """Return a network that is recorded, and the sizes of the batches that were."""
    network, sizes = AveragedNetwork(perturbed(**changes), CPU, dtype=torch.float32), []

    def record(work):
        repeat, result = record_double(work)
        sizes.append(len(result))
        return repeat, result

    network._often = OfOneSize(network._output, network._output, record)
    return network, sizes


def inputs(count, number):
    return noise(count, 3, 8, 8, seed=number), torch.arange(count) * 200 + number


@torch.no_grad()
def test_repeated_calls_return_what_the_network_does_for_every_size():
    """Catches inputs that are not copied to where the recording reads, an output that the next call
    overwrites, conditioning of the first call, and a batch of another size that is padded.
    """
    network, sizes = recorded(num_classes=4)
    plain = AveragedNetwork(perturbed(num_classes=4), CPU, dtype=torch.float32)
    found, expected = [], []
    for number in range(NUM_WARM_UP + 3):
        for count in (4, 8, 2, 3):
            x_t, t = inputs(count, number)
            label = (torch.arange(count) + number) % 5
            # One row for all, as guidance gives the null: a tensor that lies otherwise.
            given = Conditioning(label=label[:1].expand(count) if count == 2 else label)
            found.append(network(x_t, t, given))
            expected.append(plain(x_t, t, given))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert sizes == [4, 8, 2]


def test_samples_and_gradients_are_those_of_the_network_itself():
    """Catches tensors of inference mode that are overwritten outside it, a recording through which
    nothing is differentiated, and guidance whose calls of two sizes are one.
    """
    network, sizes = recorded(num_classes=4)
    plain = AveragedNetwork(perturbed(num_classes=4), CPU, dtype=torch.float32)
    drawn, grads = [], []
    for one in (network, plain):
        with torch.inference_mode():
            one(*inputs(4, 1), LABELS)
        denoiser = NetworkDenoiser(one, SHORT, null=one.null).given(LABELS)
        guided = Guided(denoiser, denoiser.given_nothing(), 2.0)
        sample, positions = SampleConfig(sampler="ddim", num_steps=6, eta=1.0), torch.arange(4)
        drawn.append(draw(guided, positions, (3, 8, 8), sample=sample, seed=0))
        with torch.no_grad():
            drawn.append([one(*inputs(4, number), LABELS) for number in range(4)][-1])
        x_t, t = inputs(4, 2)
        one(x_t.requires_grad_(), t, LABELS).square().sum().backward()
        grads.append(x_t.grad)
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert torch.equal(*grads)
    assert sizes == [8, 4]


def test_an_output_is_a_tensor_of_its_own():
    """Catches the memory of a recording that is handed out: the next call would overwrite it."""

    def plus(x, t, _):
        return x + t

    add = OfOneSize(plus, plus, record_double)
    found = [add(torch.full((2,), float(number)), torch.ones(2), NOTHING) for number in range(6)]
    assert torch.stack(found)[:, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_on_a_cpu_nothing_is_recorded():
    """Catches a configuration of a GPU that fails on a machine without one."""
    assert recorder(CPU, wanted=True) is None
    assert recorder(torch.device("cuda"), wanted=True) is record_graph
    assert recorder(torch.device("cuda"), wanted=False) is None
    compute = ComputeConfig(cuda_graphs=True)
    network = AveragedNetwork(perturbed(), CPU, dtype=torch.float32, compute=compute)
    assert network._often is None
    assert network(*inputs(4, 0), NOTHING).shape == (4, 3, 8, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "heun", "dpm_solver", "unipc", "ode"])
def test_samples_through_a_recorded_network_are_those_of_the_network(sampler, gpu, monkeypatch):
    """Catches inputs or outputs of a replay that lie where another call is still reading."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    drawn = []
    for compute in (None, ComputeConfig(cuda_graphs=True)):
        network = AveragedNetwork(perturbed(), gpu, dtype=torch.float32, compute=compute)
        sample, positions = SampleConfig(sampler=sampler), torch.arange(4, device=gpu)
        denoiser = NetworkDenoiser(network, SHORT)
        drawn.append([draw(denoiser, positions, (3, 8, 8), sample=sample, seed=s) for s in (0, 1)])
    for plain, recorded_ in zip(*drawn, strict=True):
        assert torch.equal(plain, recorded_)
