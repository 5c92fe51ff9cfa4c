"""The objective: which mean of what error, with which weight, in which arithmetic, moving what."""

import itertools
import math
from typing import get_args

import pytest
import torch

from ddpm_core.diffusion.choices import (
    Loss,
    Weighting,
    is_learned,
    require_possible,
)
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.likelihood import bits_per_dim, vlb_term
from ddpm_core.diffusion.objective import Objective, loss_simple, target_of
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.prediction import split_output
from ddpm_core.diffusion.process import q_posterior, q_sample
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import SHORT, every_t, normal
from tests.diffusion.objectives import (
    FIXED,
    LEARNED,
    PAIRS,
    PREDICTIONS,
    VARIANCES,
    levels,
    noised_levels,
    output_for,
)


@pytest.fixture
def given():
    return noised_levels()


@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5)])
def test_loss_simple_is_the_mean_square_of_each_image(shape):
    """Catches a sum over pixels, a mean over the batch, and an absolute instead of a square."""
    eps_hat, eps = normal(6, *shape, seed=1), normal(6, *shape, seed=2)
    expected = [float((hat - true).pow(2).mean()) for hat, true in zip(eps_hat, eps, strict=True)]
    loss = loss_simple(eps_hat, eps)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_loss_simple_of_a_net_that_returns_0_is_1():
    """Catches a factor of one half; 5 standard errors of 200,000 squares, each of variance 2."""
    eps = normal(1, 200_000)
    loss = float(loss_simple(torch.zeros_like(eps), eps))
    assert abs(loss - 1) < 5 * (2 / 200_000) ** 0.5


def test_loss_simple_of_bfloat16_is_computed_in_float32():
    """Catches a difference taken in bfloat16, with two digits."""
    eps = normal(4, 1000, dtype=torch.float32)
    eps_hat = (eps + 0.01).bfloat16()
    loss = loss_simple(eps_hat, eps)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (eps_hat.double() - eps.double()).pow(2).mean(1).float())


def test_targets_are_what_each_network_is_to_say(given):
    """Catches x_0 and eps exchanged, v of the other sign, the mean of x_t instead of x_{t-1}."""
    x_0, x_t, t, eps = given
    abar = SHORT.alphas_cumprod[:, None, None]
    expected = {
        "eps": (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt(),
        "x_0": x_0,
        "v": abar.sqrt() * eps - (1 - abar).sqrt() * x_0,
        # The mean of algorithm 2, line 4, with the true noise.
        "x_prev": (x_t - (SHORT.betas[:, None, None] / (1 - abar).sqrt()) * eps)
        / SHORT.alphas.sqrt()[:, None, None],
    }
    kept, moved = SHORT.alphas.sqrt()[:, None, None], SHORT.betas.sqrt()[:, None, None]
    expected["drift"] = (expected["x_prev"] - kept * x_t) / moved
    for prediction in PREDICTIONS:
        target = target_of(SHORT, prediction, x_0, x_t, t, eps)
        torch.testing.assert_close(target, expected[prediction])


@pytest.mark.parametrize("variance", FIXED)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_l_simple_is_the_error_of_what_is_predicted(prediction, variance, given):
    """Catches another target than the prediction's, a weight where none is configured, and a loss
    that depends on the variance.
    """
    x_0, x_t, t, eps = given
    target, error = target_of(SHORT, prediction, x_0, x_t, t, eps), normal(50, 3, 4, seed=5)
    objective = Objective(SHORT, prediction, variance)
    losses = objective.losses(target + error, x_0, x_t, t, eps)
    torch.testing.assert_close(losses, error.square().mean((1, 2)))
    assert float(objective.losses(target, x_0, x_t, t, eps).max()) < 1e-20


# -- the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_l_is_the_term_of_the_bound(prediction, variance, given):
    """Catches an x_0_hat that is clipped in training, nats for bits, and the decoder's term left
    out or at another t.
    """
    x_0, x_t, t, eps = given
    output = output_for(variance)
    losses = Objective(SHORT, prediction, variance, "vlb").losses(output, x_0, x_t, t, eps)
    denoiser = NetworkDenoiser(lambda *_: output, SHORT, prediction, variance)
    step = denoiser.predict(x_t, t).reverse(clip_x_0=False)
    torch.testing.assert_close(losses, vlb_term(SHORT, step, x_0, x_t, t))
    assert float(step.x_0_hat.abs().max()) > 1.5


def test_the_mean_of_l_over_t_times_t_is_the_bound():
    """Catches a term that is scaled: T times the mean over uniform t, and the prior, are the bound
    that the evaluation reports.
    """
    x_0 = levels(1, 5, seed=1)

    def network(x_t, t):
        return 0.9 * x_t.sin()

    denoiser = NetworkDenoiser(network, SHORT, "eps", "fixed_small")
    bound = bits_per_dim(denoiser, x_0, noise=lambda t: normal(1, 5, seed=t), clip_x_0=False)
    t, images = every_t(SHORT), x_0.expand(50, 5)
    eps = torch.cat([normal(1, 5, seed=int(one)) for one in t])
    x_t = q_sample(SHORT, images, t, eps)
    losses = Objective(SHORT, "eps", "fixed_small", "vlb").losses(
        network(x_t, t), images, x_t, t, eps
    )
    torch.testing.assert_close(losses, bound.terms[0])
    torch.testing.assert_close(50 * losses.mean() + bound.prior[0], bound.total[0])


def test_l_of_eps_is_l_simple_with_the_paper_s_weight(given):
    """Catches a divergence whose means are compared wrongly: eq. 12, but for the decoder's step."""
    x_0, x_t, t, eps = given
    eps_hat = normal(50, 3, 4, seed=5)
    losses = Objective(SHORT, "eps", "fixed_large", "vlb").losses(eps_hat, x_0, x_t, t, eps)
    same = Objective(SHORT, "eps", "fixed_large", "vlb").losses(eps, x_0, x_t, t, eps)
    beta, alpha, abar = SHORT.betas, SHORT.alphas, SHORT.alphas_cumprod
    weight = beta**2 / (2 * beta * alpha * (1 - abar)) / math.log(2)
    expected = weight * loss_simple(eps_hat, eps)
    torch.testing.assert_close((losses - same)[1:], expected[1:])


@pytest.mark.parametrize("num_timesteps", [50, 250])
@pytest.mark.parametrize("variance", LEARNED)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_l_hybrid_adds_t_thousandths_of_the_bound(prediction, variance, num_timesteps):
    """Catches a factor 1/1000 or T, and a weight on the wrong term."""
    schedule = make_schedule(make_betas("linear", num_timesteps))
    t = every_t(schedule)[:50]
    x_0, eps = levels(50, 3, 4, seed=1), normal(50, 3, 4, seed=2)
    x_t, output = q_sample(schedule, x_0, t, eps), output_for(variance)
    hybrid, bound = (
        Objective(schedule, prediction, variance, loss).losses(output, x_0, x_t, t, eps)
        for loss in ("hybrid", "vlb")
    )
    simple = loss_simple(output[:, :3], target_of(schedule, prediction, x_0, x_t, t, eps))
    torch.testing.assert_close(hybrid, simple + num_timesteps / 1000 * bound)


@pytest.mark.parametrize("variance", LEARNED)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_in_l_hybrid_the_bound_moves_the_variance_alone(prediction, variance, given):
    """Catches a bound that is not cut off from the mean, or cut off from the variance too."""
    x_0, x_t, t, eps = given
    output = output_for(variance).requires_grad_()
    gradients = {}
    for loss in ("hybrid", "vlb"):
        losses = Objective(SHORT, prediction, variance, loss).losses(output, x_0, x_t, t, eps)
        (gradient,) = torch.autograd.grad(losses.sum(), output)
        gradients[loss] = gradient.chunk(2, dim=1)
    simple = loss_simple(output[:, :3], target_of(SHORT, prediction, x_0, x_t, t, eps))
    (expected,) = torch.autograd.grad(simple.sum(), output)
    torch.testing.assert_close(gradients["hybrid"][0], expected[:, :3])
    torch.testing.assert_close(gradients["hybrid"][1], 50 / 1000 * gradients["vlb"][1])
    assert float(gradients["vlb"][0].abs().max()) > 0
    assert float(gradients["hybrid"][1].abs().max()) > 0


@pytest.mark.parametrize(("prediction", "variance", "loss"), PAIRS)
def test_every_loss_gives_finite_gradients_to_the_whole_output(prediction, variance, loss, given):
    """Catches nan from the branch that was not taken (the decoder at t > 0, the divergence at 0),
    and a half of the output that nothing trains.
    """
    x_0, x_t, t, eps = given
    output = output_for(variance).requires_grad_()
    losses = Objective(SHORT, prediction, variance, loss).losses(output, x_0, x_t, t, eps)
    assert losses.shape == (50,)
    (gradient,) = torch.autograd.grad(losses.sum(), output)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[1:].abs().sum((0, 2)) > 0).all())


# -- what does not go together -------------------------------------------------------------------


@pytest.mark.parametrize("loss", get_args(Loss))
@pytest.mark.parametrize("variance", VARIANCES)
def test_exactly_what_goes_together_is_accepted(variance, loss):
    """Catches a pair that would train nothing and is let through, and one that is refused though
    the paper trained it.
    """
    for prediction, weighting in itertools.product(PREDICTIONS, get_args(Weighting)):
        choice = (prediction, variance, loss, weighting)
        learns_nothing = loss == "simple" and is_learned(variance)
        adds_nothing = loss == "hybrid" and not is_learned(variance)
        one_step = prediction in ("x_prev", "drift")
        weighs_nothing = weighting != "none" and (loss == "vlb" or one_step)
        if learns_nothing or adds_nothing or weighs_nothing:
            with pytest.raises(ConfigError, match="use "):
                Objective(SHORT, *choice)
        else:
            Objective(SHORT, *choice)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (
            ("eps", "learned", "simple", "none"),
            "does not depend on the variance",
        ),
        (("eps", "learned_range", "simple", "none"), "use loss=hybrid or vlb, or a fixed variance"),
        (("eps", "fixed_small", "hybrid", "none"), "variance=fixed_small is fixed"),
        (("eps", "fixed_large", "vlb", "p2"), "weighting=p2 weighs L_simple"),
        (("x_prev", "fixed_large", "simple", "min_snr"), "weighting=min_snr is stated for eps"),
    ],
)
def test_a_refusal_says_why(choice, reason):
    """Catches a message that names no reason or no way out."""
    with pytest.raises(ConfigError) as caught:
        require_possible(*choice)
    assert reason in str(caught.value)


def test_eps_is_refused_where_the_chain_ends_in_pure_noise():
    """Catches a training whose samples begin with a division by 0."""
    with pytest.raises(ConfigError, match="predict v or x_0"):
        Objective(make_schedule(make_betas("jsd", 50)))
    Objective(make_schedule(make_betas("jsd", 50)), prediction="v")


# -- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("prediction", "variance", "loss"), PAIRS)
def test_outputs_in_bfloat16_are_judged_in_float32(prediction, variance, loss, given):
    """Catches a loss with two digits."""
    x_0, x_t, t, eps = (part.float() if part.is_floating_point() else part for part in given)
    output = output_for(variance).bfloat16()
    losses = Objective(SHORT, prediction, variance, loss).losses(output, x_0, x_t, t, eps)
    assert losses.dtype == torch.float32
    exact = Objective(SHORT, prediction, variance, loss).losses(output.double(), *given)
    torch.testing.assert_close(losses.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weighting", ["none", "min_snr"])
@pytest.mark.parametrize(("prediction", "variance", "loss"), PAIRS)
def test_nothing_waits_for_the_device(prediction, variance, loss, weighting):
    """Catches a number read back from a tensor, which on a GPU would stop the queue at each step;
    tensors of the meta device have no numbers to read.
    """
    if weighting != "none" and (loss == "vlb" or prediction in ("x_prev", "drift")):
        weighting = "none"
    images = torch.empty(4, 3, 5, device="meta")
    output = torch.empty(4, 6 if is_learned(variance) else 3, 5, device="meta")
    t = torch.empty(4, dtype=torch.int64, device="meta")
    objective = Objective(SHORT, prediction, variance, loss, weighting)
    losses = objective.losses(output, images, images, t, images)
    assert losses.shape == (4,)
    assert losses.device.type == "meta"


def test_the_mean_half_of_the_output_is_the_first():
    """Catches a hybrid loss that regresses the half that says the variance."""
    x_0, eps, t = levels(2, 2, 4, seed=1), normal(2, 2, 4, seed=2), torch.tensor([4, 40])
    x_t = q_sample(SHORT, x_0, t, eps)
    mean, _ = q_posterior(SHORT, x_0, x_t, t)
    output = torch.cat([mean, torch.full_like(mean, -3.0)], 1)
    value, spread = split_output(output, "learned")
    assert torch.equal(value, mean)
    assert torch.equal(spread, torch.full_like(mean, -3.0))
    losses = Objective(SHORT, "x_prev", "learned", "hybrid").losses(output, x_0, x_t, t, eps)
    bound = Objective(SHORT, "x_prev", "learned", "vlb").losses(output, x_0, x_t, t, eps)
    torch.testing.assert_close(losses, 0.05 * bound)
