"""Data sets that are made: what they are, and that they stay these."""

import numpy as np
import pytest

from ddpm_core.config import DataConfig
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import recipe
from ddpm_core.sources.generated import ROLL_NOISE, roll_at
from ddpm_core.sources.glance import glance
from ddpm_core.sources.splits import load_splits

HEARTBEAT = recipe("heartbeat").data
ROLL = DataConfig(name="swiss_roll", height=1, width=2, depth=16)


def test_heartbeats_are_the_five_sequences_alike(tmp_path):
    """Catches a pulse at every fourth bit, bits of other levels, labels of other sequences."""
    splits = load_splits(HEARTBEAT, cache=tmp_path)
    assert (len(splits.train), len(splits.test)) == (2000, 500)
    for images in (splits.train, splits.test):
        assert (images.images_u8.shape[1:], images.images_u8.dtype) == ((1, 20, 1), np.uint8)
        bits = images.images_u8[:, 0, :, 0]
        assert set(np.unique(bits)) == {0, 255}
        places = np.arange(20)
        assert ((bits == 255) == (places % 5 == images.labels[:, None])).all()
        assert np.abs(np.bincount(images.labels) / len(images) - 0.2).max() < 0.04


def test_points_lie_on_the_roll_but_for_their_noise(tmp_path):
    """Catches noise of another size, coordinates exchanged, and levels of 8 bits."""
    splits = load_splits(ROLL, cache=tmp_path)
    assert (len(splits.train), len(splits.test)) == (10_000, 2000)
    assert (splits.train.images_u8.shape[1:], splits.train.images_u8.dtype) == (
        (1, 2, 1),
        np.uint16,
    )
    points = splits.test.images_u8.reshape(-1, 2) / 32767.5 - 1
    curve = roll_at(np.linspace(0, 1, 5000))
    away = ((points[:, None] - curve) ** 2).sum(2).min(1)
    # Across the roll there is one direction of noise.
    assert np.sqrt(away.mean()) == pytest.approx(ROLL_NOISE, rel=0.05)
    assert np.abs(roll_at(np.array([0.0, 1.0])) - [[0, -0.2945243], [0, 0.8835729]]).max() < 1e-6
    assert len(np.unique(splits.train.images_u8)) > 10_000


def test_they_are_these_for_ever(tmp_path):
    """Catches any change of a bit: runs of two versions would not be the same. Splits differ."""
    beats, roll = (load_splits(data, cache=tmp_path) for data in (HEARTBEAT, ROLL))
    assert beats.digest()[:16] == "1a856b60f5a85a8a"
    assert roll.digest()[:16] == "e1e696eb317d9dd4"
    assert not np.array_equal(beats.train.labels[:500], beats.test.labels)
    fewer = load_splits(ROLL.model_copy(update={"num_test_images": 10}), cache=tmp_path)
    assert np.array_equal(fewer.test.images_u8, roll.test.images_u8[:10])
    text = glance(HEARTBEAT, cache=tmp_path).text
    assert text == "2000 images to train on, 500 held out, heartbeat, made here"


def test_points_have_16_bits():
    """Catches a roll that is cut to 256 levels a side without a word."""
    with pytest.raises(ValueError, match="coordinates of swiss_roll have 16 bits each"):
        DataConfig(name="swiss_roll", height=1, width=2)
    with pytest.raises(ConfigError, match="depth=16 is a setting of collections"):
        recipe("digits").replaced({"data.depth": 16})
