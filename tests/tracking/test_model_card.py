"""What a version's page says of the model."""

import json
from types import SimpleNamespace

import pytest

from ddpm_core.runs import layout
from ddpm_core.runs.weights import Weights
from ddpm_core.store.commit import commit, write_file
from ddpm_core.tracking.identity import drawn_otherwise
from ddpm_core.tracking.model_card import OURS, card_of, is_ours, tags_of
from tests.quiet_mlflow import mlflow  # noqa: F401 - before what imports it


@pytest.fixture
def weights(store, config):
    record = write_file(store, f"runs/{config.name}/w", "ema", ".safetensors", b"weights")
    return Weights(commit(store, f"runs/{config.name}/w", {"ema": record}, {"step": 10}), config)


def measured(store, config, sha256, *, bits, **more):
    protocol = {"num_images": 64}
    numbers = {
        "bits_per_dim": {"value": bits, "standard_error": 0.25, "protocol": protocol},
        "frechet_distance": {"value": None, "reason": "one class"},
        **more,
    }
    folder = layout.evaluation_folder(config.name, f"{bits:016.0f}")
    record = write_file(store, folder, "metrics", ".json", json.dumps(numbers).encode())
    commit(store, folder, {"metrics": record}, {"ema_sha256": sha256})


def test_the_card_has_all_that_was_measured_of_these_weights(store, config, weights):
    """Catches: numbers of other weights, and a second measurement that the card does not know."""
    assert "Not measured yet." in card_of(store, "ddpm-digits", config, weights)
    measured(store, config, weights.sha256, bits=5)
    measured(store, config, "0" * 64, bits=7)
    extra = {"kernel_distance": {"samples_test": {"value": 0.125}}}
    measured(store, config, weights.sha256, bits=6, **extra)
    card = card_of(store, "ddpm-digits", config, weights)
    assert "- bits/dim: 5.000 ± 0.250  (bound, 64 held-out images)" in card
    assert "- bits/dim: 6.000 ± 0.250" in card
    assert "- kernel distance: 0.125" in card
    assert "7.000" not in card
    assert weights.sha256 in card


class Registry:
    """A version in MLflow; a rewriting that is cut off after its first request, if `is_cut`."""

    def __init__(self, card):
        self.client, self.is_cut = self, False
        self.name, self.version, self.description, self.tags = "ddpm-digits", "1", card, {}
        self.tags |= tags_of(card)

    def set_model_version_tag(self, _name, _version, key, value):
        self.tags[key] = value
        if self.is_cut:
            raise ConnectionError

    def update_model_version(self, _name, _version, description):
        self.description = description


def test_a_card_is_written_anew_and_a_user_s_stays():
    """Catches: numbers of the first measurement for ever; a text of a user's that is written over;
    and a card that counts as a user's because the rewriting was cut off in between."""
    from ddpm_core.tracking import model

    version = Registry("one")
    version.is_cut = True
    with pytest.raises(ConnectionError):
        model._rewrite(version, version, "two")
    assert version.description == "one"
    version.is_cut = False
    model._rewrite(version, version, "two")
    assert version.description == "two"
    version.description = "two, and mine"
    model._rewrite(version, version, "three")
    assert version.description == "two, and mine"
    before = SimpleNamespace(description="Draws images like those of `x`", tags={})
    assert is_ours(before)
    assert OURS not in before.tags


def test_another_measurement_is_told_from_other_images():
    """Catches: numbers of other images on the card of the run's own, and more images of the same
    that do not count."""
    anew = {"evaluate.metrics": ["intervals"], "sample.num_images": 9}
    assert not drawn_otherwise(anew)
    assert drawn_otherwise({**anew, "sample.eta": 1.0}) == {"sample.eta"}
