"""Guidance by the exact classifier of a mixture: what it leads to is known."""

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.flow import Straight
from ddpm_core.diffusion.paths.sigma import sigma_at
from ddpm_core.diffusion.wrappers.classifier_guidance import (
    Classifier,
    ClassifierGuided,
    TextFit,
)
from ddpm_core.diffusion.wrappers.guidance import Interval
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.diffusion.wrappers.thresholding import StaticThreshold
from ddpm_core.errors import ConfigError
from ddpm_core.text.tokens import encode
from tests.diffusion.analytic import Mixture, row
from tests.diffusion.chains import PAPER, SHORT, every_t, normal
from tests.diffusion.every_path import PATHS, exact

DATA = Mixture(
    row(0.3, 0.7),
    torch.stack([row(-0.5, 0.2), row(0.4, -0.1)]),
    torch.stack([row(0.1, 0.3), row(0.2, 0.05)]),
)
CLASS = Mixture(row(1.0), DATA.means[:1], DATA.stds[:1])
"""the images of class 0"""


def log_posterior(path):
    """Return log p(class 0 | x_t), exactly: by Bayes' rule of the noised components."""

    def log_probability(x_t, t):
        signal, noise = (part[:, :, None] for part in path.signal_and_noise(t, x_t))
        variance = (signal * DATA.stds).square() + noise.square()
        squares = (x_t[:, None] - signal * DATA.means).square() / variance
        parts = -0.5 * (squares + variance.log()).sum(2) + DATA.weights.log()
        return parts.log_softmax(1)[:, 0]

    return log_probability


@pytest.mark.parametrize("kind", ["eps", "x_0", "velocity"])
@pytest.mark.parametrize("name", PATHS)
def test_the_score_with_the_exact_classifier_is_that_of_the_class(name, kind):
    """Catches a wrong sign, a noise that is lost or squared, and a gradient by another variable."""
    path = PATHS[name]
    low, high = path.time_range
    t = torch.linspace(low, high, 9, dtype=torch.float64)[1:]
    signal, noise = path.signal_and_noise(t, t)
    x_t = signal[:, None] * DATA.draw(8) + noise[:, None] * normal(8, 2, seed=3)
    guided = ClassifierGuided(exact(DATA, path, kind), log_posterior(path), 1.0)
    said, expected = guided.predict(x_t, t), exact(CLASS, path).predict(x_t, t)
    torch.testing.assert_close(said.eps, expected.eps, rtol=1e-7, atol=1e-7)
    plain = exact(DATA, path).predict(x_t, t).eps
    assert float((said.eps - plain).abs().max()) > 0.05
    # Twice the scale moves twice as far.
    twice = ClassifierGuided(exact(DATA, path), log_posterior(path), 2.0).predict(x_t, t).eps
    torch.testing.assert_close(twice - plain, 2 * (expected.eps - plain), rtol=1e-6, atol=1e-6)


def exact_fit(path, calls):
    """Return a network of features: an image fits "0" by log p(class 0 | x_t), and "1" by minus
    that.
    """
    of_class = log_posterior(path)

    def images(x_t, t):
        log_p = of_class(x_t, t)
        return torch.stack([log_p, -log_p], dim=1) / 25

    def texts(text):
        calls.append(len(text.tokens))
        return torch.eye(2, dtype=torch.float64)[text.tokens[:, 0] - encode(["0"], 2).tokens[0, 0]]

    return TextFit(images, texts, 25.0)


@pytest.mark.parametrize("form", ["eps", "mean"])
def test_a_text_guides_as_the_class_that_it_names(form):
    """Catches: a scale that is left out, features of another text, or of one text for all images,
    a gradient of the text, texts that are read again at every step, or cannot be differentiated
    beside since they were read in inference mode."""
    calls, t = [], every_t(SHORT)
    fit, x_t, data = exact_fit(SHORT, calls), normal(50, 2, seed=1), DATA.denoiser(SHORT)
    with torch.inference_mode():
        one = ClassifierGuided(data, fit.log_probability(encode(["0"], 2)), 1.5, form)
        named = encode(["0", "1"] * 25, 2)
        each = ClassifierGuided(data, fit.log_probability(named), 1.5, form)
        found, mixed = (guided.predict(x_t, t).value for guided in (one, each))
        one.predict(x_t, t)
    assert calls == [1, 50]
    wanted = ClassifierGuided(data, log_posterior(SHORT), 1.5, form).predict(x_t, t).value
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(mixed[::2], wanted[::2])
    assert float((mixed - wanted)[1::2].abs().max()) > 0.01


def test_a_classifier_among_texts_has_one_class_for_each():
    """Catches: texts in another order, or of one of the pieces in which they are read; no scale."""
    calls, t = [], every_t(SHORT)
    fit, x_t = exact_fit(SHORT, calls), normal(50, 2, seed=1)
    logits = fit.among(encode(["1", "0", "0"], 2), at_once=2).network(x_t, t)
    assert calls == [2, 1]
    log_p = log_posterior(SHORT)(x_t, t)
    torch.testing.assert_close(logits[:, 1:], log_p[:, None].expand(-1, 2))
    torch.testing.assert_close(logits[:, 0], -log_p)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_the_mean_moves_by_the_variance_times_the_gradient(variance):
    """Catches a standard deviation for a variance, and the variance of another step."""
    spread = 0.3 * normal(50, 2, seed=4)
    network = DATA.denoiser(SHORT).network
    learned = variance == "learned_range"

    def both(x_t, t):
        value = network(x_t, t)
        return torch.cat([value, spread], dim=1) if learned else value

    denoiser = NetworkDenoiser(both, SHORT, "eps", variance)
    x_t, t = normal(50, 2, seed=1), every_t(SHORT)
    plain = denoiser.predict(x_t, t).reverse(clip_x_0=False)
    wanted, found = (one.denoiser(SHORT).predict(x_t, t).score for one in (CLASS, DATA))
    gradient = wanted - found
    guided = ClassifierGuided(denoiser, log_posterior(SHORT), 1.5, "mean").predict(x_t, t)
    for clip in (False, True):
        step = guided.reverse(clip_x_0=clip)
        expected = plain.mean + 1.5 * plain.log_variance.exp() * gradient
        torch.testing.assert_close(step.mean, expected, rtol=1e-8, atol=1e-8)
        assert torch.equal(step.log_variance, plain.log_variance)


def test_the_mean_form_is_the_step_of_the_class_but_for_the_root_of_alpha():
    """Catches a move of the mean by what belongs to the image; of fixed_large beta is exact."""
    x_t, t = normal(50, 2, seed=1), every_t(SHORT)
    data, wanted = (one.denoiser(SHORT, "fixed_large").predict(x_t, t) for one in (DATA, CLASS))
    plain, expected = (one.reverse(clip_x_0=False).mean for one in (data, wanted))
    denoiser = DATA.denoiser(SHORT, "fixed_large")
    guided = ClassifierGuided(denoiser, log_posterior(SHORT), 1.0, "mean").predict(x_t, t)
    moved = guided.reverse(clip_x_0=False).mean - plain
    root = SHORT.alphas.sqrt()[1:, None]  # the first step's variance is not its beta
    torch.testing.assert_close(moved[1:], root * (expected - plain)[1:], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("form", ["eps", "mean"])
def test_beyond_the_interval_there_is_none_and_no_call(form):
    """Catches: an interval of times, one that is turned round, a classifier called in vain, and
    rows of a batch that are guided since others are."""
    low, high = (float(sigma_at(SHORT, torch.tensor([t]))) for t in (19, 30))
    calls, classifier = [], log_posterior(SHORT)

    def counted(x_t, t):
        calls.append(len(x_t))
        return classifier(x_t, t)

    plain, everywhere = DATA.denoiser(SHORT), ClassifierGuided
    x_t, t = normal(50, 2, seed=1), every_t(SHORT)
    said = ClassifierGuided(plain, counted, 2.0, form, Interval(low, high)).predict(x_t, t)
    full = everywhere(plain, classifier, 2.0, form).predict(x_t, t)
    inside = (t > 19) & (t <= 30)
    assert torch.equal(said.eps[inside], full.eps[inside])
    torch.testing.assert_close(said.eps[~inside], plain.predict(x_t, t).eps[~inside])
    assert not torch.allclose(said.eps[inside], plain.predict(x_t, t).eps[inside])
    guided = ClassifierGuided(plain, counted, 2.0, form, Interval(low, high))
    early = guided.predict(x_t[:19], t[:19])
    assert torch.equal(early.value, plain.predict(x_t[:19], t[:19]).value)
    assert calls == [50]


def test_a_classifier_says_the_logarithm_of_the_probability_of_each_label():
    """Catches: logits that are not normalised, whose gradient pulls towards every class at once;
    the label of another row."""

    def logits(x_t, _t):
        squares = ((x_t[:, None] - DATA.means) / DATA.stds).square()
        return (-0.5 * squares - DATA.stds.log()).sum(2) + DATA.weights.log()

    x, labels = normal(6, 2, seed=1), torch.tensor([0, 1, 1, 0, 1, 0])
    found = Classifier(logits).log_probability(labels)(x, torch.zeros(6))
    densities = torch.distributions.Normal(DATA.means, DATA.stds).log_prob(x[:, None]).sum(2).exp()
    share = DATA.weights * densities / (DATA.weights * densities).sum(1, keepdim=True)
    torch.testing.assert_close(found.exp(), share[torch.arange(6), labels])


def test_it_works_where_nothing_is_differentiated():
    """Catches a gradient that inference mode or no_grad forbids, and one that is not passed on."""
    guided = ClassifierGuided(exact(DATA, PAPER), log_posterior(PAPER), 1.0)
    x_t, t = normal(3, 2, seed=1), torch.tensor([5, 500, 990])
    expected = guided.predict(x_t, t).eps
    assert not expected.requires_grad
    with torch.inference_mode():
        again = x_t.clone(), t.clone()
        torch.testing.assert_close(guided.predict(*again).eps, expected)
    x = x_t.clone().requires_grad_()
    found = torch.autograd.grad(guided.predict(x, t).eps[:, 0].sum(), x)[0][:, 0]
    h = 1e-5 * torch.tensor([1.0, 0.0], dtype=torch.float64)
    slope = (guided.predict(x_t + h, t).eps - guided.predict(x_t - h, t).eps)[:, 0] / 2e-5
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-6)


def test_what_makes_no_sense_is_refused():
    """Catches guidance that divides by no signal, of a mean without steps, or of the wrong sign."""
    classifier = log_posterior(SHORT)
    with pytest.raises(ConfigError, match=r"scale=-1\.0 must be at least 0"):
        ClassifierGuided(DATA.denoiser(SHORT), classifier, -1.0)
    with pytest.raises(ConfigError, match="has no steps"):
        ClassifierGuided(exact(DATA, PATHS["vp"]), classifier, 1.0, "mean")
    with pytest.raises(ConfigError, match="pure noise"):
        ClassifierGuided(exact(DATA, Straight(), "x_0"), classifier, 1.0)
    guided = ClassifierGuided(DATA.denoiser(SHORT), classifier, 1.0, "mean")
    with pytest.raises(ConfigError, match="whole steps only; use form=eps"):
        guided.predict(normal(1, 2), row(2.5))
    x_t, t = normal(1, 2), torch.tensor([7])
    with pytest.raises(ConfigError, match="guidance of the mean goes around"):
        respaced(guided, [0, 7, 20]).predict(x_t, t - 6)
    off = ClassifierGuided(DATA.denoiser(SHORT), lambda *_: 1 / 0, 0.0).predict(x_t, t)
    assert torch.equal(off.value, DATA.denoiser(SHORT).predict(x_t, t).value)


def test_clipping_before_the_move_is_a_wrapper_inside():
    """Catches a mean form that clips again what it moved."""
    x_t, t = normal(50, 2, seed=1) * 2, every_t(SHORT)
    inside = StaticThreshold(DATA.denoiser(SHORT), 0.3)
    step = ClassifierGuided(inside, log_posterior(SHORT), 1.0, "mean").predict(x_t, t)
    moved = step.reverse(clip_x_0=True).mean - inside.predict(x_t, t).reverse(clip_x_0=True).mean
    assert float(moved.abs().max()) > 0.01
