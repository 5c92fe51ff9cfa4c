import numpy as np
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.likelihood import bits_per_dim
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.errors import DivergenceError
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.evaluation.distances.scores import inception_score
from ddpm_core.evaluation.measuring.worker import Unit, likelihood_part, units_of
from ddpm_core.evaluation.numbers import metrics
from ddpm_core.evaluation.numbers.metrics import Bound
from ddpm_core.evaluation.numbers.seen import Seen, seen_of
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from tests.sampling.tiny import tiny_config

WEIGHTS = {"ema_sha256": "a" * 64, "step": 10, "precision": "auto", "dataset": "d" * 64}


def pointwise(x_t, t):
    return 0.9 * x_t + 0.01 * t[:, None, None, None]


DENOISER = NetworkDenoiser(
    pointwise, make_schedule(make_betas("linear", 21)), variance="fixed_small"
)


def images_u8(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 1, 4, 4), generator=generator, dtype=torch.uint8)


def part_of(start: int, stop: int) -> dict[str, torch.Tensor]:
    return likelihood_part(
        DENOISER,
        images_u8(12)[start:stop],
        torch.arange(start, stop),
        seed=4,
    )


def bound() -> Bound:
    generator = np.random.default_rng(0)
    terms, mse = generator.random((5, 4)), generator.random((5, 4))
    return Bound(prior=generator.random(5), terms=terms, mse=mse)


# -- units -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "batch", "held_out", "sizes"),
    [(64, 64, 297, [16] * 4), (1000, 256, 10_000, [125] * 8), (40, 8, 297, [8] * 5),
     (300, 256, 30, [16, 14]), (1, 256, 297, [1])],
)  # fmt: skip
def test_likelihood_units_cover_the_first_images_once(num, batch, held_out, sizes):
    """Catches: more images than there are, a lost remainder, units that depend on workers."""
    wanted = {"evaluate.num_likelihood_images": num, "evaluate.batch_size": batch}
    units = units_of(tiny_config(**wanted), 1500, held_out, has_features=False)
    assert {(unit.kind, unit.part) for unit in units} == {("bound", "test")}
    assert [unit.stop - unit.start for unit in units] == sizes
    assert [unit.start for unit in units] == [0, *np.cumsum(sizes)[:-1]]


def test_feature_units_of_samples_are_their_units():
    """Catches: a chunk that lies across two files."""
    units = [unit for unit in units_of(tiny_config(), 3000, 297) if unit.kind == "features"]
    assert units[:3] == [
        Unit("features", "train", 0, 2500),
        Unit("features", "train", 2500, 3000),
        Unit("features", "test", 0, 297),
    ]
    assert {unit.part for unit in units[3:]} == {"samples"}
    assert [(unit.start, unit.stop) for unit in units[3:]] == [(0, 4), (4, 8), (8, 12), (12, 16)]


# -- the bound -------------------------------------------------------------------------------------


def test_likelihood_in_chunks_equals_one_direct_call():
    """Catches: noise by place in the chunk, another scaling of the images, terms summed twice."""
    found = Bound.of(part_of(start, stop) for start, stop in [(0, 5), (5, 8), (8, 12)])
    direct = bits_per_dim(
        DENOISER,
        to_unit_range(images_u8(12), torch.device("cpu")),
        noise=lambda t: seeding.normal(
            seeding.key(4, "likelihood"), t, torch.arange(12), (1, 4, 4)
        ),
    )
    torch.testing.assert_close(torch.from_numpy(found.terms), direct.terms.double())
    torch.testing.assert_close(torch.from_numpy(found.prior), direct.prior.double())
    torch.testing.assert_close(torch.from_numpy(found.mse), direct.mse.double())
    torch.testing.assert_close(
        torch.from_numpy(found.total), direct.total.double(), rtol=1e-6, atol=1e-6
    )


def test_rate_and_distortion_by_hand():
    """Catches: the decoder's term in the rate, x_t's own step counted, RMSE in other units."""
    b = bound()
    for t in range(4):
        expected = b.prior.mean() + sum(b.terms[:, s].mean() for s in range(t + 1, 4))
        assert abs(b.rate()[t] - expected) < 1e-12
        rmse = np.mean([127.5 * b.mse[i, t] ** 0.5 for i in range(5)])
        assert abs(b.distortion()[t] - rmse) < 1e-12


def test_bits_per_dim_is_the_sum_of_its_parts_and_says_how_it_was_measured():
    """Catches: a lost prior, an error without n - 1 or the root of n, a number without protocol."""
    b, config = bound(), tiny_config()
    found = metrics.bits_per_dim_metric(b, config, WEIGHTS, num_test_images=297)
    assert abs(found["value"] - (found["prior"] + found["rate"] + found["decoder"])) < 1e-12
    totals = [b.prior[i] + b.terms[i].sum() for i in range(5)]
    assert abs(found["value"] - np.mean(totals)) < 1e-12
    variance = sum((total - np.mean(totals)) ** 2 for total in totals) / 4
    assert abs(found["standard_error"] - (variance / 5) ** 0.5) < 1e-12
    protocol = found["protocol"]
    assert protocol.items() >= WEIGHTS.items()
    assert protocol["version"] == PROTOCOL_VERSION
    assert (protocol["num_images"], protocol["num_test_images"]) == (5, 297)
    assert (protocol["num_timesteps"], protocol["seed"]) == (21, 0)
    assert (protocol["variance"], protocol["clip_x_0"]) == ("fixed_small", True)
    assert (protocol["prediction"], protocol["beta_schedule"]) == ("eps", "linear")
    assert protocol.items() >= config.diffusion.model_dump(mode="json", exclude={"kind"}).items()
    assert protocol["warnings"] == []
    few = metrics.bits_per_dim_metric(b, config, WEIGHTS, num_test_images=5)["protocol"]
    assert few["warnings"] == ["40 images were asked for, and 5 are held out"]


def test_a_bound_that_is_no_number_is_refused():
    """Catches: NaN that is averaged into the number, or written as JSON that nobody reads."""
    b = bound()
    b.terms[2, 1] = np.nan
    with pytest.raises(DivergenceError, match="image 2 is nan"):
        metrics.bits_per_dim_metric(b, tiny_config(), WEIGHTS, num_test_images=9)


def test_one_image_has_no_standard_error():
    """Catches: NaN, which is no JSON."""
    one = Bound(*(values[:1] for values in (bound().prior, bound().terms, bound().mse)))
    assert (
        metrics.bits_per_dim_metric(one, tiny_config(), WEIGHTS, num_test_images=9)[
            "standard_error"
        ]
        is None
    )
    assert metrics.likelihood_artifact(one)["terms_standard_error"] == [0] * 4


def test_the_artifact_holds_the_curves_and_every_image():
    """Catches: curves that do not add up to the number."""
    b = bound()
    found = metrics.likelihood_artifact(b)
    assert abs(found["rate"][0] + found["terms"][0] - b.total.mean()) < 1e-12
    np.testing.assert_allclose(found["images"]["total"], b.total)
    np.testing.assert_allclose(found["distortion_root_of_mean"], 127.5 * b.mse.mean(0) ** 0.5)


# -- the distance ----------------------------------------------------------------------------------


def rows(num: int, seed: int, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32) + seed


def test_moments_are_those_of_all_images():
    """Catches: means of means where parts differ in size, a score of the last part's classes."""
    features, classes = torch.from_numpy(rows(10, 1)), torch.from_numpy(rows(10, 4)).softmax(dim=1)
    parts = [
        {"features": features[part], "probabilities": classes[part]}
        for part in (slice(0, 4), slice(4, 8), slice(8, 10))
    ]
    found, expected = seen_of(iter(parts)), moments_of(features)
    assert found.moments.count == 10
    torch.testing.assert_close(found.moments.scatter, expected.scatter)
    torch.testing.assert_close(found.moments.mean, expected.mean)
    assert (found.score, found.num_classes) == (inception_score(classes).value, 3)
    assert seen_of(iter([{"features": features}])).score is None


def test_frechet_distances_name_their_sets_their_network_and_too_few_images():
    """Catches: train and test exchanged, a floor that is none, biased numbers without a word."""
    moments = {
        source: moments_of(torch.from_numpy(rows(num, seed)))
        for source, num, seed in (("samples", 40, 0), ("test", 5, 1), ("train", 60, 3))
    }
    seen = {source: Seen(one, None, None) for source, one in moments.items()}
    network = {"kind": "trained", "network_sha256": "n" * 64}
    found = metrics.frechet_metric(seen, tiny_config(), WEIGHTS, network=network)
    assert found["value"] == found["samples_test"]
    assert found["samples_test"] == frechet_distance(moments["samples"], moments["test"])
    assert found["samples_train"] == frechet_distance(moments["samples"], moments["train"])
    assert found["test_train"] == frechet_distance(moments["test"], moments["train"])
    protocol = found["protocol"]
    assert protocol.items() >= WEIGHTS.items()
    assert protocol["version"] == PROTOCOL_VERSION
    assert protocol["num_images"] == {"samples": 40, "test": 5, "train": 60}
    assert protocol["features"] == {**network, "dim": 3}
    assert (protocol["sampler"], protocol["seed"]) == ("ancestral", 0)
    assert (
        protocol.items()
        >= tiny_config().diffusion.model_dump(mode="json", exclude={"kind"}).items()
    )
    assert len(protocol["warnings"]) == 1
    assert "5 test images for 3 features" in protocol["warnings"][0]


def test_the_inception_score_is_that_of_the_samples_and_says_whose_classes_it_is_of():
    """Catches: the held-out images' score shown as the samples', a score without classes."""
    classes = {"samples": torch.eye(4).repeat(2, 1), "test": torch.full((6, 4), 0.25)}
    found = {
        source: seen_of(iter([{"features": rows, "probabilities": rows}]))
        for source, rows in classes.items()
    }
    network = {"kind": "trained"}
    score = metrics.inception_metric(found, tiny_config(), WEIGHTS, network=network)
    assert (round(score["value"], 12), round(score["test"], 12)) == (4.0, 1.0)
    assert score["value"] == inception_score(classes["samples"]).value
    protocol = score["protocol"]
    assert protocol.items() >= WEIGHTS.items()
    assert protocol["version"] == PROTOCOL_VERSION
    assert (protocol["num_classes"], protocol["features"]) == (4, network)
    assert protocol["num_images"] == {"samples": 8, "test": 6}
    without = {source: seen_of(iter([{"features": rows}])) for source, rows in classes.items()}
    assert metrics.inception_metric(without, tiny_config(), WEIGHTS, network=network) is None
