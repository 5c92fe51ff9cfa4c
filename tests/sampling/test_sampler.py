"""Every sampler by its name: the one it says, with its settings, on the steps it says."""

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import Adaptive, FixedStep
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.sigma import sigma_range
from ddpm_core.diffusion.paths.spacing import chain_sigmas, choose_timesteps, karras_sigmas
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import Churn, heun_sample
from ddpm_core.diffusion.samplers.langevin import langevin_sample
from ddpm_core.diffusion.samplers.ode import ode_sample
from ddpm_core.diffusion.samplers.sde import pc_sample, sde_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.sampling.draw import draw
from ddpm_core.sampling.sampler import describe, num_steps_of, run_sampler
from tests.gpu import no_waiting, quiet

SCHEDULE = make_schedule(make_betas("linear", 40))
SHAPE = (1, 4, 4)
CHOSEN = choose_timesteps("quadratic", 40, 8)
SIGMAS = chain_sigmas(SCHEDULE, CHOSEN)


def pointwise(x_t, t):
    """Stand in for a network: no arithmetic that depends on the size of the batch."""
    return 0.8 * x_t.tanh() + 0.01 * t[:, None, None, None]


WHOLE = NetworkDenoiser(pointwise, SCHEDULE, variance="fixed_small")
FEW = respaced(WHOLE, CHOSEN)
ODE = FixedStep(torch.tensor(SIGMAS[::-1], dtype=torch.float64), "rk4")
FREE = {"clip_x_0": False}
BY_NAME = {
    "ancestral": ({}, lambda x, z: ddpm_sample(FEW, x, noise=z)),
    "langevin": (FREE, lambda x, z: langevin_sample(FEW, x, noise=z)),
    "predictor_corrector": (
        {"corrector_snr": 0.1},
        lambda x, z: pc_sample(FEW, x, noise=z, snr=0.1),
    ),
    "ddim": ({"eta": 0.5}, lambda x, z: ddim_sample(FEW, x, eta=0.5, noise=z)),
    "sde": (FREE, lambda x, z: sde_sample(FEW, x, noise=z, clip_x_0=False)),
    "ode": (
        {"ode_method": "rk4"} | FREE,
        lambda x, z: ode_sample(WHOLE, x, solver=ODE, clip_x_0=False),
    ),
    "heun": (
        {"churn": 3.0},
        lambda x, z: heun_sample(WHOLE, x, sigmas=SIGMAS, churn=Churn(S_churn=3.0), noise=z),
    ),
    "dpm_solver": ({}, lambda x, z: dpm_solver_sample(WHOLE, x, sigmas=SIGMAS)),
    "sde_dpm_solver": ({}, lambda x, z: dpm_solver_sample(WHOLE, x, sigmas=SIGMAS, noise=z)),
    "unipc": (FREE, lambda x, z: unipc_sample(WHOLE, x, sigmas=SIGMAS, clip_x_0=False)),
}


def sample_of(name, **changes):
    settings = BY_NAME[name][0]
    return SampleConfig(
        sampler=name, **({"spacing": "quadratic", "num_steps": 8} | settings | changes)
    )


def noise_of(positions):
    return lambda number: seeding.normal((1, 2), number, positions, SHAPE)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_name_runs_its_sampler_with_its_settings_on_the_chosen_steps(name):
    """Catches: a name that runs another sampler, a setting that is dropped, other steps."""
    positions = torch.arange(3)
    x_T, noise = seeding.normal((3, 4), 0, positions, SHAPE), noise_of(positions)
    found = run_sampler(WHOLE, sample_of(name), x_T, noise)
    expected = BY_NAME[name][1](x_T, noise)
    assert torch.equal(found, expected)
    others = [other(x_T, noise) for key, (_, other) in BY_NAME.items() if key != name]
    assert not any(torch.equal(found, other) for other in others)


def test_solvers_in_sigma_take_levels_of_their_own():
    """Catches: karras levels that are steps of the chain, and an adaptive solver between other
    ends, or of the default tolerance."""
    positions = torch.arange(3)
    x_T, noise = seeding.normal((3, 4), 0, positions, SHAPE), noise_of(positions)
    found = run_sampler(WHOLE, sample_of("heun", spacing="karras"), x_T, noise)
    sigmas = karras_sigmas(SCHEDULE, 8)
    expected = heun_sample(WHOLE, x_T, sigmas=sigmas, churn=Churn(S_churn=3.0), noise=noise)
    assert torch.equal(found, expected)
    own = {"ode_method": "adaptive", "ode_tolerance": 1e-2, "num_steps": None}
    found = run_sampler(WHOLE, sample_of("ode", **own), x_T, noise)
    solver = Adaptive(*sigma_range(SCHEDULE), rtol=1e-2, atol=1e-2)
    assert torch.equal(found, ode_sample(WHOLE, x_T, solver=solver, clip_x_0=False))


@pytest.mark.parametrize("name", BY_NAME)
def test_steps_are_counted_down_to_0_so_that_a_strip_can_choose_its_moments(name):
    """Catches: a count from another end, twice per step, or of the whole chain's steps."""
    told = []
    positions = torch.arange(2)
    sample = sample_of(name)
    run_sampler(
        WHOLE,
        sample,
        seeding.normal((3, 4), 0, positions, SHAPE),
        noise_of(positions),
        on_step=lambda to_go, x, x_0_hat: told.append(to_go),
    )
    assert told == list(range(num_steps_of(sample, 40) - 1, -1, -1))


@pytest.mark.parametrize("name", BY_NAME)
def test_an_image_is_the_same_in_any_batch_for_every_sampler(name):
    """Catches: a norm over the batch, noise by place in it, one step size for all images."""
    sample = sample_of(name)
    whole = draw(WHOLE, torch.arange(6), SHAPE, sample=sample, seed=7)
    part = draw(WHOLE, torch.tensor([4, 1]), SHAPE, sample=sample, seed=7)
    # Sums over one image's pixels may round by the place of the row.
    torch.testing.assert_close(part, whole[[4, 1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BY_NAME)
def test_all_steps_are_taken_if_no_number_is_given(name):
    """Catches: a default of few steps."""
    asked = []

    def counting(x_t, t):
        asked.append(float(t[0]))
        return pointwise(x_t, t)

    denoiser = NetworkDenoiser(counting, SCHEDULE, variance="fixed_small")
    sample = sample_of(name, num_steps=None)
    draw(denoiser, torch.arange(1), SHAPE, sample=sample, seed=0)
    assert len({round(t) for t in asked}) == 40


def test_what_is_said_of_samples_names_all_that_was_used_and_nothing_that_was_not():
    """Catches: a number without its sampler's settings, or with those of another."""
    about = describe(sample_of("ddim"), 40)
    assert about == {
        "sampler": "ddim",
        "num_steps": 8,
        "spacing": "quadratic",
        "eta": 0.5,
        "clip_x_0": True,
        "state": "float32",
        "seed": 0,
    }
    assert "spacing" not in describe(SampleConfig(), 40)
    assert describe(SampleConfig(), 40)["num_steps"] == 40


@pytest.mark.gpu
@pytest.mark.parametrize("state", ["float32", "float64"])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_gpu_draws_the_images_of_a_cpu(name, state, gpu):
    """Catches tables or steps on another device, and float64 that is lost on the way.

    The tolerance is ten times what changes if the network's output is rounded otherwise.
    """
    sample = sample_of(name, state=state)
    expected = draw(WHOLE, torch.arange(6), SHAPE, sample=sample, seed=7)
    found = draw(WHOLE, torch.arange(6, device=gpu), SHAPE, sample=sample, seed=7)
    assert found.dtype == expected.dtype
    rounding = 1e-5 if state == "float32" else 1e-13
    atol = rounding * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=atol)


@pytest.mark.gpu
@quiet
@pytest.mark.parametrize("name", BY_NAME)
def test_no_sampler_waits_for_the_gpu(name, gpu):
    """Catches `.item()` and copies in the loop, which would leave the GPU idle in every step.

    The first call may wait: it brings the chain's tables there.
    """
    sample, positions = sample_of(name, num_steps=None), torch.arange(2, device=gpu)
    draw(WHOLE, positions, SHAPE, sample=sample, seed=0)
    with no_waiting():
        draw(WHOLE, positions, SHAPE, sample=sample, seed=1)
