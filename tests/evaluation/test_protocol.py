"""Golden numbers: what the ruler of this version says of images that everybody can make.

Catches every change that moves published numbers in silence: a scaling, a kernel, a stride, an
initial weight, a learning rate, a constant of the bound. Whoever changes such a thing on purpose
raises `protocol.PROTOCOL_VERSION` and writes the new numbers here under the new version.

The inputs are from counters, so they are the same bits everywhere. The numbers differ by 1e-6
between processors (AMX, AVX-512, AVX2, SSE); the tolerance is a hundred times that, and a hundredth
of what the smallest of the changes above makes.
"""

import pytest
import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.canonical import fingerprint
from ddpm_core.config import EvaluateConfig, StudyConfig
from ddpm_core.config.identity import COUNTED_BEFORE, FORMAT_1, OF_KIND, PRESENT, Rule
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.evaluation.distances.moments import Moments, frechet_distance, moments_of
from ddpm_core.evaluation.distances.scores import inception_score
from ddpm_core.evaluation.features import classifier
from ddpm_core.evaluation.features.classifier import Classifier, train_classifier
from ddpm_core.evaluation.features.kept import feature_recipe
from ddpm_core.evaluation.measuring.worker import likelihood_part
from ddpm_core.loading.loader import ImageSet
from ddpm_core.recipes import RECIPES, digits, recipe
from ddpm_core.runs import layout, protocol
from ddpm_core.runs.protocol import PROTOCOL_VERSION

CPU = torch.device("cpu")
TOLERANCE = 1e-4
COLUMNS = [0, 21, 42, 63]

GOLDEN = {
    1: {
        "features": [
            [-1.943735, 1.338068, 0.420426, 1.056279],
            [-2.165124, 1.427203, 0.558209, 0.898860],
            [-2.138549, 1.475832, 0.517017, 1.014377],
        ],
        "probabilities": [
            [0.288570, 0.096655, 0.158399, 0.209883, 0.246493],
            [0.260309, 0.105902, 0.182741, 0.205040, 0.246008],
            [0.286993, 0.096720, 0.168408, 0.202610, 0.245270],
        ],
        "trained": {
            0: [
                [0.104373, -0.152521, 0.537807, 0.491404],
                [-0.288849, 0.116904, -0.406741, 0.795435],
                [0.053528, -0.118684, 0.073935, 1.429456],
            ],
            1: [
                [0.070503, -0.149515, 0.490598, 0.371686],
                [-0.363643, 0.103459, -0.378198, 0.709896],
                [0.035636, -0.101337, 0.063575, 1.254563],
            ],
            4: [
                [0.122050, -0.052788, 0.492153, 0.259071],
                [-0.349316, 0.275103, -0.265658, 0.630879],
                [0.111019, 0.005854, 0.073433, 1.009842],
            ],
        },
        "bound": {
            "prior": [1.611538e-9, 1.983698e-9, 2.021981e-9],
            "terms": [
                [5.275002, 3.895781, 0.01710287, 1.642087e-7],
                [5.025350, 8.871283, 0.02009156, 1.201778e-7],
                [5.206870, 7.939788, 0.02570865, 1.694708e-7],
            ],
            "sum": [10.514851, 16.021194, 15.432990],
            "mse": [
                [0.005301502, 0.02807750, 0.6032014, 1.419869],
                [0.003782497, 0.06393671, 0.7086097, 1.039131],
                [0.004880595, 0.05722328, 0.9067190, 1.465360],
            ],
        },
    }
}
"""version of the protocol -> its numbers"""


def images_u8(num: int, channels: int, height: int, width: int) -> Tensor:
    """Return images of evenly distributed levels."""
    key = seeding.key(0, "features", 3)
    words = seeding.random_words(key, 0, torch.arange(num), channels * height * width)
    return (words >> 24).to(torch.uint8).reshape(num, channels, height, width)


def with_fixed_weights(channels: int, num_classes: int) -> Classifier:
    """Return the network with normal weights from counters."""
    network, key = Classifier(channels, num_classes), seeding.key(0, "features", 2)
    with torch.no_grad():
        for number, value in enumerate(network.parameters()):
            row = seeding.normal(key, number, torch.arange(1), tuple(value.shape))[0]
            value.copy_(row / value[0].numel() ** 0.5)
    return network.eval()


def close(found: Tensor, expected: object, *, atol: float = TOLERANCE) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), wanted, rtol=TOLERANCE, atol=atol)


def test_every_version_has_its_golden_numbers():
    """Catches: a version that was raised without a look at what it measures, or deleted numbers."""
    assert sorted(GOLDEN) == list(range(1, PROTOCOL_VERSION + 1))


def test_features_of_fixed_weights():
    """Catches: another scaling of the images, kernel, stride, padding, nonlinearity or pooling."""
    network = with_fixed_weights(3, 5)
    images = images_u8(3, 3, 13, 20)
    close(network.embed(images)[:, COLUMNS], GOLDEN[PROTOCOL_VERSION]["features"])
    close(network.classify(images), GOLDEN[PROTOCOL_VERSION]["probabilities"])


@pytest.mark.parametrize("num_steps", [0, 1, 4])
def test_features_of_a_trained_network(num_steps):
    """Catches: another initialisation or seed (0 steps), learning rate, optimiser, batch size,
    loss, or choice of the batches (1 and 4)."""
    labels = torch.arange(96) % 4
    train = ImageSet(images_u8(96, 1, 8, 8), {"label": labels}, num_classes=4, counts=(96,))
    network = train_classifier(train, num_steps=num_steps, device=CPU)
    found = network.embed(images_u8(3, 1, 8, 8))[:, COLUMNS]
    close(found, GOLDEN[PROTOCOL_VERSION]["trained"][num_steps])


def test_the_bound_of_a_known_denoiser():
    """Catches: another scaling of the images, key of the noise, edge or width of the bins, constant
    of the distribution function, clipping, unit."""
    denoiser = NetworkDenoiser(
        lambda x_t, t: 0.9 * x_t + 0.01 * t[:, None, None, None],
        make_schedule(make_betas("linear", 21)),
        variance="fixed_small",
    )
    found = likelihood_part(denoiser, images_u8(3, 1, 4, 4), torch.arange(5, 8), seed=4)
    golden, columns = GOLDEN[PROTOCOL_VERSION]["bound"], [0, 1, 10, 20]
    close(found["prior"], golden["prior"], atol=1e-15)
    close(found["terms"][:, columns], golden["terms"], atol=1e-10)
    close(found["terms"].sum(dim=1), golden["sum"])
    close(found["mse"][:, columns], golden["mse"])


def test_distances_in_closed_form():
    """Catches: a factor, a root, n for n - 1, a constant on the diagonal, a distance not squared.

    (3, 4) apart: 25. Deviations (2, 3) and (1, 1): 1 + 4. Two images at +-1: variance 2, not 1.
    """
    zero = torch.zeros(2, dtype=torch.float64)
    a = Moments(11, zero, torch.diag(torch.tensor([40.0, 90.0], dtype=torch.float64)))
    b = Moments(11, torch.tensor([3.0, 4.0]).double(), 10 * torch.eye(2, dtype=torch.float64))
    assert frechet_distance(a, b) == pytest.approx(30, rel=1e-12)
    two, origin = moments_of(torch.tensor([[1.0], [-1.0]])), moments_of(torch.zeros(2, 1))
    assert frechet_distance(two, origin) == pytest.approx(2, rel=1e-12)


def test_scores_in_closed_form():
    """Catches: another logarithm, exchanged arguments, splits by default.

    p = (3/4, 1/4), (1/4, 3/4): the mean is even, exp(ln 2 - H(1/4)) = 2 * 3^(3/4) / 4.
    """
    p = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    assert inception_score(p).value == pytest.approx(3**0.75 / 2, rel=1e-12)


# -- where results of a version lie ----------------------------------------------------------------


def places(rule: Rule = PRESENT) -> dict[str, str]:
    config, ema, dataset = digits(), "e" * 64, "d" * 64
    return {
        "evaluation": layout.evaluation_fingerprint(config, ema, dataset, rule)[:16],
        "study": layout.study_fingerprint(config, ema, dataset, rule)[:16],
        "ablations": layout.ablations_fingerprint(config, rule)[:16],
        "network": feature_recipe(config.evaluate, "d", dataset).folder,
    }


def test_version_1_is_found_where_it_was_before_there_were_versions(monkeypatch):
    """Catches: published evaluations and kept feature networks that are no longer found."""
    monkeypatch.setattr(protocol, "PROTOCOL_VERSION", 1)
    assert places(Rule(housekeeping=digits())) == {
        "evaluation": "ad69e16dbd59e7a3",
        "study": "029eebe422452b45",
        "ablations": "a50c15d03b807845",
        "network": "d/features-6aabac648fc39745",
    }


def test_what_another_version_measured_is_not_taken(monkeypatch):
    """Catches: numbers, features and networks of two versions under one fingerprint; samples drawn
    again though nothing of them changed."""
    before = places()
    samples = layout.sample_fingerprint(digits(), "e" * 64)
    monkeypatch.setattr(protocol, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    after = places()
    assert all(before[name] != after[name] for name in before)
    assert classifier.recipe("d" * 64, 600)["protocol"] == PROTOCOL_VERSION + 1
    assert layout.sample_fingerprint(digits(), "e" * 64) == samples


# -- how much is measured, by default --------------------------------------------------------------

MEASURED = {
    "digits": "c4c8dec0d8851105",
    "digits-dit": "c4c8dec0d8851105",
    "digits-classes": "e9e21b2f3f186cb5",
    "digits-upscale": "5990578071778da3",
    "digits-4": "c4c8dec0d8851105",
    "digits-cascade": "15d145b2903015e6",
    "digits-ddim": "395ceb30c5aa4feb",
    "digits-vp": "c44b3215cc222049",
    "digits-flow": "4a5f07b2dbdc9518",
    "digits-edm": "06056f81b1f2b707",
    "digits-few": "06056f81b1f2b707",
    "digits-classifier": "c4c8dec0d8851105",
    "mnist": "00b2c96d680f331b",
    "mnist-classes": "840c66ae100beb27",
    "mnist-classifier": "00b2c96d680f331b",
    "fashion-mnist": "00b2c96d680f331b",
    "images": "00b2c96d680f331b",
    "heartbeat": "8714870da9ea27b6",
    "swiss-roll": "1da9fcfbb914073b",
    "digits-2015": "4f5c93647c5a862e",
    "mnist-2015": "a6e62aee18293ce3",
    "cifar10-2015": "701ee3e4e37407e3",
    "cifar10": "d0602560709d0160",
    "cifar10-classes": "6a48358309d536c2",
    "cifar10-classifier": "d0602560709d0160",
    "cifar10-ddim": "866080d3db6f57c6",
    "cifar10-vp": "313b2e9af514ebd9",
    "cifar10-subvp": "89092a5aadcd621a",
    "cifar10-ve": "72249f1b041ab517",
    "cifar10-edm": "8faa4d1cc7da1a4c",
    "cifar10-edm-augmented": "8faa4d1cc7da1a4c",
    "celebahq": "2ebce7d618f679e5",
    "lsun-bedroom": "2ebce7d618f679e5",
    "lsun-bedroom-large": "2ebce7d618f679e5",
    "lsun-church": "2ebce7d618f679e5",
    "lsun-cat": "2ebce7d618f679e5",
    "digits-clip": "c4c8dec0d8851105",
    "glide-small": "5e4a70435ef50808",
    "adm": "5814e7b5af87bbc3",
    "adm-classes": "5814e7b5af87bbc3",
    "glide": "40ecd989b329014d",
}
"""recipe -> fingerprint of its chain, its sampling and what is measured; recipes of classes measure
what their labels are worth and the diffusion classifier too, and all else as without"""


def test_defaults_are_those_that_the_published_numbers_were_measured_with():
    """Catches: another number of images or of steps by default, with which everybody's numbers
    move without a new version."""
    assert EvaluateConfig().model_dump() == {
        "num_likelihood_images": 256,
        "batch_size": 256,
        "seed": 0,
        "num_classified_images": 0,
        "label_worth": False,
        "num_enlarged_images": 0,
        "ode_steps": 50,
        "features": "trained",
        "features_sha256": None,
        "feature_steps": 600,
        "metrics": (),
        "reference": None,
        "reference_sha256": None,
    }
    assert StudyConfig().model_dump() == {
        "num_images": 2000,
        "swept_steps": (10, 20, 50, 100),
        "num_likelihood_images": 256,
        "num_ode_images": 64,
        "ode_steps": 100,
        "ode_tolerance": 1e-4,
        "mix_depth": 0.5,
        "num_shown": 8,
        "batch_size": 250,
        "seed": 0,
        "ablation_steps": None,
        "ddim_steps": (),
    }


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_measures_what_it_measured(name):
    """Catches: a value of a recipe, or a default that it rests on, that changed by the way. What
    is changed on purpose is written here, and the README's results are measured again."""
    config = recipe(name)
    values, defaults = config.model_dump(mode="json"), config.defaults()
    found = {
        section: {
            key: value
            for key, value in values[section].items()
            # A key that is newer than these digests, at its default, changes nothing.
            if key in OF_KIND.get(values[section].get("kind", ""), FORMAT_1[section])
            or key in COUNTED_BEFORE.get(section, ())
            or value != defaults[f"{section}.{key}"]
        }
        for section in ("diffusion", "sample", "evaluate", "study")
    }
    assert fingerprint(found)[:16] == MEASURED[name]
