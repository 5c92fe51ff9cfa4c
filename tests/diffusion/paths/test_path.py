"""Each path against its source: closed forms, its differential equation, the chain, diffusers."""

import itertools
import math

import diffusers
import pytest
import torch

from ddpm_core.diffusion.choices import OutputKind
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.flow import Straight
from ddpm_core.diffusion.paths.path import Path, chain_of, ends_in_pure_noise
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.sde import (
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from ddpm_core.diffusion.paths.sigma import sigma_at, sigma_grid, sigma_range, time_of_sigma
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.process import eps_from_velocity, q_sample, x_0_from_velocity
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import row
from tests.diffusion.chains import PAPER, normal
from tests.diffusion.every_path import (
    CONTINUOUS,
    PATHS,
    drift_and_diffusion,
    published_marginal,
    rk4,
)

KINDS: tuple[OutputKind, ...] = ("eps", "x_0", "velocity", "v")
every_path = pytest.mark.parametrize("name", PATHS)
every_continuous_path = pytest.mark.parametrize("name", CONTINUOUS)


def inside(path, num=9):
    low, high = path.time_range
    return torch.linspace(low, high, num, dtype=torch.float64)


@every_path
def test_all_are_paths(name):
    """Catches a member that one of them lacks."""
    assert isinstance(PATHS[name], Path)


@every_continuous_path
def test_signal_and_noise_are_those_of_the_source(name):
    """Catches a root too many or too few, a lost half, and exchanged ends, at every time."""
    path, t = CONTINUOUS[name], inside(CONTINUOUS[name])
    signal, noise = path.signal_and_noise(t, t)
    expected = row(*(number for time in t.tolist() for number in published_marginal(name, time)))
    found = torch.stack([signal, noise], dim=1).flatten()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)


@every_path
def test_ratio_time_and_signal_belong_together(name):
    """Catches an inverse of something else, a ratio of amplitudes, and a wrong scale at sigma."""
    path, t = PATHS[name], inside(PATHS[name])
    signal, noise = path.signal_and_noise(t, t)
    log_snr = path.log_snr_at(t)
    torch.testing.assert_close(log_snr, 2 * (signal / noise).log(), rtol=1e-9, atol=1e-9)
    assert bool((log_snr.diff() < 0).all())
    torch.testing.assert_close(path.time_at(log_snr), t, rtol=1e-9, atol=1e-9)
    sigma = sigma_at(path, t)
    torch.testing.assert_close(sigma, noise / signal, rtol=1e-9, atol=0)
    torch.testing.assert_close(time_of_sigma(path, sigma), t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.signal_at_sigma(sigma), signal, rtol=1e-9, atol=0)
    assert sigma_range(path) == pytest.approx((float(sigma[0]), float(sigma[-1])), rel=1e-12)


@every_path
def test_what_lies_beyond_the_ends_becomes_the_end(name):
    """Catches a time at which no network was trained, and nan."""
    path = PATHS[name]
    low, high = path.time_range
    found = time_of_sigma(path, row(1e-9, 1e9)).tolist()
    assert found == pytest.approx([low, high], abs=1e-12)
    assert low <= found[0]
    assert found[1] <= high
    grid = sigma_grid(path, 7)
    assert (float(grid[0]), float(grid[-1])) == sigma_range(path)


@every_path
def test_whether_variance_is_preserved_is_measured(name):
    """Catches a path on which v would be read as what it is not."""
    path, t = PATHS[name], inside(PATHS[name])
    signal, noise = path.signal_and_noise(t, t)
    is_one = bool(((signal.square() + noise.square() - 1).abs() < 1e-9).all())
    assert path.preserves_variance == is_one == (name in ("chain", "vp"))


@every_path
def test_the_prior_is_what_is_left_at_the_end(name):
    """Catches a prior of another scale: data of variance 1 leave at most a hundredth beside it."""
    path = PATHS[name]
    end = row(path.time_range[1])
    signal, noise = path.signal_and_noise(end, end)
    variance = float(noise.square() + signal.square())
    assert variance == pytest.approx(path.prior_std**2, rel=1e-2)


def test_the_noise_of_sub_vp_is_the_square_of_that_of_vp():
    """Catches the root: Var_subvp = Var_vp**2, with the same signal."""
    vp, sub, t = VariancePreserving(), SubVariancePreserving(), inside(VariancePreserving(), 50)
    (signal, noise), (same, less) = vp.signal_and_noise(t, t), sub.signal_and_noise(t, t)
    assert torch.equal(signal, same)
    torch.testing.assert_close(less.square(), noise.square().square(), rtol=1e-12, atol=0)
    assert bool((less < noise).all())


@every_continuous_path
def test_the_marginals_solve_the_differential_equation(name):
    """Catches marginals of another equation than the source's: for data N(0.7, 0.3**2) mean and
    variance follow m' = f m and V' = 2 f V + g**2, integrated from the start to three times.
    """
    path, low = CONTINUOUS[name], 0.01
    signal, noise = published_marginal(name, low)
    state = row(signal * 0.7, (signal * 0.3) ** 2 + noise**2)

    def slope(t, state):
        f, g_squared = drift_and_diffusion(name, t)
        return row(f * float(state[0]), 2 * f * float(state[1]) + g_squared)

    times = torch.linspace(low, 0.95, 95, dtype=torch.float64)
    for begin, end in ((0, 30), (30, 60), (60, 94)):
        state = rk4(slope, state, times[begin : end + 1].tolist())
        t = times[end : end + 1]
        signal, noise = path.signal_and_noise(t, t)
        expected = torch.cat([signal * 0.7, (signal * 0.3).square() + noise.square()])
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-7)


def test_the_sde_simulated_has_the_marginals():
    """Catches a variance for a standard deviation: 40,000 walks of Euler and Maruyama, 5 s.e."""
    num, steps = 40_000, 100
    for name, path in CONTINUOUS.items():
        times = torch.linspace(0.02, 0.7, steps + 1, dtype=torch.float64)
        signal, noise = published_marginal(name, 0.02)
        x = signal * (0.7 + 0.3 * normal(num, seed=1)) + noise * normal(num, seed=2)
        for number, (begin, end) in enumerate(itertools.pairwise(times.tolist())):
            f, g_squared = drift_and_diffusion(name, (begin + end) / 2)
            h = end - begin
            x = x * math.exp(f * h) + math.sqrt(g_squared * h) * normal(num, seed=3 + number)
        (signal,), (noise,) = path.signal_and_noise(times[-1:], times[-1:])
        variance = float((signal * 0.3).square() + noise.square())
        assert float(x.mean()) == pytest.approx(
            0.7 * float(signal), abs=5 * (variance / num) ** 0.5
        )
        assert float(x.var()) == pytest.approx(variance, rel=5 * (2 / num) ** 0.5 + 0.01)


def test_the_chain_becomes_vp_as_its_steps_grow_finer():
    """Catches another beta(t) than the limit of the chain's: the error halves with each step."""
    vp, errors = VariancePreserving(), []
    for num in (1000, 2000, 4000):
        chain = make_schedule(make_betas("linear", num))
        t = torch.arange(1, num + 1, dtype=torch.float64) / num
        signal, _ = vp.signal_and_noise(t, t)
        errors.append(float((chain.alphas_cumprod - signal.square()).abs().max()))
    assert errors[0] < 5e-3
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.1)


def test_ve_has_the_sigmas_of_diffusers():
    """Catches exchanged sigmas and another base: those of its continuous scheduler at its times."""
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    scheduler.set_sigmas(20, sigma_min=0.01, sigma_max=50.0)
    t = scheduler.timesteps.double()
    torch.testing.assert_close(
        sigma_at(VarianceExploding(), t), scheduler.sigmas.double(), rtol=1e-5, atol=0
    )


def test_the_straight_line_has_the_noise_of_diffusers():
    """Catches time that runs the other way, and noise of another scale."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas[:-1].double()
    x_0, eps = normal(20, 3, seed=1), normal(20, 3, seed=2)
    found = q_sample(Straight(), x_0, sigmas, eps)
    expected = scheduler.scale_noise(x_0, scheduler.timesteps, eps)
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-6)


@every_path
@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_network_gives_its_answer_in_every_form(name, kind):
    """Catches a form that is right on the chain alone, on every path and of every kind."""
    path, t = PATHS[name], inside(PATHS[name])
    if kind == "v" and not path.preserves_variance:
        with pytest.raises(ConfigError, match=r"prediction=v is defined where .* predict x_0"):
            NetworkDenoiser(lambda x_t, t: x_t, path, kind)
        return
    x_0, eps = normal(9, 3, seed=1), normal(9, 3, seed=2)
    x_t = q_sample(path, x_0, t, eps)
    signal, noise = path.signal_and_noise(t, x_t)
    values = {"eps": eps, "x_0": x_0, "velocity": eps - x_0, "v": signal * eps - noise * x_0}
    said = Prediction(path, x_t, t, values[kind], kind)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(said.x_0, x_0, **close)
    torch.testing.assert_close(said.eps, eps, **close)
    torch.testing.assert_close(said.velocity, eps - x_0, **close)
    torch.testing.assert_close(said.score, -eps / noise, rtol=1e-5, atol=1e-5)


def test_the_velocity_is_that_of_the_straight_line():
    """Catches its sign and its scale: x_0 = x_t - t u and eps = x_t + (1 - t) u, also at t = 1."""
    path, t = Straight(), row(0.001, 0.3, 0.9, 1.0)
    x_t, u = normal(4, 3, seed=1), normal(4, 3, seed=2)
    times = t[:, None]
    torch.testing.assert_close(x_0_from_velocity(path, x_t, t, u), x_t - times * u)
    torch.testing.assert_close(eps_from_velocity(path, x_t, t, u), x_t + (1 - times) * u)
    x_0, eps = normal(4, 3, seed=3), normal(4, 3, seed=4)
    rise = q_sample(path, x_0, t, eps) - q_sample(path, x_0, t - 1e-4, eps)
    torch.testing.assert_close(rise / 1e-4, eps - x_0, rtol=1e-8, atol=1e-8)


def test_a_line_that_ends_at_pure_noise_is_known_to():
    """Catches nan at t = 1: no sigma there, and no x_0 from eps; a velocity knows it."""
    path = Straight()
    assert ends_in_pure_noise(path)
    assert not any(ends_in_pure_noise(one) for one in PATHS.values())
    with pytest.raises(ConfigError, match=r"sigma is infinite.*an `end` below 1"):
        sigma_range(path)
    with pytest.raises(ConfigError, match="prediction=eps does not say"):
        NetworkDenoiser(lambda x_t, t: x_t, path, "eps")
    chain = make_schedule(zero_terminal_snr(make_betas("linear", 50)))
    assert ends_in_pure_noise(chain)
    with pytest.raises(ConfigError, match="use ancestral or ddim"):
        sigma_range(chain)


@every_continuous_path
def test_a_path_without_steps_has_no_variance_of_a_step(name):
    """Catches an AttributeError where the chain's tables are looked for."""
    path, t = CONTINUOUS[name], inside(CONTINUOUS[name])
    said = Prediction(path, normal(9, 3), t, normal(9, 3), "x_0")
    with pytest.raises(ConfigError, match=r"has no steps.*discretised"):
        said.reverse(clip_x_0=False)
    with pytest.raises(ConfigError, match="whole steps only"):
        _ = Prediction(path, normal(9, 3), t, normal(9, 3), "x_prev").x_0
    assert chain_of(PAPER) is PAPER


@every_path
def test_dtypes_and_devices_are_those_of_the_images(name):
    """Catches float64 that spreads into the state, and a number read back from the device."""
    path, t = PATHS[name], inside(PATHS[name])
    for given, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        for part in path.signal_and_noise(t.float(), normal(9, 2, 2).to(given)):
            assert part.dtype == expected
            assert part.shape == (9, 1, 1)
    meta = torch.empty(9, dtype=torch.float64, device="meta")
    signal, _ = path.signal_and_noise(meta, torch.empty(9, 2, device="meta"))
    assert signal.shape == (9, 1)
    assert time_of_sigma(path, meta).device.type == "meta"
    assert path.log_snr_at(t.float()).dtype == torch.float64


@pytest.mark.parametrize(
    "make",
    [
        lambda: VariancePreserving(start=0.0),
        lambda: VariancePreserving(start=0.5, end=0.5),
        lambda: Straight(end=1.5),
        lambda: VariancePreserving(beta_min=0.0),
        lambda: SubVariancePreserving(beta_min=3.0, beta_max=2.0),
        lambda: VarianceExploding(sigma_min=0.0),
        lambda: VarianceExploding(sigma_min=2.0, sigma_max=2.0),
    ],
)
def test_impossible_paths_are_refused(make):
    """Catches a logarithm of 0 and a path that rises."""
    with pytest.raises(ConfigError, match="must be 0 <"):
        make()


def test_a_constant_beta_is_a_line_too():
    """Catches a division by the rise of beta: with none, the integral is beta t."""
    path, t = VariancePreserving(beta_min=3.0, beta_max=3.0), row(0.1, 0.5, 1.0)
    torch.testing.assert_close(path.log_snr_at(t), -torch.expm1(3 * t).log())
    torch.testing.assert_close(path.time_at(path.log_snr_at(t)), t)


@pytest.mark.parametrize("kind", ["v", "x_0"])
@pytest.mark.parametrize(
    "path", [SubVariancePreserving(), VarianceExploding(), Straight()], ids=repr
)
def test_v_is_refused_where_variance_is_not_preserved(path, kind):
    """Catches: a v that leads to another image than it came from, 28 off on VE, without a word."""
    x_t, t = normal(2, 3), torch.tensor([0.2, 0.7], dtype=torch.float64)
    with pytest.raises(ConfigError, match="does not preserve variance"):
        _ = Prediction(path, x_t, t, x_t, kind).v
    if kind == "v":
        with pytest.raises(ConfigError, match="does not preserve variance"):
            _ = Prediction(path, x_t, t, x_t, kind).x_0
