"""What the units found, put together."""

from dataclasses import replace

import pytest
import torch

from ddpm_core.evaluation.distances.moments import moments_of
from ddpm_core.evaluation.distances.scores import inception_score
from ddpm_core.evaluation.numbers.seen import seen_of
from ddpm_core.store.manifest import DamagedError
from ddpm_core.study.findings import Findings
from ddpm_core.study.units import Unit
from ddpm_core.units.ranges import publish
from ddpm_core.units.units import Units
from tests.study.made_up import TIMES, made_up, make_up
from tests.study.small import study_config

FOLDER = "runs/r/study/s"


def published(store, kind: str, part: str, *ends: tuple[int, int], **changes) -> Findings:
    config = study_config(**changes)
    units = [Unit(kind, part, *one) for one in ends]
    for unit in units:
        publish(Units(store, FOLDER), unit, make_up(unit, config=config))
    return Findings(Units(store, FOLDER), units)


def whole(kind: str, part: str, stop: int):
    return make_up(Unit(kind, part, 0, stop), config=study_config())


def test_rows_stand_in_the_order_of_the_images(store):
    """Catches: the order of the units, which is that of the work, or of the names of files."""
    found = published(store, "bound", "test", (1000, 1001), (4, 7), (0, 4), (99, 101))
    positions = [0, 1, 2, 3, 4, 5, 6, 99, 100, 1000]
    expected = whole("bound", "test", 1001)["terms"][positions]
    assert torch.equal(found.rows("bound", "test", "terms"), expected)


def test_parts_are_kept_apart(store):
    """Catches: rows of another split or sampler among those asked for."""
    config = study_config()
    found = made_up(store, config)
    for split in ("train", "test"):
        assert torch.equal(found.rows("bound", split, "mse"), whole("bound", split, 5)["mse"])
    assert found.has("sweep", "ddim-5")
    assert not found.has("sweep", "ddim")
    assert not found.has("ode", "ddim-5")
    with pytest.raises(ValueError, match="no units"):
        found.seen("sweep", "ddim-7")


def test_the_bound_is_the_sum_of_its_parts(store):
    """Catches: a bound without its prior, images and timesteps exchanged."""
    bound = published(store, "bound", "test", (2, 5), (0, 2)).bound("test")
    parts = whole("bound", "test", 5)
    assert torch.equal(bound.prior, parts["prior"])
    assert torch.equal(bound.terms, parts["terms"])
    assert torch.equal(bound.mse, parts["mse"])
    for image in range(5):
        by_hand = float(parts["prior"][image]) + sum(parts["terms"][image].tolist())
        assert float(bound.total[image]) == pytest.approx(by_hand)


def test_moments_and_score_are_those_of_all_images_together(store):
    """Catches: means of means where units differ in size, the last unit's alone."""
    seen = published(store, "features", "train", (4, 11), (0, 3), (3, 4)).seen("features", "train")
    together = whole("features", "train", 11)
    expected = moments_of(together["features"])
    assert seen.moments.count == 11
    torch.testing.assert_close(seen.moments.mean, expected.mean)
    torch.testing.assert_close(seen.moments.covariance, expected.covariance)
    assert seen.score == inception_score(together["probabilities"]).value


def test_a_network_without_classes_gives_no_score(store):
    """Catches: a score of nothing."""
    assert made_up(store, study_config(), has_classes=False).seen("features", "test").score is None
    with pytest.raises(ValueError, match="no units"):
        seen_of(iter(()))


def test_progress_is_of_each_moment_and_of_all_images(store):
    """Catches: moments and images exchanged, the first unit's alone."""
    found = published(store, "progress", "ancestral", (4, 6), (0, 4)).progress()
    together = whole("progress", "ancestral", 6)
    assert [t for t, _ in found] == TIMES
    for place, (_, seen) in enumerate(found):
        expected = moments_of(together["features"][place])
        assert seen.moments.count == 6
        torch.testing.assert_close(seen.moments.mean, expected.mean)
        expected_score = inception_score(together["probabilities"][place]).value
        assert seen.score == pytest.approx(expected_score)


def test_memorisation_is_what_the_unit_measured(store):
    """Catches: samples and held-out images exchanged, the other space."""
    found = published(store, "neighbours", "pixels", (0, 6)).memorisation("pixels")
    expected = whole("neighbours", "pixels", 6)
    assert torch.equal(found.samples, expected["samples"])
    assert torch.equal(found.held_out, expected["held_out"])
    assert found.threshold == 0.25


def test_what_is_gone_or_damaged_is_named(store):
    """Catches: numbers of those units that happen to be there."""
    found = published(store, "bound", "test", (0, 2), (2, 5))
    more = replace(found, units=[*found.units, Unit("bound", "test", 5, 7)])
    with pytest.raises(DamagedError, match=r"bound-test-000005\.json is gone"):
        more.bound("test")
    for name in store.names(FOLDER):
        if name.startswith("bound-test-000002") and name.endswith(".safetensors"):
            store.write(f"{FOLDER}/{name}", b"x")
    with pytest.raises(DamagedError, match="bound-test-000002"):
        found.bound("test")
