"""Data sets that are made, not read: heartbeats and the Swiss roll, with the truth about both.

Image i of a split is a function of (split, i): the first of many are the same images.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 3.1. The paper does not say how its
Swiss roll is spread; here it is that of scikit-learn's `make_swiss_roll` without the third axis,
in units of 1/16.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.sources.raw_images import RawImages

HEARTBEAT_CLASSES = ("0", "1", "2", "3", "4")
"""at which of the first five bits the first pulse is"""
ROLL_CLASSES = ("point",)
NUM_TRAIN = {"heartbeat": 2000, "swiss_roll": 10_000}
NUM_TEST = {"heartbeat": 500, "swiss_roll": 2000}
_NUM_BITS, _PERIOD = 20, 5
ROLL_SCALE, ROLL_NOISE = 1 / 16, 1 / 16
"""how large a coordinate of the roll is, and the standard deviation of the noise on it"""
_SEED = 2015
"""in no configuration: the images are part of the data set"""
_SPLITS = ("train", "test")


def heartbeats() -> tuple[RawImages, RawImages]:
    """Return sequences of 20 bits with a pulse at every fifth, as images of 1x20 of levels 0, 255.

    Each of the five is as probable, so that a sequence has log2 5 = 2.32 bits.
    """
    return _split("heartbeat", _beats), _split("heartbeat", _beats, held_out=True)


def swiss_roll() -> tuple[RawImages, RawImages]:
    """Return points of a roll in the plane, x and y, as images of 1x2 of 65536 levels, -1 to 1."""
    return _split("swiss_roll", _points), _split("swiss_roll", _points, held_out=True)


def roll_at(u: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the points of the roll without noise at u in [0, 1], (..., 2)."""
    angle = 1.5 * math.pi * (1 + 2 * u)
    return ROLL_SCALE * np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=-1)


def _beats(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    phase = (words[:, 0] % _PERIOD).astype(np.int64)
    pulses = np.arange(_NUM_BITS) % _PERIOD == phase[:, None]
    return np.where(pulses, 255, 0).astype(np.uint8), phase


def _points(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    u, radius, turn = ((words[:, number] >> 11) * 2.0**-53 for number in range(3))
    length = ROLL_NOISE * np.sqrt(-2 * np.log1p(-radius))
    angle = 2 * math.pi * turn
    noise = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    levels = np.rint((roll_at(u) + noise + 1) * 32767.5).clip(0, 65535)
    return levels.astype(np.uint16), np.zeros(len(u), np.int64)


def _split(
    name: str,
    make: Callable[[NDArray[np.uint64]], tuple[NDArray[Any], NDArray[np.int64]]],
    *,
    held_out: bool = False,
) -> RawImages:
    count = (NUM_TEST if held_out else NUM_TRAIN)[name]
    # Its raw words are the same in every version; four of them are an image's own.
    words = np.random.Philox(key=np.array([_SEED, held_out], np.uint64)).random_raw(4 * count)
    values, labels = make(words.reshape(count, 4))
    return RawImages(values[:, np.newaxis, :, np.newaxis], labels, _SPLITS[held_out])
