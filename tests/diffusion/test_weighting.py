"""Weights of L_simple by the signal-to-noise ratio, against the papers' formulas."""

import pytest
import torch

from ddpm_core.diffusion.objective import Objective, snr_weight
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.process import predict_eps, predict_v
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, SHORT, normal
from tests.diffusion.objectives import PREDICTIONS, noised_levels, output_for


@pytest.fixture
def given():
    return noised_levels()


def weights(weighting, prediction, schedule=PAPER, **settings):
    """Return the weight at every step of the chain."""
    return snr_weight(schedule.snr, weighting, prediction, **settings)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_min_snr_weights_are_those_of_the_paper(prediction):
    """Catches a maximum, gamma for 1/gamma, and eps's weights for x_0 or v. Hang et al., 3.4."""
    snr = PAPER.alphas_cumprod / (1 - PAPER.alphas_cumprod)
    low = torch.minimum(snr, torch.full_like(snr, 5.0))
    expected = {"eps": low / snr, "x_0": low, "v": low / (snr + 1)}[prediction]
    found = weights("min_snr", prediction)
    torch.testing.assert_close(found, expected)
    low = torch.minimum(snr, torch.full_like(snr, 2.0))
    expected = {"eps": low / snr, "x_0": low, "v": low / (snr + 1)}[prediction]
    found = weights("min_snr", prediction, min_snr_gamma=2.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("gamma", "k"), [(1.0, 1.0), (0.5, 1.0), (1.0, 3.0), (0.0, 1.0)])
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_p2_weights_are_those_of_the_paper(prediction, gamma, k):
    """Catches a sum of powers and a missing exponent. Choi et al., eq. 8, for the error of eps."""
    snr = PAPER.alphas_cumprod / (1 - PAPER.alphas_cumprod)
    ratio = {"eps": 1, "x_0": snr, "v": snr / (1 + snr)}[prediction]
    found = weights("p2", prediction, p2_gamma=gamma, p2_k=k)
    torch.testing.assert_close(found, ratio / (k + snr) ** gamma)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_no_weighting_is_1_for_all(prediction):
    """Catches a conversion to the error of eps where none is configured."""
    found = weights("none", prediction)
    assert torch.equal(found, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weighted_losses_do_not_depend_on_what_is_predicted(weighting, given):
    """Catches weights for another parameterisation: the same x_0_hat costs the same, said as eps,
    as x_0 or as v.
    """
    x_0, x_t, t, eps = given
    x_0_hat = normal(50, 3, 4, seed=5)
    eps_hat = predict_eps(SHORT, x_t, t, x_0_hat)
    outputs = {"eps": eps_hat, "x_0": x_0_hat, "v": predict_v(SHORT, x_0_hat, t, eps_hat)}
    losses = [
        Objective(SHORT, prediction, weighting=weighting).losses(output, x_0, x_t, t, eps)
        for prediction, output in outputs.items()
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-9, atol=1e-12)
    plain = Objective(SHORT).losses(eps_hat, x_0, x_t, t, eps)
    assert float((losses[0] / plain).min()) < 0.5


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_settings_of_the_weights_reach_them_and_in_l_hybrid_the_bound_has_none(weighting, given):
    """Catches a gamma that is ignored, and a weight on the whole of L_hybrid."""
    x_0, x_t, t, eps = given
    settings = {"min_snr_gamma": 0.7, "p2_gamma": 0.3, "p2_k": 4.0}
    expected = weights(weighting, "v", SHORT, **settings)
    output = output_for("learned")
    losses, bound, simple = (
        Objective(SHORT, "v", variance, loss, weight, **settings).losses(made, x_0, x_t, t, eps)
        for variance, loss, weight, made in (
            ("learned", "hybrid", weighting, output),
            ("learned", "vlb", "none", output),
            ("fixed_large", "simple", "none", output[:, :3]),
        )
    )
    torch.testing.assert_close(losses, expected * simple + 0.05 * bound)


@pytest.mark.parametrize("prediction", ["x_0", "v"])
@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weights_are_finite_where_there_is_no_signal_left(weighting, prediction):
    """Catches 0/0 at the end of a chain that ends in pure noise: there the error of x_0 weighs
    nothing.
    """
    pure = make_schedule(zero_terminal_snr(make_betas("linear", 50)))
    found = weights(weighting, prediction, pure)
    assert bool(found.isfinite().all())
    assert float(found[-1]) == 0


def test_a_weight_of_the_mean_of_x_prev_is_refused():
    """Catches eps's weights for an error that has weights of its own."""
    with pytest.raises(ConfigError, match=r"stated for eps, x_0 and v.*weighting=none"):
        weights("min_snr", "x_prev")
