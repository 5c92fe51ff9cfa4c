"""The recipe of digits by their classes, trained: its samples are of the classes given.

The judge is no network of ours: a support vector machine on the raw pixels of the training images,
right about 98 of 100 held-out ones.

The gate has the first two, of one training. What the others show of whole trainings it has as
closed forms: `diffusion/wrappers/test_classifier_guidance.py`, `sampling/test_guided.py`,
`training/stepping/test_classifying.py`, `evaluation/numbers/test_by_class.py`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from ddpm_core.conditioning import Conditioning, Text
from ddpm_core.config import SampleConfig
from ddpm_core.config.captions import caption_of
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.evaluation.measuring.label_use import classified_part
from ddpm_core.inference.build import build_denoiser
from ddpm_core.inference.denoiser import AveragedNetwork, score_of
from ddpm_core.inference.networks import build_network
from ddpm_core.permutation import global_batch_indices
from ddpm_core.recipes import recipe
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.plan import Plan
from ddpm_core.sources.splits import load_splits
from ddpm_core.text.tokens import encode
from tests.training.small import CPU, make_learner

NUM_IMAGES = 300
ALONE = {"compute.num_workers": 1}
HALF_THE_STEPS = {"num_steps": 100}
"""ancestral; DDIM without noise is judged right less often: 0.89 in 20 steps"""
FEW = {"sampler": "ddim", "num_steps": 20, "guidance_scale": 2.0}


def pixels(images_u8) -> np.ndarray:
    return np.asarray(images_u8).reshape(len(images_u8), -1) / 255


def trained_on(config, images) -> NetworkDenoiser:
    """Return the denoiser of the averaged weights after a run's training."""
    averaged = averaged_of(make_learner(config), config, images)
    return build_denoiser(config, averaged, averaged.null)


def averaged_of(learner, config, images) -> AveragedNetwork:
    """Return the averaged weights after a run's training, computing."""
    network = network_of(learner, config, images)
    return AveragedNetwork(network, CPU, dtype=torch.float32)


def captions_of(config, number: int) -> Text:
    """Return the captions of the ten digits by one of the run's templates."""
    templates = config.data.caption_templates
    texts = [caption_of(templates[number % len(templates)], str(digit)) for digit in range(10)]
    return encode(texts, config.model.text_length)


def network_of(learner, config, images):
    """Return the network of the averaged weights after a run's training."""
    images_u8 = torch.from_numpy(images.images_u8).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(images.labels)
    for step in range(config.train.num_steps):
        size, seed = config.train.global_batch_size, config.train.seed
        rows = torch.from_numpy(global_batch_indices(seed, step, size, len(labels)))
        text = Conditioning(text=captions_of(config, step)).rows(labels[rows]).text
        given = Conditioning(label=labels[rows], text=text).only(learner.accepts)
        learner.step(step, images_u8[rows], given)
    network = build_network(config)
    network.load_state_dict(learner.trainee.averaged())
    return network


@dataclass(frozen=True)
class Drawn:
    """Digits 0, 1, ... 9 in turn, looked at by a judge and by their pixels."""

    pixels: np.ndarray
    labels: np.ndarray
    right: float
    """share that is judged to be of its label"""
    calls: float
    """of networks, for each image"""

    @property
    def spread(self) -> float:
        """Return the variance within a class, over all pixels."""
        return spread(self.pixels, self.labels)


def spread(values, labels) -> float:
    return float(np.mean([values[labels == label].var(0, ddof=1).sum() for label in range(10)]))


class Digits:
    """The recipe, trained; and what is drawn from it."""

    def __init__(self) -> None:
        self.config = recipe("digits-classes").replaced({"compute.num_workers": 1})
        splits = load_splits(self.config.data, cache=Path("unused"))
        self.train, self.test = splits.train, splits.test
        self.denoiser = trained_on(self.config, self.train)
        self.judge = SVC(gamma=0.05, C=10).fit(pixels(self.train.images_u8), self.train.labels)

    def drawn(self, guide=None, denoiser=None, **sample) -> Drawn:
        settings, calls = SampleConfig.model_validate(sample), []

        def counted(one):
            def network(*given):
                calls.append(len(given[0]))
                return one.network(*given)

            return replace(one, network=network)

        positions, plan = torch.arange(NUM_IMAGES), Plan(in_turn=tuple(range(10)))
        followed = guided(
            counted(denoiser or self.denoiser),
            plan.conditioning(positions),
            settings,
            None if guide is None else counted(guide),
        )
        x_0 = draw(followed, positions, self.config.data.shape, sample=settings, seed=0)
        values, labels = pixels(to_u8(x_0)), plan.labels(positions).numpy()
        right = float((self.judge.predict(values) == labels).mean())
        return Drawn(values, labels, right, sum(calls) / NUM_IMAGES)

    def distance(self, drawn: Drawn) -> float:
        """Return the Frechet distance to the training images, of the pixels themselves."""
        real = torch.from_numpy(pixels(self.train.images_u8))
        return frechet_distance(moments_of(torch.from_numpy(drawn.pixels)), moments_of(real))


@pytest.fixture(scope="module")
def digits():
    return Digits()


pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def test_labels_and_guidance_are_followed_and_no_label_is_all_of_them(digits):
    """Catches a label that does not reach the network, a null that is a class, guidance towards
    the null, and a network that learned one of the two alone.

    Of no label a tenth is right by chance: the negative control. The bars are below what was
    measured: 0.98 with the label, 1.00 at scale 2.
    """
    assert digits.judge.score(pixels(digits.test.images_u8), digits.test.labels) > 0.97
    right = {w: digits.drawn(**HALF_THE_STEPS, guidance_scale=w).right for w in (0.0, 1.0, 2.0)}
    assert right[1.0] >= 0.93, right
    assert right[2.0] >= 0.98, right
    assert 0.06 <= right[0.0] <= 0.14, right


def test_guidance_in_an_interval_draws_nearer_in_fewer_calls(digits):
    """Catches an interval of the noise levels at which guidance narrows the classes and no more.

    Measured: distance 0.27, all along 0.33; judged right 0.997 both; 28 and 40 calls.

    Source: Kynkaanniemi et al. 2024, arXiv:2404.07724, fig. 1 and section 4.
    """
    full, inner = digits.drawn(**FEW), digits.drawn(**FEW, guidance_interval=(0.3, 3.0))
    assert digits.distance(inner) < digits.distance(full)
    assert inner.right >= full.right - 0.005
    assert (inner.calls, full.calls) == (28, 40)


@pytest.mark.trained
def test_a_weaker_model_guides_without_narrowing_the_classes(digits):
    """Catches a reference that is the null: guidance by that keeps 76 % of the variance.

    The weaker model has 8 channels for 24 and 300 steps for 800. Measured: 96 % of the variance
    of real digits of a class.

    Source: Karras et al. 2024, arXiv:2406.02507, section 3.
    """
    smaller = {"model.base_channels": 8, "train.num_steps": 300, "train.ema_decay": 0.98}
    weaker = trained_on(digits.config.replaced(smaller), digits.train)
    drawn = digits.drawn(weaker, **FEW, guidance_by="weaker")
    real = spread(pixels(digits.train.images_u8), digits.train.labels)
    assert drawn.spread >= 0.9 * real, (drawn.spread, real)
    assert drawn.right > 0.9


@pytest.mark.trained
def test_a_classifier_of_noised_images_leads_a_network_without_labels(digits):
    """Catches a gradient that leads nowhere or away, and shows that the noise matters: a classifier
    that is as good on images, and saw no noise, leads to what deceives it.

    Measured at scales 0, 1, 3, 8: 0.12, 0.59, 0.92, 0.98 of 300 judged right; by the classifier of
    clean images 0.56, 0.71, 0.76, which takes 0.73, 0.93, 0.98 of them for what they are to be.

    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4.
    """
    plain = recipe("digits").replaced({"compute.num_workers": 1})
    denoiser = trained_on(plain, digits.train)
    config = recipe("digits-classifier").replaced({"compute.num_workers": 1})
    noised = Classifier(averaged_of(make_learner(config), config, digits.train))
    learner, never = make_learner(config), torch.zeros(config.train.global_batch_size).long()
    learner._drawing._times = lambda _drawn: (never, never)  # of the least noise alone
    clean = Classifier(averaged_of(learner, config, digits.train))

    def right(guide, scale):
        by = {"guidance_by": "judge", "guidance_scale": scale}
        return digits.drawn(guide, denoiser, **by).right

    once, thrice = right(noised, 1.0), right(noised, 3.0)
    assert 0.4 <= once < thrice, (once, thrice)
    assert thrice >= 0.88
    assert thrice - right(clean, 3.0) >= 0.15


@pytest.mark.trained
def test_clip_of_noised_images_leads_to_what_a_text_says(digits):
    """Catches a gradient that leads nowhere or away, a text that does not arrive, and shows that
    the noise matters: CLIP that is as good on images, and saw no noise, leads to what deceives it,
    which it takes for what the text says.

    The images are of the network of labels that is given none.

    Source: Nichol et al. 2021, arXiv:2112.10741, section 2.3.
    """
    denoiser, labels = digits.denoiser.given_nothing(), torch.arange(NUM_IMAGES) % 10

    def right(noised, scale, **sample):
        config = recipe("digits-clip").replaced({"model.noised": noised, **ALONE})
        if noised not in trained:
            network = network_of(make_learner(config), config, digits.train)
            trained[noised] = score_of(config, network, CPU)
        guide, text = trained[noised], captions_of(config, 0)
        settings = SampleConfig.model_validate({"guidance_scale": scale, **sample})
        given = Conditioning(text=text).rows(labels)
        followed = guided(denoiser, given, settings, guide)
        x_0 = draw(followed, torch.arange(NUM_IMAGES), (1, 8, 8), sample=settings, seed=0)
        found = digits.judge.predict(pixels(to_u8(x_0))) == labels.numpy()
        own = guide.among(text).network(x_0.float(), torch.zeros(NUM_IMAGES)).argmax(1) == labels
        return float(found.mean()), float(own.float().mean())

    trained = {}
    clean, own = right(noised=False, scale=3.0)
    assert own >= 0.9
    for sample in ({}, HALF_THE_STEPS):  # in the mean, and in eps
        once, thrice = (right(True, scale, **sample)[0] for scale in (1.0, 3.0))
        assert 0.4 <= once < thrice, (once, thrice)
        assert thrice >= 0.88, (sample, thrice)
        assert thrice - clean >= 0.15, (sample, thrice, clean)


@pytest.mark.trained
def test_the_network_itself_classifies_digits(digits):
    """Catches a classifier that the network's condition does not reach, or noise of its own for
    each class. Measured: 149 of 150 at 80 noise levels, of which the bar leaves out 4; at
    the 20 of the metric, whose draws are fewer, 146 to 148, by which levels they are.

    Source: Li et al. 2023, arXiv:2303.16203, eq. 7.
    """
    count = 150
    images_u8 = torch.from_numpy(digits.test.images_u8[:count]).permute(0, 3, 1, 2).contiguous()
    found = classified_part(
        digits.denoiser, images_u8, torch.arange(count), num_classes=10, seed=0, num_times=80
    )
    is_right = found["eps"].argmin(dim=1).numpy() == digits.test.labels[:count]
    assert is_right.mean() >= 0.97
