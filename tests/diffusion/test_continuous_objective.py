"""Training in continuous time: times, forms of networks and losses, against closed forms."""

import math
from statistics import NormalDist

import pytest
import torch

from ddpm_core.diffusion.continuous_objective import ContinuousObjective
from ddpm_core.diffusion.path_network import ChainNetwork, Form, PathNetwork, chain_of_path
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.flow import Straight
from ddpm_core.diffusion.paths.path import ContinuousPath
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.sde import VarianceExploding, VariancePreserving
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.times import Times
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import normal
from tests.diffusion.every_path import CONTINUOUS, drift_and_diffusion, exact, published_marginal

pytestmark = pytest.mark.usefixtures("shapes_unchecked")
every_path = pytest.mark.parametrize("name", CONTINUOUS)
CHOICES = ("uniform", "log_snr", "log_normal")
QUARTER = Mixture(row(1.0), row(0.0)[:, None], row(0.5)[:, None])
"""N(0, 1/4)"""


def continuous(name) -> ContinuousPath:
    path = CONTINUOUS[name]
    assert isinstance(path, ContinuousPath)
    return path


def shares(num):
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


@every_path
def test_the_ratio_falls_as_the_source_s_equation_has_it(name):
    """Catches another sign, factor or exponent: -g**2 / noise**2 of the published equation."""
    times = row(0.01, 0.1, 0.5, 0.9)
    expected = []
    for t in times.tolist():
        _, g_squared = drift_and_diffusion(name, t)
        expected.append(-g_squared / published_marginal(name, t)[1] ** 2)
    torch.testing.assert_close(
        continuous(name).log_snr_slope(times), row(*expected), rtol=1e-9, atol=0
    )


@every_path
@pytest.mark.parametrize("choice", CHOICES)
def test_times_lie_as_densely_as_is_said(name, choice):
    """Catches a density of t for one of the log ratio, a factor of 2 for log sigma, times that do
    not rise with the share: the density is that of the shares, by their differences.
    """
    times = Times(continuous(name), choice, log_sigma_mean=0.2, log_sigma_std=0.7)
    share, step = row(0.1, 0.3, 0.5, 0.8, 0.95), 1e-5
    t = times.at(share)
    assert bool((t.diff() > 0).all())
    around = [times.path.log_snr_at(times.at(share + sign * step)) for sign in (-1, 1)]
    expected = 2 * step / (around[0] - around[1])
    torch.testing.assert_close(times.log_snr_density(t), expected, rtol=1e-4, atol=0)


def test_normal_log_sigma_on_the_line_is_logit_normal_and_edms_is_its_table():
    """Catches the wrong end of the line. Esser et al. 2024, eq. 19; Karras et al. 2022, table 1."""
    t = Times(Straight(end=0.999), "log_normal", 0.0, 1.0).at(shares(9))
    torch.testing.assert_close(t.logit(), torch.special.ndtri(shares(9)))
    edm = VarianceExploding(sigma_min=1e-6, sigma_max=1e4)  # beyond which nothing lies
    t = Times(edm, "log_normal", -1.2, 1.2).at(shares(9))
    log_sigma = edm.marginal(t)[1].log()
    torch.testing.assert_close(log_sigma, -1.2 + 1.2 * torch.special.ndtri(shares(9)))


# -- networks ----------------------------------------------------------------------------------


def test_a_network_is_given_time_and_image_in_the_form_of_its_paper():
    """Catches t of 0 to 1 to a network that embeds 0 to 1000, sigma for its logarithm, and a
    preconditioning of other coefficients: those of Karras et al. 2022, table 1, as numbers.
    """
    seen = []

    def network(x, clock):
        seen.append((x, clock))
        return 3 * torch.ones_like(x)

    x_t, t = normal(3, 2), row(0.1, 0.5, 0.9)
    vp, edm = VariancePreserving(), VarianceExploding(sigma_min=0.002, sigma_max=80.0)
    assert torch.equal(PathNetwork(network, vp, Form(time_scale=999.0))(x_t, t), 3 + 0 * x_t)
    assert torch.equal(seen[-1][0], x_t)
    torch.testing.assert_close(seen[-1][1], row(99.9, 499.5, 899.1))
    PathNetwork(network, edm, Form())(x_t, t)
    sigma = edm.marginal(t)[1]
    torch.testing.assert_close(seen[-1][1], sigma.log())

    found = PathNetwork(network, edm, Form(log_sigma_scale=0.25, sigma_data=0.5))(x_t, t)
    torch.testing.assert_close(seen[-1][1], sigma.log() / 4)
    s = sigma[:, None]
    torch.testing.assert_close(seen[-1][0], x_t / (0.25 + s**2).sqrt())
    skip, out = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt()
    torch.testing.assert_close(found, skip * x_t + out * 3)


def test_the_loss_of_a_preconditioned_network_is_that_of_the_network_inside():
    """Catches the error of the image unweighted: Karras et al. 2022, eq. 8, whose weight leaves the
    network inside the target (x_0 - c_skip x) / c_out, of variance 1 for data of variance s**2.
    """
    edm, num = VarianceExploding(sigma_min=0.002, sigma_max=80.0), 20_000
    times = Times(edm, "log_normal", -1.2, 1.2)
    t = times.at(shares(num))
    x_0, eps = 0.5 * normal(num, 1, seed=1), normal(num, 1, seed=2)
    x_t = q_sample(edm, x_0, t, eps)
    form = Form(log_sigma_scale=0.25, sigma_data=0.5)
    inside = 0.3 * normal(num, 1, seed=3)
    output = PathNetwork(lambda _, __: inside, edm, form)(x_t, t)
    sigma = edm.marginal(t)[1][:, None]
    skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    expected = ((x_0 - skip * x_t) / out - inside).square()[:, 0]
    objective = ContinuousObjective(times, "x_0", sigma_data=0.5)
    torch.testing.assert_close(objective.losses(output, x_0, x_t, t, eps), expected)
    nothing = PathNetwork(lambda x, _: torch.zeros_like(x), edm, form)(x_t, t)
    assert float(objective.losses(nothing, x_0, x_t, t, eps).mean()) == pytest.approx(1, abs=0.05)


# -- losses ------------------------------------------------------------------------------------


def test_normal_times_have_no_tails_beyond_the_path_and_so_the_bound_no_excess():
    """Catches times past an end that are moved to it and weighed as if they were rare there: of
    these 2 in 100, by which the bound is 1.7 bits too large."""
    path, num, v = Straight(end=0.999), 20_000, 0.25
    times = Times(path, "log_normal", 0.0, 3.0)
    t = times.at(shares(num))
    snr = path.log_snr_at(t).exp()
    # Of N(0, v) the exact network's mean error of eps; the weight is 1/2 over the density.
    bits = 0.5 / math.log(2) / times.log_snr_density(t) * v / (v + 1 / snr)
    start, end = (math.exp(one) for one in path.log_snr_range)
    expected = 0.5 * math.log2((1 + v * start) / (1 + v * end))
    assert float(bits.mean()) == pytest.approx(expected, rel=1e-3)


@every_path
@pytest.mark.parametrize("choice", ["log_snr", "uniform"])
@pytest.mark.parametrize("prediction", ["eps", "x_0", "velocity"])
def test_the_bound_of_exact_networks_is_what_the_noise_hides(name, choice, prediction):
    """Catches a missing half, nats for bits, weights of another prediction, importance that is not
    divided by. For N(0, 1/4) the error of eps is v / (v + 1 / snr), v = 1/4, and the bound between
    the ends is log2 sqrt((1 + v snr_start) / (1 + v snr_end)).

    Source: Kingma et al. 2021, eq. 18, integrated for a Gaussian.
    """
    path, num = continuous(name), 40_000
    if choice == "uniform":  # the integrand of the path's beginning has no variance there
        path = type(path)(start=0.05, end=0.95)
    times, data = Times(path, choice), exact(QUARTER, path, prediction)
    t = times.at(shares(num))
    x_0, eps = 0.5 * normal(num, 1, seed=1), normal(num, 1, seed=2)
    x_t = q_sample(path, x_0, t, eps)
    objective = ContinuousObjective(times, prediction, loss="vlb")
    losses = objective.losses(data.network(x_t, t), x_0, x_t, t, eps)
    high, low = (math.exp(end) for end in path.log_snr_range)
    expected = 0.5 * math.log2((1 + high / 4) / (1 + low / 4))
    error = float(losses.std()) / math.sqrt(num)
    assert error < 0.02 * expected
    assert float(losses.mean()) == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weights_by_the_ratio_do_not_depend_on_what_is_predicted(weighting):
    """Catches the weights of eps for the velocity: the same image costs the same in every form."""
    path, t = Straight(end=0.999), row(0.01, 0.2, 0.5, 0.9)
    x_0, eps, x_0_hat = normal(4, 3, seed=1), normal(4, 3, seed=2), normal(4, 3, seed=3)
    x_t = q_sample(path, x_0, t, eps)
    eps_hat = (x_t - (1 - t[:, None]) * x_0_hat) / t[:, None]
    outputs = {"eps": eps_hat, "x_0": x_0_hat, "velocity": eps_hat - x_0_hat}
    first, *others = (
        ContinuousObjective(Times(path), kind, weighting=weighting).losses(output, x_0, x_t, t, eps)
        for kind, output in outputs.items()
    )
    for other in others:
        torch.testing.assert_close(other, first)
    plain = ContinuousObjective(Times(path), "velocity").losses(
        outputs["velocity"], x_0, x_t, t, eps
    )
    torch.testing.assert_close(plain, (eps_hat - x_0_hat - eps + x_0).square().mean(1))


def test_a_loss_without_meaning_is_refused():
    """Catches hybrid, which would be L_simple under another name."""
    with pytest.raises(ConfigError, match="fixed"):
        ContinuousObjective(Times(VariancePreserving()), "eps", loss="hybrid")


# -- chains ------------------------------------------------------------------------------------


@every_path
def test_the_network_on_a_chain_is_the_network_of_the_path(name):
    """Catches an x_t that is not scaled to the path's, and a time between two steps of the chain
    that is another ratio's: the exact network predicts the same image on both.
    """
    path = continuous(name)
    chain = chain_of_path(path, 50)
    on_path = exact(QUARTER, path)
    network = ChainNetwork(on_path.network, path, chain)
    t = row(0.0, 3.0, 20.5, 49.0)
    time, sigma = path.time_at(chain.log_snr_at(t)), (-0.5 * chain.log_snr_at(t)).exp()[:, None]
    x = normal(4, 1) * (0.25 + sigma**2).sqrt()
    expected = on_path.predict(x * path.signal_at_sigma(sigma[:, 0])[:, None], time).eps
    torch.testing.assert_close(network(x / (1 + sigma**2).sqrt(), t), expected)
    torch.testing.assert_close(expected, x * sigma / (0.25 + sigma**2), rtol=1e-6, atol=1e-9)


def test_the_chain_of_vp_is_nearly_the_papers():
    """Catches a chain that begins at the path's beginning, or leaves out its end."""
    chain = chain_of_path(VariancePreserving(), 1000)
    paper = make_schedule(make_betas("linear", 1000))
    assert float(chain.alphas_cumprod[-1]) == pytest.approx(math.exp(-10.05), rel=1e-9)
    torch.testing.assert_close(chain.betas[1:], paper.betas[1:], rtol=0.1, atol=0)
    assert chain_of_path(VarianceExploding(), 3).num_timesteps == 3


def test_a_chain_has_its_steps_where_the_training_has_its_times():
    """Catches equal distances all the same, a chain that ends where its last step begins, shares
    of log_snr, which falls, for those of sigma: on the straight line log sigma are quantiles of
    N(-1, 1/4), and the last is the path's end.
    """
    line, count = Straight(end=0.999), 40
    times = Times(line, "log_normal", log_sigma_mean=-1.0, log_sigma_std=0.5)
    chain = chain_of_path(line, count, times)
    log_sigma = -0.5 * chain.log_snr_at(torch.arange(count))
    normal = NormalDist(-1.0, 0.5)
    expected = [normal.inv_cdf((step + 1) / count) for step in range(count - 1)]
    torch.testing.assert_close(log_sigma[:-1], torch.tensor(expected, dtype=torch.float64))
    assert float(log_sigma[-1]) == pytest.approx(math.log(999), rel=1e-6)
