"""The diffusion classifier against the exact posterior, and what a label is worth."""

import math

import pytest
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.classification import (
    class_errors,
    class_log_probabilities,
    label_worth,
)
from ddpm_core.diffusion.measures.likelihood import bits_per_dim
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Mixture, quadrature, row
from tests.diffusion.chains import SHORT, normal
from tests.diffusion.objectives import PREDICTIONS, knowing, levels

WEIGHTS, MEANS, STDS = row(0.3, 0.7), row(-0.35, 0.25)[:, None], row(0.2, 0.3)[:, None]
DATA = Mixture(WEIGHTS, MEANS, STDS)
CLASSES = [Mixture(row(1.0), MEANS[[k]], STDS[[k]]) for k in (0, 1)]


ENTROPY = -float((WEIGHTS * WEIGHTS.log2()).sum())


def _information() -> float:
    """Return I(x; c) = H(c) - E H(c | x) in bits, by sums over a fine grid."""
    grid = torch.linspace(-3, 3, 20_001, dtype=torch.float64)[:, None]
    zeros = torch.zeros(len(grid), dtype=torch.float64)
    joint = torch.stack([one.log_density_at_sigma(grid, zeros) for one in CLASSES], dim=1)
    joint = joint + WEIGHTS.log()
    left = -(joint.exp() * joint.log_softmax(1)).sum(1) * (6 / 20_000)
    return ENTROPY - float(left.sum()) / math.log(2)


INFORMATION = _information()


def denoisers(schedule, prediction="eps"):
    return [one.denoiser(schedule, prediction=prediction) for one in CLASSES]


def with_exact_variance(k):
    """Return the denoiser of class k whose reverse steps are q(x_{t-1} | x_t) itself.

    The images of a class are Gaussian, and so are these: the bound is the likelihood.
    """
    abar = SHORT.alphas_cumprod
    unknown = 1 / (1 / float(STDS[k]) ** 2 + abar / (1 - abar))
    log_variance = (SHORT.posterior_variance + SHORT.coef_x_0.square() * unknown).log()

    def network(x_t, t):
        return torch.cat([CLASSES[k].eps(SHORT, x_t, t), log_variance[t][:, None]], dim=1)

    return NetworkDenoiser(network, SHORT, "eps", "learned")


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_probabilities_are_those_of_the_exact_posterior():
    """Catches a bound that is per dimension or in bits where nats are meant, and a lost term.

    The exact reverse steps of both classes, the noise by quadrature: what is left is the decoder's
    tanh and the little signal that the chain leaves.
    """
    x_0 = (torch.tensor([60, 90, 110, 120, 130, 150]).double() / 127.5 - 1)[:, None]
    nodes, weights = quadrature(12)
    found = class_errors(
        [with_exact_variance(0), with_exact_variance(1)],
        x_0.repeat_interleave(12, dim=0),
        times=range(50),
        noise=lambda _: nodes.repeat(6)[:, None],
        clip_x_0=False,
    )
    bits = (found.bits.reshape(6, 12, 2) * weights[:, None]).sum(1)
    zero = torch.zeros(6, dtype=torch.float64)
    log_p = torch.stack([one.log_density_at_sigma(x_0, zero) for one in CLASSES], dim=1)
    expected = (log_p + WEIGHTS.log()).softmax(1)
    assert float(expected[:, 0].min()) < 0.1
    assert float(expected[:, 0].max()) > 0.8
    got = class_log_probabilities(bits, 1, WEIGHTS.log()).exp()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
    alike = class_log_probabilities(bits, 1).exp()
    torch.testing.assert_close(alike, log_p.softmax(1), rtol=0, atol=1e-3)
    # Of an image of six values that are each other's copies, six times the evidence.
    six = class_log_probabilities(bits, 6, WEIGHTS.log()).exp()
    torch.testing.assert_close(six, (6 * log_p + WEIGHTS.log()).softmax(1), rtol=0, atol=3e-3)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_times_give_the_bound_and_the_error_of_eps_by_hand(prediction):
    """Catches noise that differs between the classes, and an error of another form than eps."""
    x_0 = levels(4, 3)

    def noise(draw):
        return normal(4, 3, seed=draw)

    found = class_errors(denoisers(SHORT, prediction), x_0, times=range(50), noise=noise)
    for column, one in enumerate(denoisers(SHORT, prediction)):
        expected = bits_per_dim(one, x_0, noise=noise).total
        torch.testing.assert_close(found.bits[:, column], expected)
        error = torch.zeros(4, dtype=torch.float64)
        for t in range(50):
            abar = SHORT.alphas_cumprod[t]
            x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise(t)
            eps = CLASSES[column].eps(SHORT, x_t, torch.full((4,), t))
            error += (eps - noise(t)).square().mean(1) / 50
        torch.testing.assert_close(found.eps[:, column], error)


def test_the_class_is_that_of_the_least_error_by_few_times():
    """Catches the largest error, and times that are not those that were given."""
    x_0, others = levels(6, 2, 3, seed=1), levels(6, 2, 3, seed=2)
    asked = []

    def noise(draw):
        asked.append(draw)
        return normal(6, 2, 3, seed=draw)

    # Denoiser 0 knows the first three images, denoiser 1 the others.
    known = [torch.cat([x_0[:3], others[3:]]), torch.cat([others[:3], x_0[3:]])]
    both = [knowing(SHORT, images, "eps") for images in known]
    found = class_errors(both, x_0, times=[5, 20, 35], noise=noise)
    assert asked == [0, 1, 2]
    assert found.classes.tolist() == [0, 0, 0, 1, 1, 1]
    assert float(found.eps.min(dim=1).values.max()) < 1e-12
    assert class_log_probabilities(found.bits, 6).argmax(dim=1).tolist() == [0, 0, 0, 1, 1, 1]


def test_what_cannot_be_compared_is_refused():
    """Catches classes on different chains, and a mean over nothing."""
    x_0, options = levels(2, 3), {"noise": lambda _: normal(2, 3)}
    with pytest.raises(ConfigError, match="at least one class and one time"):
        class_errors([], x_0, times=[1], **options)
    with pytest.raises(ConfigError, match="at least one class and one time"):
        class_errors(denoisers(SHORT), x_0, times=[], **options)
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.\.49"):
        class_errors(denoisers(SHORT), x_0, times=[3, 50], **options)
    apart = [denoisers(SHORT)[0], denoisers(make_schedule(make_betas("linear", 60)))[1]]
    with pytest.raises(ConfigError, match="cannot be combined"):
        class_errors(apart, x_0, times=[3], **options)
    with pytest.raises(ConfigError, match="at least two images; there are 1"):
        label_worth(row(1.0), row(0.5), 3, torch.tensor([0]))


def test_the_label_is_worth_the_mutual_information():
    """Catches bits/dim for bits, a sign, and an entropy in nats: of exact densities."""
    num, dims = 4000, 1
    x_0 = DATA.draw(num, seed=3)
    generator = torch.Generator().manual_seed(3)
    labels = torch.multinomial(WEIGHTS, num, replacement=True, generator=generator)
    zero = torch.zeros(num, dtype=torch.float64)
    log_given = torch.stack([one.log_density_at_sigma(x_0, zero) for one in CLASSES], dim=1)
    bits = -DATA.log_density_at_sigma(x_0, zero) / math.log(2)
    given = -log_given.gather(1, labels[:, None])[:, 0] / math.log(2)
    worth = label_worth(bits, given, dims, labels)
    assert worth.bits == pytest.approx(INFORMATION, abs=4 * worth.standard_error)
    assert worth.standard_error == pytest.approx(float((bits - given).std()) / num**0.5)
    assert worth.entropy == pytest.approx(ENTROPY, abs=0.02)
    assert worth.bits < worth.entropy
    # The same bits of an image of twelve values; a label that nobody has costs nothing.
    many = label_worth(bits / 12, given / 12, 12, torch.where(labels == 1, 7, 2))
    assert (many.bits, many.entropy) == pytest.approx((worth.bits, worth.entropy))


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_label_is_worth_what_both_bounds_of_one_network_say():
    """Catches labels that are not those of the images, and a null that is one of the classes.

    One network, given the label or nothing, with the same noise: the bounds' distances from the
    truth nearly cancel.
    """
    num = 600
    x_0 = (DATA.draw(num, seed=3).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    labels = torch.multinomial(
        WEIGHTS, num, replacement=True, generator=torch.Generator().manual_seed(3)
    )

    def network(x_t, t, conditioning):
        says = torch.stack([one.eps(SHORT, x_t, t) for one in (*CLASSES, DATA)])
        return says[conditioning.label, torch.arange(len(x_t))]

    model = NetworkDenoiser(network, SHORT, null=Conditioning(label=torch.tensor([2])))
    bits, given = (
        bits_per_dim(one, x_0, noise=lambda t: normal(num, 1, seed=t)).total
        for one in (model.given_nothing(), model.given(Conditioning(label=labels)))
    )
    worth = label_worth(bits, given, 1, labels)
    assert worth.bits == pytest.approx(INFORMATION, abs=4 * worth.standard_error + 0.02)
    assert 5 * worth.standard_error < worth.bits < worth.entropy
