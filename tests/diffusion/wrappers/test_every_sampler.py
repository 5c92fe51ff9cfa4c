"""Every wrapper of a denoiser, under every sampler and of every prediction.

A wrapped denoiser is held to one network that returns, by formulas written out here, the image that
the wrapper should predict.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ddpm_core.conditioning import Known
from ddpm_core.diffusion.choices import is_learned
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.integrate import FixedStep
from ddpm_core.diffusion.measures.likelihood import bits_per_dim
from ddpm_core.diffusion.measures.ode_likelihood import ode_density
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.sigma import sigma_grid
from ddpm_core.diffusion.paths.spacing import chain_sigmas
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import Churn, heun_sample
from ddpm_core.diffusion.samplers.langevin import langevin_sample
from ddpm_core.diffusion.samplers.ode import ode_encode, ode_sample
from ddpm_core.diffusion.samplers.sde import pc_sample, sde_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.wrappers.classifier_guidance import ClassifierGuided
from ddpm_core.diffusion.wrappers.guidance import Guided, Interval
from ddpm_core.diffusion.wrappers.pinning import Pinned
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.diffusion.wrappers.shortened import shortened
from ddpm_core.diffusion.wrappers.thresholding import DynamicThreshold, StaticThreshold
from tests.diffusion.chains import every_t, normal
from tests.diffusion.objectives import PREDICTIONS, VARIANCES, levels

CHAIN = make_schedule(make_betas("linear", 21))
STEPS = [0, 5, 9, 14, 20]
FEW = make_schedule(torch.linspace(0.02, 0.6, 5, dtype=torch.float64))
SOLVER = FixedStep(sigma_grid(FEW, 3))
SIGMAS = chain_sigmas(FEW, [0, 2, 4])
pytestmark = pytest.mark.usefixtures("shapes_unchecked")


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


def denoiser(prediction="eps", variance="fixed_small", factor=1.3, path=FEW):
    return NetworkDenoiser(Net(factor, variance), path, prediction, variance)


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

MASK = torch.tensor([True, False, False]).expand(2, 2, 3)
KNOWN = Known(normal(2, 2, 3, seed=7).clamp(-1, 1), MASK)


def log_probability(x_t: Tensor, t: Tensor) -> Tensor:
    return (0.3 * x_t.sin()).flatten(1).sum(1)


def moved(x_t, t, b, a):
    """Return the image by Tweedie's formula with 0.7 times the gradient added to the score."""
    signal, sigma_t = FEW.signal_and_noise(t, x_t)
    return b + 0.7 * sigma_t**2 / signal * 0.3 * x_t.cos()


def banded(x_t, t, b, a):
    signal, sigma_t = FEW.signal_and_noise(t, x_t)
    inside = (sigma_t / signal > 0.3) & (sigma_t / signal <= 1.1)
    return torch.where(inside, a + 3 * (b - a), b)


def quantile_scaled(x_0):
    s = torch.quantile(x_0.abs().flatten(1), 0.8, dim=1).clamp(1, 1.5)[:, None, None]
    return torch.minimum(torch.maximum(x_0, -s), s) / s


WRAPPERS = {
    "guided": (lambda b, a: Guided(b, a, 3.0), lambda x_t, t, b, a: a + 3 * (b - a)),
    "interval": (lambda b, a: Guided(b, a, 3.0, Interval(0.3, 1.1)), banded),
    "classifier": (lambda b, a: ClassifierGuided(b, log_probability, 0.7), moved),
    "static": (lambda b, a: StaticThreshold(b, 0.2), lambda x_t, t, b, a: b.clamp(-0.2, 0.2)),
    "dynamic": (
        lambda b, a: DynamicThreshold(Guided(b, a, 6.0), 0.8, 1.5),
        lambda x_t, t, b, a: quantile_scaled(a + 6 * (b - a)),
    ),
    "pinned": (
        lambda b, a: Pinned(b, KNOWN),
        lambda x_t, t, b, a: torch.where(MASK, KNOWN.values.to(b.dtype), b),
    ),
}
"""of a denoiser and a reference: the wrapper, and the image that it predicts where they say b, a"""


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_wrapped_sampler_is_that_of_the_network_that_predicts_so(sampler):
    """Catches a form of the prediction that is still what was predicted before it was wrapped.

    Of every wrapper and every kind of prediction; x_prev speaks of whole steps only.
    """
    kinds = ["eps", "x_0", "v", "velocity"] + ["x_prev"] * (sampler in ON_THE_CHAIN)
    clip = {"clip_x_0": False}  # else the thresholds would show nothing
    for kind in kinds:
        own, other = denoiser(kind), denoiser(kind, factor=0.2)
        bare = SAMPLERS[sampler](own, **clip)
        for name, (wrap, image) in WRAPPERS.items():

            def network(x_t, t, own=own, other=other, image=image):
                return image(x_t, t, *(one.predict(x_t, t).x_0 for one in (own, other)))

            wanted = NetworkDenoiser(network, FEW, "x_0", "fixed_small")
            found, expected = (SAMPLERS[sampler](one, **clip) for one in (wrap(own, other), wanted))
            differ = f"{name} of {kind}"
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, msg=differ)
            assert not torch.allclose(found, bare, rtol=0, atol=1e-4), differ


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_that_is_off_changes_no_bit_at_half_the_calls(sampler):
    """Catches a reference that is called for nothing, and a prediction that was rounded anew."""
    bare = denoiser()
    expected = SAMPLERS[sampler](bare)
    for off in ({"scale": 1.0}, {"scale": 3.0, "interval": Interval(0.5, 0.5)}):
        own, other = denoiser(), denoiser(factor=0.2)
        assert torch.equal(SAMPLERS[sampler](Guided(own, other, **off)), expected)
        assert own.network.calls == bare.network.calls
        assert other.network.calls == 0


@pytest.mark.parametrize("sampler", TO_IMAGES)
def test_thresholds_and_known_pixels_hold_at_the_end_of_every_sampler(sampler):
    """Catches a sampler whose last step goes past the wrapped prediction."""
    wild = NetworkDenoiser(lambda x_t, t: x_t - 3, FEW, variance="fixed_small")
    clip = {} if sampler == "langevin" else {"clip_x_0": False}
    assert float(SAMPLERS[sampler](wild, **clip).abs().max()) > 1
    for wrapped, bound in ((StaticThreshold(wild, 0.7), 0.7), (DynamicThreshold(wild, 0.8), 1.0)):
        assert float(SAMPLERS[sampler](wrapped, **clip).abs().max()) <= bound + 1e-6
    found = SAMPLERS[sampler](Pinned(denoiser(), KNOWN), **clip)
    torch.testing.assert_close(found[MASK], KNOWN.values[MASK], rtol=0, atol=1e-7)
    assert torch.equal(KNOWN.into(found)[MASK], KNOWN.values[MASK])
    assert float((found - KNOWN.values)[~MASK].abs().min()) > 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_the_variance_is_that_of_the_denoiser_itself(prediction, variance):
    """Catches a variance that is lost, guided too, or taken from the reference."""
    own, other = denoiser(prediction, variance), denoiser(prediction, variance, 0.2)
    x_t, t = normal(5, 2, 3, seed=2), every_t(FEW)
    bare = own.predict(x_t, t)
    for wrapped in (
        Guided(own, other, 3.0, rescale=0.5),
        StaticThreshold(own, 0.2),
        DynamicThreshold(Guided(own, other, 6.0), 0.1),
        Guided(StaticThreshold(own, 0.5), other, 2.0),
        ClassifierGuided(own, log_probability, 2.0),
        ClassifierGuided(own, log_probability, 2.0, "mean"),
    ):
        said = wrapped.predict(x_t, t)
        assert torch.equal(said.log_variance, bare.log_variance)
        assert not torch.allclose(
            said.reverse(clip_x_0=False).mean, bare.reverse(clip_x_0=False).mean
        )


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "velocity"])
def test_all_forms_follow_from_the_new_image(prediction):
    """Catches a form of the image that was predicted before, and a kind read as another."""
    x_t, t, x_0 = normal(5, 2, 3, seed=2), every_t(FEW), normal(5, 2, 3, seed=3)
    said = denoiser(prediction).predict(x_t, t)
    _ = said.x_0, said.eps, said.v, said.velocity, said.score  # kept: must not be what is read
    found, expected = said.with_x_0(x_0), Prediction(FEW, x_t, t, x_0, "x_0", "fixed_small")
    for form in ("x_0", "eps", "v", "velocity", "score"):
        assert torch.equal(getattr(found, form), getattr(expected, form)), form
    step = found.reverse(clip_x_0=False)
    assert torch.equal(step.mean, expected.reverse(clip_x_0=False).mean)
    abar = FEW.alphas_cumprod[:, None, None]
    torch.testing.assert_close(abar.sqrt() * x_0 + (1 - abar).sqrt() * found.eps, x_t)
    for kind in ("eps", "x_0", "v", "velocity", "x_prev"):
        again = Prediction(FEW, x_t, t, said.of_kind(kind), kind)
        torch.testing.assert_close(again.x_0, said.x_0)
    assert torch.equal(said.of_kind(prediction), said.value)


# Without pc: its corrector divides by norms, so that rounding is not kept small.
@pytest.mark.parametrize("sampler", [one for one in ON_THE_CHAIN if one != "pc"])
def test_steps_may_be_left_out_inside_a_wrapper_or_around_it(sampler):
    """Catches a chain of few steps that needs a network, and a variance that is not its own."""
    own, other = denoiser(path=CHAIN), denoiser(factor=0.2, path=CHAIN)
    few = [respaced(one, STEPS) for one in (own, other)]
    for around, inside in (
        (Guided(own, other, 1.5), Guided(*few, 1.5)),
        (Pinned(own, KNOWN), Pinned(few[0], KNOWN)),
    ):
        found, expected = SAMPLERS[sampler](respaced(around, STEPS)), SAMPLERS[sampler](inside)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_the_bound_of_a_wrapped_denoiser():
    """Catches a bound that needs a network: of scale 1 it is the denoiser's own, bit for bit."""
    own, other = denoiser(), denoiser(factor=0.2)
    x_0 = levels(2, 2, 3)
    expected = bits_per_dim(own, x_0, noise=noise)
    found = bits_per_dim(Guided(own, other, 1.0), x_0, noise=noise)
    assert torch.equal(found.total, expected.total)
    apart = bits_per_dim(Guided(own, other, 4.0), x_0, noise=noise)
    assert not torch.allclose(apart.total, expected.total)


def test_every_wrapper_is_a_denoiser():
    """Catches a wrapper that another cannot wrap."""
    own, other = denoiser(), denoiser(factor=0.2)
    wrapped = [wrap(own, other) for wrap, _ in WRAPPERS.values()]
    for one in (*wrapped, shortened(own, 3), respaced(own, [0, 2])):
        assert isinstance(one, Denoiser)
        assert isinstance(one.path, Path)
    assert not isinstance(own.network, Denoiser)


def test_no_wrapper_waits_for_its_device():
    """Catches `.item()` in a loop, and float64 of the path's numbers in the state."""
    x_t, t = torch.zeros(2, 2, 3, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    own = NetworkDenoiser(lambda x_t, _: 0.1 * x_t, FEW, "x_0")
    known = Known(torch.zeros(2, 2, 3, device="meta"), MASK.to("meta"))
    for one in (
        Guided(own, StaticThreshold(own), 3.0, rescale=0.7),
        DynamicThreshold(own),
        Pinned(own, known),
        ClassifierGuided(own, log_probability, 1.0),
    ):
        step = one.predict(x_t, t).reverse(clip_x_0=True)
        assert step.mean.dtype == torch.float32
        assert step.mean.device == x_t.device
