"""The denoiser: the same answers whatever the network predicts."""

import pytest
import torch

from ddpm_core.diffusion.choices import is_learned
from ddpm_core.diffusion.denoiser import NetworkDenoiser, at_sigma
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.sigma import sigma_at
from ddpm_core.diffusion.process import (
    predict_eps,
    predict_v,
    predict_x_0,
    q_sample,
    score_from_eps,
)
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, SHORT, every_t, normal
from tests.diffusion.objectives import PREDICTIONS, VARIANCES, knowing, saying

FORMS = ("x_0", "eps", "v", "velocity", "score", "log_variance")
PURE = make_schedule(zero_terminal_snr(make_betas("linear", 50)))


@pytest.fixture
def noised():
    """(x_0, eps, x_t, t): an image and its noise at every step of the paper's chain."""
    t = every_t(PAPER)
    x_0, eps = normal(1000, 2, 3, seed=1), normal(1000, 2, 3, seed=2)
    return x_0, eps, q_sample(PAPER, x_0, t, eps), t


# -- eps, x_0, v and score -----------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_gives_its_answer_in_every_form(prediction, variance, noised):
    """Catches an output read as something else, in each of the 4 x 4 ways to train a network, and
    the second half of the channels taken for the first.
    """
    x_0, eps, x_t, t = noised
    denoiser = knowing(PAPER, x_0, prediction, variance, spread=normal(1000, 2, 3, seed=3))
    # An x_{t-1} says x_0 to 1e-16 times 7,800, and of that eps is 1/0.01 at t = 0.
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(denoiser.predict(x_t, t).x_0, x_0, **close)
    torch.testing.assert_close(denoiser.predict(x_t, t).eps, eps, **close)
    torch.testing.assert_close(denoiser.predict(x_t, t).v, predict_v(PAPER, x_0, t, eps), **close)
    # The score is eps times up to 100.
    torch.testing.assert_close(
        denoiser.predict(x_t, t).score, score_from_eps(PAPER, eps, t), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_answers_between_two_steps_belong_together(prediction):
    """Catches a rounded time: between the steps too, x_t = signal x_0 + noise eps."""
    t = torch.tensor([0.0, 0.25, 10.5, 700.75, 999.0], dtype=torch.float64)
    x_t, x_0 = normal(5, 4, seed=1), normal(5, 4, seed=2)
    denoiser = knowing(PAPER, x_0, prediction)
    sigma = sigma_at(PAPER, t)[:, None]
    signal, noise = (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(denoiser.predict(x_t, t).x_0, x_0, **close)
    eps = denoiser.predict(x_t, t).eps
    torch.testing.assert_close(signal * x_0 + noise * eps, x_t, **close)
    torch.testing.assert_close(denoiser.predict(x_t, t).v, signal * eps - noise * x_0, **close)
    torch.testing.assert_close(denoiser.predict(x_t, t).score, -eps / noise, **close)


def test_a_mean_between_two_steps_is_refused():
    """Catches an x_{t-1} of t = 3.5, which does not exist."""
    denoiser = saying(normal(2, 3), prediction="x_prev")
    with pytest.raises(ConfigError, match=r"whole steps only.*ancestral"):
        _ = denoiser.predict(normal(2, 3), torch.tensor([3.5, 4.0])).eps


@pytest.mark.parametrize("prediction", ["x_0", "v", "x_prev"])
def test_a_chain_that_ends_in_pure_noise_is_answered_at_its_end(prediction):
    """Catches 0/0 at the last step: there x_0 does not follow from eps."""
    t = every_t(PURE)
    x_0, eps = normal(50, 3, seed=1), normal(50, 3, seed=2)
    x_t = q_sample(PURE, x_0, t, eps)
    denoiser = knowing(PURE, x_0, prediction)
    torch.testing.assert_close(denoiser.predict(x_t, t).x_0, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoiser.predict(x_t, t).eps, eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoiser.predict(x_t, t).v[-1], -x_0[-1], rtol=1e-9, atol=1e-9)
    step = denoiser.predict(x_t, t).reverse(clip_x_0=False)
    assert all(bool(part.isfinite().all()) for part in step)


@pytest.mark.parametrize("schedule", [PURE, make_schedule(make_betas("jsd", 50))])
def test_eps_is_refused_where_the_chain_ends_in_pure_noise(schedule):
    """Catches an x_0 that is infinite at the first step of sampling."""
    with pytest.raises(ConfigError, match=r"prediction=eps.*pure noise.*predict v or x_0"):
        NetworkDenoiser(lambda x_t, t: x_t, schedule)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_outputs_in_bfloat16_are_computed_with_in_float32(prediction):
    """Catches an x_0 with two digits, and a float64 state rounded by what the network returns."""
    for given, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        x_t, t = normal(2, 4, seed=1).to(given), torch.tensor([3, 40])
        output = normal(2, 4, seed=2).bfloat16()
        denoiser = saying(output, SHORT, prediction)
        exact = saying(output.double(), SHORT, prediction)
        for form in FORMS[:-1]:
            found = getattr(denoiser.predict(x_t, t), form)
            assert found.dtype == expected
            wanted = getattr(exact.predict(x_t.double(), t), form)
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
        step = denoiser.predict(x_t, t).reverse(clip_x_0=True)
        assert {part.dtype for part in step} == {expected}


def test_the_network_is_called_once_for_all_forms():
    """Catches a form that costs another pass through the network, and one computed twice."""
    calls = []

    def network(x_t, t):
        calls.append(t)
        return x_t

    for prediction in PREDICTIONS:
        denoiser = NetworkDenoiser(network, SHORT, prediction)
        x_t, t = normal(1, 3), torch.tensor([7])
        calls.clear()
        predicted = denoiser.predict(x_t, t)
        forms = [getattr(predicted, form) for form in FORMS]
        predicted.reverse(clip_x_0=True)
        assert len(calls) == 1
        again = [getattr(predicted, form) for form in FORMS]
        assert all(one is other for one, other in zip(forms, again, strict=True))


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_nothing_waits_for_the_device(prediction, variance):
    """Catches a number read back from a tensor, which on a GPU would stop the queue at each step;
    tensors of the meta device have no numbers to read.
    """
    output = torch.empty(4, 6 if is_learned(variance) else 3, 5, device="meta")
    denoiser = saying(output, PAPER, prediction, variance)
    x_t = torch.empty(4, 3, 5, device="meta")
    t = torch.empty(4, dtype=torch.int64, device="meta")
    for form in FORMS[:-1]:
        assert getattr(denoiser.predict(x_t, t), form).shape == (4, 3, 5)
    step = denoiser.predict(x_t, t).reverse(clip_x_0=True)
    assert step.mean.shape == (4, 3, 5)


# -- at sigma ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_at_sigma_is_karras_denoiser(prediction):
    """Catches a network that is given x unscaled, a wrong time, and a D that is not an image.

    D(x; sigma) = x - sigma F(x / sqrt(1 + sigma^2); t(sigma)) for a network F of eps: the
    preconditioning of table 1 for the variance preserving models, c_skip = 1.
    """
    sigma = torch.tensor([0.0101, 0.5, 1.0, 20.0, 157.0], dtype=torch.float64)
    x = normal(5, 3, seed=1) * (1 + sigma[:, None])
    asked = []

    def network(x_t, t):
        asked.append((x_t, t))
        return 0.3 * x_t.sin() + 0.1 * (t / 1000)[:, None]

    denoiser = NetworkDenoiser(network, PAPER, prediction)
    found = at_sigma(denoiser, x, sigma)
    ((x_t, t),) = asked
    torch.testing.assert_close(x_t, x / (1 + sigma[:, None] ** 2).sqrt())
    torch.testing.assert_close(sigma_at(PAPER, t), sigma)
    if prediction == "eps":
        torch.testing.assert_close(found, x - sigma[:, None] * network(x_t, t))
    torch.testing.assert_close(found, denoiser.predict(x_t, t).x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_at_sigma_of_a_perfect_network_is_the_image(prediction):
    """Catches an input scaled by another factor than sqrt(abar_t)."""
    sigma = sigma_at(PAPER, torch.tensor([0, 1, 500, 999]))
    x_0, eps = normal(4, 6, seed=1), normal(4, 6, seed=2)
    x = x_0 + sigma[:, None] * eps
    denoiser = knowing(PAPER, x_0, prediction)
    torch.testing.assert_close(at_sigma(denoiser, x, sigma), x_0, rtol=1e-8, atol=1e-8)
    single = at_sigma(denoiser, x.float(), sigma)
    assert single.dtype == torch.float32


def test_at_sigma_beyond_the_chain_is_evaluated_at_its_end():
    """Catches a time outside 0...T-1, where the network was never trained, and a D that leaves x
    where there is no noise any more.
    """
    times = []

    def network(x_t, t):
        times.append(t)
        return torch.ones_like(x_t)

    sigma = torch.tensor([1e-4, 1e4], dtype=torch.float64)
    x = normal(2, 3)
    found = at_sigma(NetworkDenoiser(network, PAPER), x, sigma)
    assert times[0].tolist() == [0, 999]
    torch.testing.assert_close(found, x - sigma[:, None])


def test_at_sigma_is_refused_where_sigma_is_infinite():
    """Catches a nan in the first step of a solver that works in sigma."""
    denoiser = saying(normal(1, 3), PURE, "v")
    with pytest.raises(ConfigError, match=r"sigma is infinite.*use ancestral"):
        at_sigma(denoiser, normal(1, 3), torch.ones(1))


def test_x_0_of_the_last_step_amplifies_errors_of_eps():
    """Catches a quotient by 1 - abar: an error of eps of 1 is one of x_0 of 157."""
    x_t, t = normal(1, 3), torch.tensor([999])
    off = saying(predict_eps(PAPER, x_t, t, x_t) + 1).predict(x_t, t).x_0
    torch.testing.assert_close(off, x_t - 157.407281, rtol=1e-6, atol=1e-6)
    exactly = predict_x_0(PAPER, x_t, t, predict_eps(PAPER, x_t, t, x_t))
    torch.testing.assert_close(exactly, x_t, rtol=1e-9, atol=1e-9)
