"""EDM's sampler against diffusers, where it has it, and against closed forms, where it has not."""

import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import at_sigma
from ddpm_core.diffusion.paths.spacing import chain_sigmas, choose_timesteps, karras_sigmas
from ddpm_core.diffusion.samplers.heun import Churn, heun_sample
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, normal, oracle
from tests.diffusion.samplers.oracles import scheduler_of, state
from tests.diffusion.samplers.toys import SPREAD, Toy, flow, gaussian, orders, toy

TYPES = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}


def draws(step):
    return normal(2, 5, seed=100 + step)


def levels_of(sigmas):
    return torch.tensor(sigmas, dtype=torch.float64).numpy()


def theirs_of(prediction, sigmas, clip):
    """Return x_0 of diffusers' Heun, which knows no churn; called at our times between steps."""
    scheduler = scheduler_of(
        "HeunDiscreteScheduler", PAPER, prediction_type=TYPES[prediction], clip_sample=clip
    )
    between = [sigma for sigma in sigmas[1:] for _ in range(2)]
    levels = [sigmas[0], *between, 0.0]
    scheduler.sigmas = torch.from_numpy(levels_of(levels))
    scheduler._step_index = 0
    log_sigmas = 0.5 * (1 / PAPER.alphas_cumprod - 1).log()
    network, x = Toy(PAPER), sigmas[0] * normal(2, 5)
    for level in levels[:-1]:
        t = scheduler._sigma_to_t(levels_of([level]), log_sigmas.numpy())
        output = network(x / math.hypot(1, level), torch.tensor(t).expand(2))
        x = scheduler.step(output, 0, x).prev_sample
    return x


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("spacing", ["chain", "karras"])
def test_without_churn_it_is_heun_of_diffusers(spacing, prediction, clip):
    """Catches a wrong slope, beginning, time between two steps, clip or last step.

    Not x_0: there diffusers expects another kind of network, which is not called here.
    """
    sigmas = karras_sigmas(PAPER, 9)
    if spacing == "chain":
        sigmas = chain_sigmas(PAPER, choose_timesteps("trailing", 1000, 9))
    ours = heun_sample(toy(prediction=prediction), normal(2, 5), sigmas=sigmas, clip_x_0=clip)
    torch.testing.assert_close(ours, theirs_of(prediction, sigmas, clip), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clip", [True, False])
def test_with_churn_it_is_algorithm_2_written_out(clip):
    """Catches a wrong gamma, amount of noise, or a slope at the wrong sigma; no oracle has it."""
    churn = Churn(S_churn=4.0, S_min=0.05, S_max=50.0, S_noise=1.007)
    sigmas = karras_sigmas(PAPER, 9)
    denoiser, x, t = toy(), sigmas[0] * normal(2, 5), [*sigmas, 0.0]

    def d(x, sigma):
        image = at_sigma(denoiser, x, torch.full((2,), sigma, dtype=torch.float64))
        return (x - (image.clamp(-1, 1) if clip else image)) / sigma

    for i in range(9):
        gamma = min(4.0 / 9, 2**0.5 - 1) if 0.05 <= t[i] <= 50.0 else 0.0
        t_hat = t[i] + gamma * t[i]
        x_hat = x + (t_hat**2 - t[i] ** 2) ** 0.5 * 1.007 * draws(8 - i)
        d_i = d(x_hat, t_hat)
        x = x_hat + (t[i + 1] - t_hat) * d_i
        if t[i + 1] != 0:
            x = x_hat + (t[i + 1] - t_hat) * (d_i / 2 + d(x, t[i + 1]) / 2)
    drawn = []

    def noise(step):
        drawn.append(step)
        return draws(step)

    ours = heun_sample(
        denoiser, normal(2, 5), sigmas=sigmas, churn=churn, noise=noise, clip_x_0=clip
    )
    torch.testing.assert_close(ours, x, rtol=1e-10, atol=1e-10)
    assert drawn == [8 - i for i in range(9) if 0.05 <= t[i] <= 50.0]
    assert 0 < len(drawn) < 9


@pytest.mark.usefixtures("shapes_unchecked")
def test_heun_converges_with_order_2():
    """Catches Euler's method, and a second slope taken at the wrong place: order 1."""
    errors = []
    for number in (10, 20, 40, 80):
        sigmas, x_T, states = karras_sigmas(PAPER, number), normal(64)[:, None], []
        heun_sample(
            gaussian(),
            x_T,
            sigmas=sigmas,
            clip_x_0=False,
            on_step=lambda remaining, x_t, x_0_hat, states=states: states.append(x_t),
        )
        exact = flow(sigmas[0] * x_T, sigmas[0], sigmas[-1])
        errors.append(float((state(states[-2], sigmas[-1]) - exact).abs().max()))
    assert errors[-1] < 1e-2
    assert all(1.7 < order < 2.5 for order in orders(errors)), orders(errors)


@pytest.mark.parametrize("s_churn", [0.0, 5.0, 40.0])
def test_churn_does_not_change_what_is_drawn(s_churn):
    """Catches noise that sigma does not account for: the spread of the images must not move.

    The sampler is linear here: row 0 sees no noise, row k only that of step k - 1, the last row
    only x_T, and the variance of x_0 is the sum of squares.
    """
    number = 80
    x_T = torch.zeros(number + 2, 1, dtype=torch.float64)
    x_T[-1] = 1.0
    x_0 = heun_sample(
        gaussian(),
        x_T,
        sigmas=karras_sigmas(PAPER, number),
        churn=Churn(S_churn=s_churn),
        noise=lambda step: (torch.arange(number + 2) == step + 1).double()[:, None],
        clip_x_0=False,
    )
    assert float(x_0[0]) == pytest.approx(0.3, abs=0.01)
    assert float((x_0[1:] - x_0[0]).square().sum()) == pytest.approx(SPREAD**2, rel=0.04)


def test_an_oracle_finds_the_image_through_any_churn():
    """Catches an image that keeps some of the noise that was put back."""
    x_0 = normal(2, 5).clamp(-1, 1)
    ours = heun_sample(
        oracle(PAPER, x_0),
        normal(2, 5, seed=1),
        sigmas=karras_sigmas(PAPER, 7),
        churn=Churn(S_churn=10.0),
        noise=draws,
    )
    torch.testing.assert_close(ours, x_0)


def test_churn_without_a_meaning_is_refused():
    """Catches noise left out quietly, and the root of a negative variance."""
    with pytest.raises(ConfigError, match="give `noise`, or S_churn=0"):
        heun_sample(toy(), normal(2, 5), sigmas=[1.0], churn=Churn(S_churn=1.0))
    with pytest.raises(ConfigError, match="must be at least 0"):
        Churn(S_churn=-1.0)
    with pytest.raises(ConfigError, match="must be at least 0"):
        Churn(S_noise=-1.0)
