"""How often each value and each class occurs in a data set, and what follows from that."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.shards.captions import CaptionCounts

_BLOCK_IMAGES = 256  # counted at once: bounds the memory


class Counts:
    """How often each value and each class occurs: whole numbers, the same on every machine."""

    def __init__(self, channels: int, num_classes: int, num_levels: int = 256) -> None:
        self.classes = np.zeros(num_classes, np.int64)
        """images of each class"""
        self.captions = CaptionCounts()
        """of a data set that has some"""
        self._values = np.zeros((channels, num_levels), np.int64)
        self._block: list[NDArray[Any]] = []

    def add(self, label: int, pixels: NDArray[Any]) -> None:
        """Count an image, (height, width, channels)."""
        self.classes[label] += 1
        self._block.append(pixels)
        if len(self._block) == _BLOCK_IMAGES:
            self._count()

    def take(
        self, classes: NDArray[np.int64], values: NDArray[np.int64], captions: CaptionCounts
    ) -> None:
        """Take what was counted elsewhere: images of each class, `histogram` and captions."""
        self.classes += classes
        self._values += values
        self.captions.take(captions)

    def histogram(self) -> NDArray[np.int64]:
        """Return how often each value occurs, (channels, num_levels)."""
        self._count()
        return self._values

    def _count(self) -> None:
        if self._block:
            block = np.stack(self._block)
            for channel, values in enumerate(self._values):
                values += np.bincount(block[..., channel].ravel(), minlength=len(values))
            self._block = []


def mean_and_std(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return both per channel, from whole numbers: the same on every machine to the last digit."""
    values = range(histogram.shape[1])
    mean, std = [], []
    for counts in histogram.tolist():  # Python's whole numbers: squares of 10**12 pixels fit
        number = max(sum(counts), 1)  # of no image both are 0
        total = sum(count * value for count, value in zip(counts, values, strict=True))
        squares = sum(count * value**2 for count, value in zip(counts, values, strict=True))
        mean.append(total / number)
        std.append(math.sqrt(number * squares - total**2) / number)
    return mean, std
