"""Denoisers that wrap denoisers: guidance, thresholds and known pixels, on every sampler.

The wrappers here stand for those that the package will have: what is shown is that they need no
sampler to know of them.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ddpm_core.diffusion.betas import make_betas
from ddpm_core.diffusion.choices import is_learned
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.integrate import FixedStep
from ddpm_core.diffusion.likelihood import bits_per_dim
from ddpm_core.diffusion.ode_likelihood import ode_density
from ddpm_core.diffusion.path import Path
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.respacing import respaced
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import Churn, heun_sample
from ddpm_core.diffusion.samplers.langevin import langevin_sample
from ddpm_core.diffusion.samplers.ode import ode_encode, ode_sample
from ddpm_core.diffusion.samplers.sde import pc_sample, sde_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.schedule import make_schedule
from ddpm_core.diffusion.sigma import sigma_grid
from ddpm_core.diffusion.spacing import chain_sigmas
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import every_t, normal
from tests.diffusion.objectives import PREDICTIONS, VARIANCES, levels

CHAIN = make_schedule(make_betas("linear", 21))
STEPS = [0, 5, 9, 14, 20]
SIGMAS = chain_sigmas(CHAIN, STEPS)
SOLVER = FixedStep(sigma_grid(CHAIN, 5))


@dataclass
class Net:
    """A network without meaning that counts its calls; of a learned variance it says something."""

    factor: float = 1.3
    variance: str = "fixed_small"
    calls: int = 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        value = (self.factor * x_t + 0.05 * t.double()[:, None, None]).tanh().to(x_t.dtype)
        if not is_learned(self.variance):
            return value
        return torch.cat([value, 0.1 * value - self.factor], dim=1)


@dataclass(frozen=True)
class Guided:
    """x_0 = a + w (b - a); with w = 1 it is b, and a is not called."""

    conditional: Denoiser
    other: Denoiser
    scale: float

    @property
    def path(self) -> Path:
        return self.conditional.path

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        b = self.conditional.predict(x_t, t)
        if self.scale == 1:
            return b
        a = self.other.predict(x_t, t)
        return b.with_x_0(a.x_0 + self.scale * (b.x_0 - a.x_0))


@dataclass(frozen=True)
class Thresholded:
    denoiser: Denoiser
    bound: float

    @property
    def path(self) -> Path:
        return self.denoiser.path

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        said = self.denoiser.predict(x_t, t)
        return said.with_x_0(said.x_0.clamp(-self.bound, self.bound))


@dataclass(frozen=True)
class Pinned:
    denoiser: Denoiser
    known: Tensor
    mask: Tensor

    @property
    def path(self) -> Path:
        return self.denoiser.path

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        said = self.denoiser.predict(x_t, t)
        return said.with_x_0(torch.where(self.mask, self.known.to(said.x_0.dtype), said.x_0))


def noise(number: int) -> Tensor:
    return normal(2, 2, 3, seed=100 + number)


X_T = normal(2, 2, 3, seed=1)
ON_THE_CHAIN = {
    "ancestral": lambda d, **o: ddpm_sample(d, X_T, noise=noise, **o),
    "langevin": lambda d, **_: langevin_sample(d, X_T, noise=noise),
    "ddim": lambda d, **o: ddim_sample(d, X_T, **o),
    "ddim, eta 1": lambda d, **o: ddim_sample(d, X_T, eta=1.0, noise=noise, **o),
    "sde": lambda d, **o: sde_sample(d, X_T, noise=noise, **o),
    "pc": lambda d, **o: pc_sample(d, X_T, noise=noise, **o),
    "pc, sde": lambda d, **o: pc_sample(d, X_T, noise=noise, predictor="euler_maruyama", **o),
    "encode": lambda d, **_: ddim_encode(d, X_T),
}
IN_SIGMA = {
    "heun": lambda d, **o: heun_sample(d, X_T, sigmas=SIGMAS, **o),
    "heun, churn": lambda d, **o: heun_sample(
        d, X_T, sigmas=SIGMAS, churn=Churn(S_churn=2.0), noise=noise, **o
    ),
    "dpm_solver": lambda d, **o: dpm_solver_sample(d, X_T, sigmas=SIGMAS, **o),
    "dpm_solver, sde": lambda d, **o: dpm_solver_sample(d, X_T, sigmas=SIGMAS, noise=noise, **o),
    "unipc": lambda d, **o: unipc_sample(d, X_T, sigmas=SIGMAS, **o),
    "ode": lambda d, **o: ode_sample(d, X_T, solver=SOLVER, **o),
    "ode, encode": lambda d, **_: ode_encode(d, X_T, solver=SOLVER),
    "ode, density": lambda d, **_: ode_density(d, X_T, solver=SOLVER).bits,
}
SAMPLERS = ON_THE_CHAIN | IN_SIGMA
# The last step of Euler and Maruyama leads near the prediction, not to it.
BESIDE = ("encode", "ode, encode", "ode, density", "sde", "pc, sde")
TO_IMAGES = [name for name in SAMPLERS if name not in BESIDE]
pytestmark = pytest.mark.usefixtures("shapes_unchecked")


def denoiser(prediction="eps", variance="fixed_small", factor=1.3, path=CHAIN):
    return NetworkDenoiser(Net(factor, variance), path, prediction, variance)


def test_the_protocol_is_path_and_predict():
    """Catches a wrapper that is not taken for a denoiser, and a network that is."""
    bare = denoiser()
    for one in (bare, Guided(bare, bare, 2.0), Thresholded(bare, 1.0), respaced(bare, STEPS)):
        assert isinstance(one, Denoiser)
    assert not isinstance(bare.network, Denoiser)
    assert isinstance(CHAIN, Path)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_of_scale_one_is_none_bit_for_bit(sampler):
    """Catches a sampler that reads of a wrapped denoiser something else, or calls it twice."""
    bare, conditional, other = denoiser(), denoiser(), denoiser(factor=0.2)
    expected = SAMPLERS[sampler](bare)
    assert torch.equal(SAMPLERS[sampler](Guided(conditional, other, 1.0)), expected)
    assert conditional.network.calls == bare.network.calls
    assert other.network.calls == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_guided_sampler_is_that_of_the_guided_network(sampler):
    """Catches a form of the prediction that is still the conditional branch's own.

    For networks of eps guidance is the same on eps: one network that returns the guided eps.
    """
    conditional, other = denoiser(), denoiser(factor=0.2)

    def guided(x_t, t):
        a, b = other.network(x_t, t), conditional.network(x_t, t)
        return a + 3.0 * (b - a)

    expected = SAMPLERS[sampler](NetworkDenoiser(guided, CHAIN, variance="fixed_small"))
    calls = conditional.network.calls
    assert calls > 0
    conditional.network.calls = other.network.calls = 0
    found = SAMPLERS[sampler](Guided(conditional, other, 3.0))
    assert conditional.network.calls == other.network.calls == calls
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    assert not torch.allclose(found, SAMPLERS[sampler](denoiser()), atol=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_variance_is_that_of_the_conditional_branch(prediction, variance):
    """Catches a variance that is lost, guided too, or taken from the other branch."""
    conditional, other = denoiser(prediction, variance), denoiser(prediction, variance, 0.2)
    x_t, t = normal(21, 2, 3, seed=2), every_t(CHAIN)
    bare = conditional.predict(x_t, t)
    for wrapped in (
        Guided(conditional, other, 3.0),
        Thresholded(conditional, 0.5),
        Guided(Thresholded(conditional, 0.5), other, 2.0),
    ):
        said = wrapped.predict(x_t, t)
        assert torch.equal(said.log_variance, bare.log_variance)
        assert not torch.allclose(
            said.reverse(clip_x_0=False).mean, bare.reverse(clip_x_0=False).mean
        )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_forms_follow_from_the_new_image(prediction):
    """Catches eps, v, velocity, score or mean of the image that was predicted before."""
    x_t, t, x_0 = normal(21, 2, 3, seed=2), every_t(CHAIN), normal(21, 2, 3, seed=3)
    said = denoiser(prediction).predict(x_t, t)
    _ = said.x_0, said.eps, said.v, said.velocity, said.score  # kept: must not be what is read
    found, expected = said.with_x_0(x_0), Prediction(CHAIN, x_t, t, x_0, "x_0", "fixed_small")
    for form in ("x_0", "eps", "v", "velocity", "score"):
        assert torch.equal(getattr(found, form), getattr(expected, form)), form
    step = found.reverse(clip_x_0=False)
    assert torch.equal(step.mean, expected.reverse(clip_x_0=False).mean)
    abar = CHAIN.alphas_cumprod[:, None, None]
    torch.testing.assert_close(abar.sqrt() * x_0 + (1 - abar).sqrt() * found.eps, x_t)


@pytest.mark.parametrize("sampler", TO_IMAGES)
def test_thresholds_and_known_pixels_hold_at_the_end_of_every_sampler(sampler):
    """Catches a sampler whose last step goes past the wrapped prediction."""
    wild = NetworkDenoiser(lambda x_t, t: x_t - 3, CHAIN, variance="fixed_small")
    clip = {} if sampler == "langevin" else {"clip_x_0": False}
    assert float(SAMPLERS[sampler](wild, **clip).abs().max()) > 1
    found = SAMPLERS[sampler](Thresholded(wild, 0.7), **clip)
    assert float(found.abs().max()) <= 0.7 + 1e-6
    mask = torch.tensor([True, False, False]).expand(2, 2, 3)
    known = normal(2, 2, 3, seed=7).clamp(-1, 1)
    found = SAMPLERS[sampler](Pinned(denoiser(), known, mask), **clip)
    torch.testing.assert_close(found[mask], known[mask], rtol=0, atol=1e-7)
    assert float((found - known)[~mask].abs().min()) > 1e-3


# Without pc: its corrector divides by norms, so that rounding is not kept small.
@pytest.mark.parametrize("sampler", [one for one in ON_THE_CHAIN if one != "pc"])
def test_steps_may_be_left_out_inside_a_wrapper_or_around_it(sampler):
    """Catches a chain of few steps that needs a network, and not just a denoiser."""
    conditional, other = denoiser(), denoiser(factor=0.2)
    around = respaced(Guided(conditional, other, 1.5), STEPS)
    inside = Guided(respaced(conditional, STEPS), respaced(other, STEPS), 1.5)
    found, expected = SAMPLERS[sampler](around), SAMPLERS[sampler](inside)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_the_bound_of_a_wrapped_denoiser():
    """Catches a bound that needs a network: of scale 1 it is the conditional one's, bit for bit."""
    conditional, other = denoiser(), denoiser(factor=0.2)
    x_0 = levels(2, 2, 3)
    expected = bits_per_dim(conditional, x_0, noise=noise)
    found = bits_per_dim(Guided(conditional, other, 1.0), x_0, noise=noise)
    assert torch.equal(found.total, expected.total)
    apart = bits_per_dim(Guided(conditional, other, 4.0), x_0, noise=noise)
    assert not torch.allclose(apart.total, expected.total)


def test_guidance_overshoots_as_its_closed_form_says():
    """Catches guidance on another quantity than the image: p(x|c) = N(1, 0.04), p(x) = N(0, 1.04).

    The flow of a + w (b - a) over Gaussians is linear: what it returns of x_T = 0 and 1 is its mean
    and standard deviation. Solved here by rk4 on the slope (x - D) / sigma, written out.
    """
    low, high = float(SOLVER.sigmas[0]), float(SOLVER.sigmas[-1])

    def slope(x: float, sigma: float, w: float) -> float:
        b = (x - 1) * sigma / (0.04 + sigma**2)
        a = x * sigma / (1.04 + sigma**2)
        return a + w * (b - a)

    def end(x_T: float, w: float, num: int = 1000) -> float:
        x = x_T * (1 + high**2) ** 0.5
        grid = torch.linspace(high ** (1 / 7), low ** (1 / 7), num + 1, dtype=torch.float64) ** 7
        for begin, stop in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
            h, middle = stop - begin, (begin + stop) / 2
            k1 = slope(x, begin, w)
            k2 = slope(x + h * k1 / 2, middle, w)
            k3 = slope(x + h * k2 / 2, middle, w)
            x += h * (k1 + 2 * k2 + 2 * k3 + slope(x + h * k3, stop, w)) / 6
        return x

    conditional = Mixture(row(1.0), row(1.0)[:, None], row(0.2)[:, None]).denoiser(CHAIN)
    other = Mixture(row(1.0), row(0.0)[:, None], row(1.04**0.5)[:, None]).denoiser(CHAIN)
    x_T = row(0.0, 1.0)[:, None]
    solver = FixedStep(sigma_grid(CHAIN, 200), "rk4")
    for w in (0.0, 1.0, 3.0):
        found = ode_sample(Guided(conditional, other, w), x_T, solver=solver, denoise=False)
        expected = torch.tensor([[end(0.0, w)], [end(1.0, w)]], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
