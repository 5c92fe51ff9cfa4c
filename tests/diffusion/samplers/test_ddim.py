"""DDIM against diffusers, against the exact flow of normal images, and back to where it began."""

import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, SHORT, normal, oracle
from tests.diffusion.samplers.oracles import scheduler_of
from tests.diffusion.samplers.toys import MEAN, SPREAD, Toy, flow, gaussian, orders, toy

FEW = choose_timesteps("leading", 1000, 10)
TYPES = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}


def draws(step):
    return normal(2, 5, seed=100 + step)


def theirs_of(prediction, clip, eta):
    """Return x_0 of diffusers' scheduler after ten steps."""
    scheduler = scheduler_of(
        "DDIMScheduler", PAPER, clip_sample=clip, prediction_type=TYPES[prediction]
    )
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(10)
    network, x_t = Toy(PAPER), normal(2, 5)
    for number, t in zip(range(9, -1, -1), scheduler.timesteps.tolist(), strict=True):
        output = network(x_t, torch.full((2,), t))
        x_t = scheduler.step(
            output,
            t,
            x_t,
            eta=eta,
            use_clipped_model_output=True,
            variance_noise=draws(number) if eta > 0 else None,
        ).prev_sample
    return x_t


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction", TYPES)
def test_ddim_is_that_of_diffusers(prediction, eta, clip):
    """Catches a wrong coefficient, a noise not worked out anew after clipping, a wrong end."""
    few = respaced(toy(prediction=prediction), FEW)
    ours = ddim_sample(few, normal(2, 5), eta=eta, noise=draws, clip_x_0=clip)
    torch.testing.assert_close(ours, theirs_of(prediction, clip, eta), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clip", [True, False])
def test_eta_1_is_ancestral_sampling_with_the_small_variance(clip):
    """Catches an eta that scales the variance instead of the deviation, or another variance."""
    denoiser = NetworkDenoiser(Toy(SHORT), SHORT, variance="fixed_small")
    ours = ddim_sample(denoiser, normal(2, 5), eta=1.0, noise=draws, clip_x_0=clip)
    ancestral = ddpm_sample(denoiser, normal(2, 5), noise=draws, clip_x_0=clip)
    torch.testing.assert_close(ours, ancestral, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_marginals_are_those_of_the_forward_process(eta):
    """Catches noise added without taking as much of the predicted noise away.

    For one known image, x_t is normal around sqrt(abar_t) x_0 with variance 1 - abar_t, for any
    eta: three rows of the batch give the mean and how x_T and each step's noise come through.
    """
    few, numbers = respaced(oracle(PAPER, torch.full((11, 1), 0.4).double()), FEW), range(9, 0, -1)
    seen = {}
    start = few.path.alphas_cumprod[-1]
    x_T = torch.zeros(11, 1, dtype=torch.float64)
    x_T[10] = (1 - start).sqrt()
    ddim_sample(
        few,
        x_T + start.sqrt() * 0.4,
        eta=eta,
        noise=lambda step: (torch.arange(11) == step).double()[:, None],
        clip_x_0=False,
        on_step=lambda t, x_t, _: seen.update({t: x_t.flatten()}),
    )
    for number in numbers:
        abar = few.path.alphas_cumprod[number - 1]
        mean, moved = seen[number][0], seen[number][1:] - seen[number][0]
        torch.testing.assert_close(mean, 0.4 * abar.sqrt())
        torch.testing.assert_close(moved.square().sum(), 1 - abar)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "quadratic"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_oracle_finds_the_image_in_any_steps(spacing, eta):
    """Catches an abar before the first step that is not 1: the image would keep its noise."""
    x_0, steps = normal(2, 5).clamp(-1, 1), choose_timesteps(spacing, 1000, 7)
    x_T = q_sample(PAPER, x_0, torch.full((2,), steps[-1]), normal(2, 5, seed=1))
    ours = ddim_sample(respaced(oracle(PAPER, x_0), steps), x_T, eta=eta, noise=draws)
    torch.testing.assert_close(ours, x_0)


def error_of(steps):
    """Return how far DDIM is from the exact flow of normal images."""
    sigma = float((1 / PAPER.alphas_cumprod[steps[-1]] - 1).sqrt())
    x_T = normal(64)[:, None]
    exact = flow(x_T * math.hypot(1, sigma), sigma, 0)
    ours = ddim_sample(respaced(gaussian(), steps), x_T, clip_x_0=False)
    return float((ours - exact).abs().max())


@pytest.mark.usefixtures("shapes_unchecked")
def test_ddim_converges_with_order_1():
    """Catches what looks like DDIM, but solves another equation or does not converge."""
    errors = [error_of(choose_timesteps("trailing", 1000, 25 * 2**k)) for k in range(4)]
    assert errors[-1] < 0.03
    assert all(0.85 < order < 1.15 for order in orders(errors)), orders(errors)


def test_quadratic_steps_serve_better_than_uniform_ones():
    """Catches squares taken from the noisy end; both begin at t = T-1, unlike `leading`."""
    uniform, squares = (choose_timesteps(name, 1000, 20) for name in ("linspace", "quadratic"))
    assert error_of(squares) < 0.7 * error_of(uniform)


def test_encoding_is_that_of_diffusers():
    """Catches a wrong coefficient of a step backwards, and a wrong beginning at abar = 1.

    Their scheduler gets the network's output, and not the time at which it was evaluated.
    Its users ask at the step's end, of an image with the noise of its beginning; we ask at its
    beginning, as the paper does.
    """
    scheduler = scheduler_of("DDIMInverseScheduler", PAPER, clip_sample=False)
    scheduler.initial_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(10)
    network, x_0 = Toy(PAPER), normal(2, 5).clamp(-1, 1)
    x_t, eps = x_0, network(PAPER.alphas_cumprod[0].sqrt() * x_0, torch.zeros(2))
    for t in scheduler.timesteps.tolist():
        x_t = scheduler.step(eps, t, x_t).prev_sample
        eps = network(x_t, torch.full((2,), t))
    few, seen = respaced(toy(), FEW), []
    ours = ddim_encode(few, x_0, on_step=lambda t, x_t, x_0_hat: seen.append(t))
    torch.testing.assert_close(ours, x_t, rtol=1e-8, atol=1e-8)
    assert seen == list(range(10))
    assert few.denoiser.network.called_at == [0, *FEW[:-1]]


def encoded_and_back(denoiser, steps, x_0):
    few = respaced(denoiser, steps)
    x_T = ddim_encode(few, x_0)
    return x_T, ddim_sample(few, x_T, clip_x_0=False)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.usefixtures("shapes_unchecked")
def test_the_way_there_and_back_ends_nearer_to_its_beginning_the_more_steps_it_has(prediction):
    """Catches an encoder that is not the decoder's inverse in the limit, for any prediction."""
    x_0, errors = MEAN + SPREAD * normal(64)[:, None], []
    for number in (100, 200, 400, 800):
        _, back = encoded_and_back(
            gaussian(prediction=prediction), choose_timesteps("trailing", 1000, number), x_0
        )
        errors.append(float((back - x_0).abs().max()))
    assert errors[-1] < 0.05
    assert all(0.85 < order < 1.15 for order in orders(errors)), orders(errors)


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_encoded_image_is_where_the_exact_flow_leads():
    """Catches an encoder and a decoder that undo each other and are both wrong."""
    x_0 = MEAN + SPREAD * normal(64)[:, None]
    sigma = float((1 / PAPER.alphas_cumprod[-1] - 1).sqrt())
    exact, errors = flow(x_0, 0, sigma) / math.hypot(1, sigma), []
    for number in (125, 250, 500, 1000):
        x_T, _ = encoded_and_back(gaussian(), choose_timesteps("trailing", 1000, number), x_0)
        errors.append(float((x_T - exact).abs().max()))
    assert errors[-1] < 0.05
    assert all(0.85 < order < 1.15 for order in orders(errors)), orders(errors)


@pytest.mark.parametrize("prediction", ["x_0", "v"])
@pytest.mark.usefixtures("shapes_unchecked")
def test_a_chain_that_ends_in_pure_noise_is_sampled_and_encoded(prediction):
    """Catches a division by sqrt(abar_T) = 0."""
    schedule = make_schedule(zero_terminal_snr(make_betas("linear", 200)))
    x_0 = MEAN + SPREAD * normal(64)[:, None]
    x_T, back = encoded_and_back(gaussian(schedule, prediction), list(range(200)), x_0)
    torch.testing.assert_close(back, x_0, rtol=0, atol=0.05)
    torch.testing.assert_close(x_T, (x_0 - MEAN) / SPREAD, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("eta", "noise", "message"),
    [
        (-0.1, draws, "must be in 0 ... 1"),
        (1.1, draws, "must be in 0 ... 1"),
        (0.5, None, "give `noise`, or eta=0"),
    ],
)
def test_an_eta_without_a_meaning_is_refused(eta, noise, message):
    """Catches noise left out quietly, and the root of a negative variance."""
    with pytest.raises(ConfigError, match=message):
        ddim_sample(toy(SHORT), normal(2, 5), eta=eta, noise=noise)


def test_noise_is_drawn_for_each_step_but_the_last():
    """Catches noise in the finished image, and a draw where eta = 0 needs none."""
    drawn = []

    def noise(step):
        drawn.append(step)
        return draws(step)

    ddim_sample(toy(SHORT), normal(2, 5), eta=0.0, noise=noise)
    assert drawn == []
    ddim_sample(toy(SHORT), normal(2, 5), eta=0.1, noise=noise)
    assert drawn == list(range(49, 0, -1))
