"""The flow's bits per dimension against densities that are known."""

import itertools
import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import Adaptive, FixedStep
from ddpm_core.diffusion.measures.likelihood import bits_per_dim
from ddpm_core.diffusion.measures.ode_likelihood import ode_bits_per_dim, ode_density
from ddpm_core.diffusion.paths.sigma import sigma_grid, sigma_range
from ddpm_core.diffusion.samplers.ode import ode_encode
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import BITS, Gaussian, Mixture, row
from tests.diffusion.chains import PAPER, normal
from tests.diffusion.test_analytic import TWO

LOW, HIGH = sigma_range(PAPER)
DATA = Gaussian(row(0.2, -0.5, 0.0), row(0.3, 0.05, 1.0), PAPER)
ADAPTIVE = Adaptive(LOW, HIGH, rtol=1e-6, atol=1e-6)
GRID = FixedStep(sigma_grid(PAPER, 120), "rk4")


def signs(*shape, seed=0):
    return normal(*shape, seed=seed).sign()


@pytest.mark.parametrize("solver", [ADAPTIVE, GRID])
@pytest.mark.parametrize("probe", [None, signs(4, 3)])
@pytest.mark.usefixtures("shapes_unchecked")
def test_the_density_of_a_gaussian_is_exact(solver, probe):
    """Catches a wrong prior, a lost sign or sigma of the divergence, nats for bits, and a sum.

    The Jacobian of a Gaussian's flow is diagonal, so that the estimate is exact too.
    """
    x = DATA.mean + DATA.std * normal(4, 3, seed=1)
    result = ode_density(DATA.denoiser(), x, solver=solver, probe=probe)
    exact = -DATA.log_density_of_flow(x, LOW, HIGH) / 3 / BITS
    torch.testing.assert_close(result.bits, exact, rtol=0, atol=1e-5)
    latent = DATA.flow(x, LOW, HIGH) / math.sqrt(1 + HIGH**2)
    torch.testing.assert_close(result.latent, latent, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_density_is_that_of_the_data():
    """Catches a density of something else than images with the smallest noise; 1e-4 bits/dim.

    For data around 0: what is left of another mean at the largest sigma, m z / 157, the prior does
    not know.
    """
    data = Gaussian(row(0.0, 0.0, 0.0), DATA.std, PAPER)
    x = data.std * normal(4, 3, seed=1)
    result = ode_density(data.denoiser(), x, solver=GRID)
    density = torch.distributions.Normal(data.mean, (data.std.square() + LOW**2).sqrt())
    exact = -density.log_prob(x).mean(1) / BITS
    torch.testing.assert_close(result.bits, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.usefixtures("shapes_unchecked")
def test_the_density_of_a_mixture_is_exact(prediction):
    """Catches what linear flows cannot: a divergence at another place than the state."""
    x = TWO.draw(6, seed=3)
    result = ode_density(TWO.denoiser(PAPER, prediction=prediction), x, solver=ADAPTIVE)
    at = [torch.full((6,), sigma, dtype=torch.float64) for sigma in (LOW, HIGH)]
    high = result.latent * math.sqrt(1 + HIGH**2)
    prior = torch.distributions.Normal(0.0, math.sqrt(1 + HIGH**2)).log_prob(high).sum(1)
    # The flow carries the mixture's density at one end to that at the other.
    exact = TWO.log_density_at_sigma(x, at[0]) + prior - TWO.log_density_at_sigma(high, at[1])
    torch.testing.assert_close(result.bits, -exact / 2 / BITS, rtol=0, atol=1e-5)
    assert float((result.bits[0] - result.bits[1:]).abs().min()) > 1e-2


def test_the_density_integrates_to_1():
    """Catches a constant: summed over a grid of the line, what the flow says is a density."""
    data = Mixture(row(0.4, 0.6), row(-0.5, 0.3)[:, None], row(0.1, 0.2)[:, None])
    x = torch.linspace(-1.5, 1.6, 400, dtype=torch.float64)
    solver = FixedStep(sigma_grid(PAPER, 60), "rk4")
    result = ode_density(data.denoiser(PAPER), x[:, None], solver=solver)
    total = float((-result.bits * BITS).exp().sum() * (x[1] - x[0]))
    assert total == pytest.approx(1, abs=1e-4)


def test_the_estimate_of_the_divergence_is_unbiased():
    """Catches a wrong estimate: the mean over all signs of an image is the exact trace.

    Each one alone is not, for numbers of this image depend on one another.
    """
    x, denoiser = TWO.draw(3), TWO.denoiser(PAPER)
    solver = FixedStep(sigma_grid(PAPER, 30), "heun")
    exact = ode_density(denoiser, x, solver=solver).bits
    estimates = [
        ode_density(denoiser, x, solver=solver, probe=row(*pair).expand(3, 2)).bits
        for pair in itertools.product((-1.0, 1.0), repeat=2)
    ]
    torch.testing.assert_close(torch.stack(estimates).mean(0), exact, rtol=0, atol=1e-12)
    assert float((estimates[1] - exact).abs().min()) > 1e-3


@pytest.mark.parametrize("solver", [ADAPTIVE, FixedStep(sigma_grid(PAPER, 9))])
@pytest.mark.usefixtures("shapes_unchecked")
def test_an_image_does_not_depend_on_its_batch(solver):
    """Catches one ODE for the whole batch, whose steps and errors all images share."""
    x, denoiser = TWO.draw(4) * torch.logspace(-1, 1, 4).double()[:, None], TWO.denoiser(PAPER)
    probe = signs(4, 2)
    together = ode_density(denoiser, x, solver=solver, probe=probe)
    for index in range(4):
        part = slice(index, index + 1)
        alone = ode_density(denoiser, x[part], solver=solver, probe=probe[part])
        torch.testing.assert_close(alone.bits, together.bits[part], rtol=0, atol=1e-12)
        assert torch.equal(alone.num_evaluations, together.num_evaluations[part])


@pytest.mark.parametrize(
    ("bins", "low", "width", "num_levels"),
    [
        ("equal", -1.0, 2 / 256, 256),
        ("centred", -1 - 1 / 255, 2 / 255, 256),
        ("equal", -1.0, 2 / 65536, 65536),
        ("centred", -1 - 1 / 65535, 2 / 65535, 65536),
    ],
)
def test_the_levels_fill_their_bins(bins, low, width, num_levels):
    """Catches a wrong offset (log2 of 128 or 127.5), 255 bins, and levels that are shifted."""
    levels = torch.arange(0, num_levels, num_levels // 256, dtype=torch.float64)
    x_0, seen = (2 * levels / (num_levels - 1) - 1)[:, None], []

    def network(x_t, t):
        if not seen:
            seen.append(x_t.detach() * math.sqrt(1 + LOW**2))
        return 0 * x_t

    solver = FixedStep(sigma_grid(PAPER, 1), "euler")
    for share in (0.0, 0.25):
        seen.clear()
        uniform = torch.full_like(x_0, share)
        result = ode_bits_per_dim(
            NetworkDenoiser(network, PAPER),
            x_0,
            solver=solver,
            uniform=uniform,
            bins=bins,
            num_levels=num_levels,
        )
        x = low + (levels + share) * width
        torch.testing.assert_close(seen[0][:, 0], x, rtol=0, atol=1e-12)
        density = ode_density(NetworkDenoiser(network, PAPER), x[:, None], solver=solver)
        torch.testing.assert_close(result.bits, density.bits - math.log2(width))


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_flow_needs_no_more_bits_than_the_bound():
    """Catches an offset or a factor on either side: both are bits of the same levels.

    For Gaussian data the flow's are those of the data, but for 0.01. The bound's are about one
    more, because fixed_small is too sure of its first steps for data that are no points.
    """
    data = Gaussian(torch.full((64,), 0.1), torch.full((64,), 0.3), PAPER)
    x_0 = data.mean + data.std * normal(4, 64)
    x_0 = ((x_0.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    solver = FixedStep(sigma_grid(PAPER, 40), "rk4")
    uniform = torch.rand(4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow = ode_bits_per_dim(
        data.denoiser(), x_0, solver=solver, uniform=uniform, probe=signs(4, 64), bins="centred"
    )
    bound = bits_per_dim(
        data.denoiser(), x_0, noise=lambda t: normal(4, 64, seed=t), clip_x_0=False
    )
    density = -torch.distributions.Normal(0.1, 0.3).log_prob(x_0).mean(1) / BITS
    levels = density + math.log2(127.5)
    torch.testing.assert_close(flow.bits, levels, rtol=0, atol=0.02)
    assert bool((flow.bits < bound.total).all())
    assert bool((bound.total < flow.bits + 1.5).all())


class Averaged:
    """A network as a checkpoint gives it: weights that ask for no gradient, float32 inside."""

    def __init__(self):
        self.weight = torch.full((3,), 0.5)

    def __call__(self, x_t, t):
        return (x_t.float() * self.weight).tanh().float()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_network_is_differentiated_whatever_surrounds_it(mode):
    """Catches a divergence of 0, or an error, under no_grad and inference mode; and a graph."""
    solver = FixedStep(sigma_grid(PAPER, 5), "heun")
    denoiser = NetworkDenoiser(Averaged(), PAPER)
    expected = ode_density(denoiser, normal(2, 3), solver=solver).bits
    with mode():
        x, probe = normal(2, 3), signs(2, 3)
        for given in (None, probe):
            result = ode_density(denoiser, x, solver=solver, probe=given)
            torch.testing.assert_close(result.bits, expected)
            assert not result.bits.requires_grad


def test_images_of_any_shape_are_treated_alike():
    """Catches a mean over the channels only, and a probe that is not shaped as the images."""
    x, denoiser = normal(2, 6), NetworkDenoiser(lambda x_t, _: x_t.tanh(), PAPER)
    solver = FixedStep(sigma_grid(PAPER, 4))
    flat = ode_density(denoiser, x, solver=solver, probe=signs(2, 6))
    deep = ode_density(
        denoiser, x.reshape(2, 1, 2, 3), solver=solver, probe=signs(2, 6).reshape(2, 1, 2, 3)
    )
    torch.testing.assert_close(deep.bits, flat.bits)
    assert deep.latent.shape == (2, 1, 2, 3)
    assert flat.num_evaluations.tolist() == [8, 8]
    with pytest.raises(ConfigError, match=r"probe is shaped \(2, 5\)"):
        ode_density(denoiser, x, solver=solver, probe=signs(2, 5))


def test_the_latent_is_that_of_the_sampler():
    """Catches a likelihood that follows another flow than the sampler."""
    x = TWO.draw(3)
    solver = FixedStep(sigma_grid(PAPER, 20))
    latent = ode_density(TWO.denoiser(PAPER), x, solver=solver).latent
    torch.testing.assert_close(latent, ode_encode(TWO.denoiser(PAPER), x, solver=solver))


def test_float32_is_good_to_a_ten_thousandth_of_a_bit():
    """Catches an accumulation that float32 cannot carry; networks compute in it anyway."""
    x = DATA.mean + DATA.std * normal(4, 3, seed=1)
    exact = -DATA.log_density_of_flow(x, LOW, HIGH) / 3 / BITS
    solver = FixedStep(sigma_grid(PAPER, 120), "rk4")
    result = ode_density(DATA.denoiser(), x.float(), solver=solver, probe=signs(4, 3).float())
    assert result.bits.dtype == torch.float32
    torch.testing.assert_close(result.bits.double(), exact, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", [ADAPTIVE, FixedStep(sigma_grid(PAPER, 20), "rk4")])
@pytest.mark.parametrize("probe", [None, signs(4, 3)])
def test_a_gpu_finds_the_density_of_a_cpu(solver, probe, gpu):
    """Catches rows, sigmas or probes on another device, and steps that are not those of a row."""

    def network(x_t, t):
        return (0.8 * x_t).tanh() + 0.1 * x_t.roll(1, dims=-1)

    denoiser, x = NetworkDenoiser(network, PAPER), normal(4, 3, seed=1)
    expected = ode_density(denoiser, x, solver=solver, probe=probe)
    with torch.inference_mode():
        there = None if probe is None else probe.to(gpu)
        found = ode_density(denoiser, x.to(gpu), solver=solver, probe=there)
    assert found.num_evaluations.tolist() == expected.num_evaluations.tolist()
    torch.testing.assert_close(found.bits.cpu(), expected.bits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.latent.cpu(), expected.latent, rtol=1e-9, atol=1e-9)
