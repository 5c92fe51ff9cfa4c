"""Every sampler on every path: with the exact denoiser of a mixture they draw the mixture."""

import math

import diffusers
import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import Adaptive, FixedStep
from ddpm_core.diffusion.measures.likelihood import bits_per_dim
from ddpm_core.diffusion.measures.ode_likelihood import ode_density
from ddpm_core.diffusion.paths.flow import Straight
from ddpm_core.diffusion.paths.sigma import sigma_grid, sigma_range, time_of_sigma
from ddpm_core.diffusion.paths.spacing import karras_sigmas
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import heun_sample
from ddpm_core.diffusion.samplers.ode import ode_encode, ode_sample
from ddpm_core.diffusion.samplers.sde import sde_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.wrappers.respacing import discretised, respaced
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import PAPER, normal
from tests.diffusion.every_path import (
    CONTINUOUS,
    drift_and_diffusion,
    exact,
    published_marginal,
    rk4,
)
from tests.diffusion.objectives import levels

DATA = Mixture(row(0.3, 0.7), row(-0.8, 0.5)[:, None], row(0.1, 0.2)[:, None])
MEAN = 0.3 * -0.8 + 0.7 * 0.5
VARIANCE = 0.3 * (0.1**2 + 0.8**2) + 0.7 * (0.2**2 + 0.5**2) - MEAN**2
ONE = Mixture(row(1.0), row(0.0)[:, None], row(0.5)[:, None])
every_path = pytest.mark.parametrize("name", CONTINUOUS)
pytestmark = pytest.mark.usefixtures("shapes_unchecked")


def quantiles(num):
    """Return a standard normal without chance: in the middle of num equal parts."""
    places = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    return torch.special.ndtri(places)[:, None]


def even_times(path, num):
    """Return times at equal steps of the seventh root of sigma."""
    times = time_of_sigma(path, sigma_grid(path, num - 1))
    return sorted(set(times.tolist()))


def assert_drawn(x_0, tolerance):
    """Hold mean, variance and the share of the first component against the mixture's."""
    assert float(x_0.mean()) == pytest.approx(MEAN, abs=tolerance)
    assert float(x_0.var()) == pytest.approx(VARIANCE, rel=tolerance)
    assert float((x_0 < -0.3).double().mean()) == pytest.approx(0.3, abs=tolerance)


@every_path
@pytest.mark.parametrize("kind", ["eps", "x_0", "velocity"])
def test_heun_draws_the_mixture(name, kind):
    """Catches a state that is not scaled as the path's own, and a time that is not its."""
    path = CONTINUOUS[name]
    sigmas = karras_sigmas(path, 80)
    x_0 = heun_sample(exact(DATA, path, kind), quantiles(500), sigmas=sigmas, clip_x_0=False)
    assert_drawn(x_0, 0.02)


@every_path
@pytest.mark.parametrize("kind", ["eps", "x_0", "velocity"])
def test_ddim_draws_the_mixture(name, kind):
    """Catches a chain whose x_t is not what the network is called with, after scaling."""
    path = CONTINUOUS[name]
    denoiser = discretised(exact(DATA, path, kind), even_times(path, 300))
    assert_drawn(ddim_sample(denoiser, quantiles(500), clip_x_0=False), 0.03)


@every_path
def test_the_other_solvers_draw_it_too(name):
    """Catches a solver that knows the chain's coordinates only."""
    path, x_T = CONTINUOUS[name], quantiles(500)
    denoiser, sigmas = exact(DATA, path), karras_sigmas(path, 60)
    assert_drawn(dpm_solver_sample(denoiser, x_T, sigmas=sigmas, clip_x_0=False), 0.02)
    assert_drawn(unipc_sample(denoiser, x_T, sigmas=sigmas, clip_x_0=False), 0.02)
    low, high = sigma_range(path)
    solver = Adaptive(low, high, rtol=1e-5, atol=1e-5)
    assert_drawn(ode_sample(denoiser, x_T, solver=solver), 0.02)


@every_path
def test_samplers_with_noise_draw_it_on_the_chain_of_its_times(name):
    """Catches a chain that only a sampler without noise can walk: five standard errors."""
    path, num = CONTINUOUS[name], 4000
    denoiser = discretised(exact(DATA, path), even_times(path, 150))
    error = 5 * math.sqrt(0.3 * 0.7 / num)

    def noise(number):
        return normal(num, 1, seed=number)

    x_T = normal(num, 1, seed=9999)
    assert_drawn(ddpm_sample(denoiser, x_T, noise=noise, clip_x_0=False), error + 0.03)
    assert_drawn(sde_sample(denoiser, x_T, noise=noise, clip_x_0=False), error + 0.05)


def test_the_straight_line_is_walked_from_pure_noise():
    """Catches nan at t = 1, where nothing is left of the signal."""
    path = Straight()
    times = torch.linspace(0.005, 1, 200, dtype=torch.float64).tolist()
    denoiser = discretised(exact(DATA, path, "velocity"), times)
    assert denoiser.path.ends_in_pure_noise
    assert_drawn(ddim_sample(denoiser, quantiles(500), clip_x_0=False), 0.02)


def test_ddim_on_the_straight_line_is_euler_of_diffusers():
    """Catches another step than x + (t' - t) u: flow matching as its users know it."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas.double()
    scheduler.sigmas = sigmas
    denoiser = exact(DATA, Straight(), "velocity")
    x_T = quantiles(9)
    x = x_T
    for sigma, timestep in zip(sigmas[:-1], scheduler.timesteps, strict=True):
        u = denoiser.predict(x, sigma.expand(9)).velocity
        x = scheduler.step(u, timestep, x).prev_sample
    chain = discretised(denoiser, sigmas[:-1].flip(0).tolist())
    ours = ddim_sample(chain, x_T, clip_x_0=False)
    # diffusers rounds its sample to float32 in each step's arithmetic.
    torch.testing.assert_close(ours, x.double(), rtol=1e-5, atol=1e-5)


@every_path
def test_the_flow_in_sigma_is_the_flow_in_the_path_s_own_time(name):
    """Catches sigma coordinates of another path: dx/dt = f x - g**2 score / 2 of the source, for
    data N(0, 1/4) with the exact score, solved in its own time from 0.9 down to 0.05.
    """
    path, times = CONTINUOUS[name], torch.linspace(0.9, 0.05, 400, dtype=torch.float64)

    def slope(t, x):
        (signal, noise), (f, g_squared) = published_marginal(name, t), drift_and_diffusion(name, t)
        score = -x / ((0.5 * signal) ** 2 + noise**2)
        return f * x - 0.5 * g_squared * score

    ends = [published_marginal(name, t) for t in (0.05, 0.9)]
    (low_signal, low), (high_signal, high) = ends[0], ends[1]
    x_T = quantiles(5)
    own = rk4(slope, math.hypot(0.5 * high_signal, high) * x_T, times.tolist())
    sigmas = torch.logspace(
        math.log10(low / low_signal), math.log10(high / high_signal), 200, dtype=torch.float64
    )
    solver = FixedStep(sigmas, "rk4")
    # ode_sample begins at sqrt(1 + sigma**2) x_T.
    ratio = high / high_signal
    begin = math.hypot(0.5, ratio) / math.hypot(1, ratio) * x_T
    ours = low_signal * ode_sample(exact(ONE, path), begin, solver=solver, denoise=False)
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-6)


@every_path
def test_the_likelihood_of_a_gaussian_is_its_closed_form(name):
    """Catches a density in another path's coordinates: data N(0, 1/4), prior N(0, 1 + high**2).

    On the VP path it is that of the data too: the prior is off by 3e-5.
    """
    path, x = CONTINUOUS[name], row(-1.1, -0.3, 0.0, 0.6)[:, None]
    low, high = sigma_range(path)
    found = ode_density(exact(ONE, path), x, solver=FixedStep(sigma_grid(path, 100), "rk4"))
    spread = ((0.25 + high**2) / (0.25 + low**2)) ** 0.5
    prior = torch.distributions.Normal(0.0, math.sqrt(1 + high**2))
    expected = -(prior.log_prob(spread * x[:, 0]) + math.log(spread)) / math.log(2)
    torch.testing.assert_close(found.bits, expected, rtol=0, atol=1e-4)
    if name == "vp":
        exactly = -torch.distributions.Normal(0.0, 0.5).log_prob(x[:, 0]) / math.log(2)
        torch.testing.assert_close(found.bits, exactly, rtol=0, atol=1e-3)


@every_path
def test_images_are_encoded_and_come_back(name):
    """Catches two ways that are not each other's inverse, in sigma and on the chain of times."""
    path, x_0 = CONTINUOUS[name], row(-0.9, -0.7, 0.2, 0.6)[:, None]
    denoiser, solver = exact(DATA, path), FixedStep(sigma_grid(path, 400), "rk4")
    x_T = ode_encode(denoiser, x_0, solver=solver)
    back = ode_sample(denoiser, x_T, solver=solver, denoise=False)
    torch.testing.assert_close(back, x_0, rtol=0, atol=1e-4)
    chain = discretised(denoiser, even_times(path, 400))
    back = ddim_sample(chain, ddim_encode(chain, x_0), clip_x_0=False)
    torch.testing.assert_close(back, x_0, rtol=0, atol=0.03)


def test_a_chain_of_a_path_has_its_ratios():
    """Catches a chain that adds other noise than the path it stands for."""
    for path in CONTINUOUS.values():
        times = even_times(path, 12)
        chain = discretised(exact(ONE, path), times).path
        log_snr = path.log_snr_at(torch.tensor(times, dtype=torch.float64))
        # At its start sub-VP has noise of 1e-6: 1 - abar is 1e-12, and has four digits.
        torch.testing.assert_close(chain.log_snr, log_snr, rtol=1e-5, atol=1e-9)


def test_the_bound_on_a_chain_of_vp_is_that_of_the_same_steps_of_the_chain():
    """Catches a variance, prior or posterior that a chain made of a path has not."""
    steps, vp = [0, 30, 100, 400, 700, 990], CONTINUOUS["vp"]
    times = vp.time_at(PAPER.log_snr[steps]).tolist()
    x_0 = levels(4, 3)
    found, expected = (
        bits_per_dim(denoiser, x_0, noise=lambda t: normal(4, 3, seed=t))
        for denoiser in (
            discretised(exact(DATA, vp, "v"), times),
            respaced(exact(DATA, PAPER), steps),
        )
    )
    for part, other in zip(found, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("times", [[0.5], [], [0.5, 0.5], [0.6, 0.4], [0.0, 0.5], [0.5, 1.1]])
def test_times_that_are_no_chain_are_refused(times):
    """Catches a negative beta, and a network called where it was not trained."""
    with pytest.raises(ConfigError, match="must"):
        discretised(exact(ONE, CONTINUOUS["vp"]), times)


@every_path
def test_a_sampler_of_steps_refuses_a_path_without(name):
    """Catches an AttributeError; the sentence says what to do."""
    denoiser = exact(ONE, CONTINUOUS[name])
    for sample in (ddim_sample, ddim_encode):
        with pytest.raises(ConfigError, match=r"has no steps.*discretised.*heun"):
            sample(denoiser, quantiles(3))


def test_a_network_of_vp_in_v_draws_as_one_of_eps():
    """Catches a v that is read on the chain of times as something else."""
    path = CONTINUOUS["vp"]
    for draw in (
        lambda d: heun_sample(d, quantiles(9), sigmas=karras_sigmas(path, 9), clip_x_0=False),
        lambda d: ddim_sample(discretised(d, even_times(path, 9)), quantiles(9), clip_x_0=False),
    ):
        torch.testing.assert_close(
            draw(exact(DATA, path, "v")), draw(exact(DATA, path)), rtol=0, atol=1e-7
        )


def test_the_state_keeps_float32_and_never_waits_for_its_device():
    """Catches float64 of the path's numbers in the state, and `.item()` in a loop."""
    for path in CONTINUOUS.values():
        denoiser = NetworkDenoiser(lambda x_t, _: 0.1 * x_t, path, "x_0")
        for device in ("cpu", "meta"):
            x_T = torch.zeros(2, 3, device=device)
            few = discretised(denoiser, even_times(path, 4))
            for x_0 in (
                heun_sample(denoiser, x_T, sigmas=karras_sigmas(path, 3)),
                ddim_sample(few, x_T),
                ddpm_sample(few, x_T, noise=lambda _, x_T=x_T: x_T),
            ):
                assert x_0.dtype == torch.float32
                assert x_0.device == x_T.device


def test_the_chain_and_its_limit_draw_alike():
    """Catches a continuous path that is another process than the chain it is the limit of."""
    vp = CONTINUOUS["vp"]
    # Within both: from 0.01 to 157, and from 0.001 to 152.
    sigmas = torch.logspace(math.log10(150), math.log10(0.02), 40, dtype=torch.float64).tolist()
    ours = [
        heun_sample(exact(DATA, path), quantiles(50), sigmas=sigmas, clip_x_0=False)
        for path in (PAPER, vp)
    ]
    torch.testing.assert_close(ours[0], ours[1], rtol=0, atol=1e-6)
