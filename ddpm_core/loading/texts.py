"""The texts that a network is given of images: one of the captions of each, as tokens.

Captions come with the images, or are made from the names of their classes by templates. Which of
several captions a step takes follows from (seed, step, position in the global batch): the same
after a restart, and for any number of ranks. Measuring takes the first.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core import seeding
from ddpm_core.conditioning import Text
from ddpm_core.config import RunConfig
from ddpm_core.config.captions import caption_of
from ddpm_core.loading.loader import Images
from ddpm_core.shards.index import Index
from ddpm_core.shards.members import LABEL
from ddpm_core.text import tokens


@dataclass(frozen=True)
class Draw:
    """At which draw of a training a caption of each image is chosen."""

    seed: int
    step: int
    positions: NDArray[np.int64]
    """(b,) of the images in the global batch"""

    def of(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which of so many is chosen for each image, (b,) of 0 ... count - 1."""
        key, positions = seeding.key(self.seed, "caption"), torch.from_numpy(self.positions)
        words = seeding.random_words(key, self.step, positions, 1)[:, 0].numpy()
        chosen: NDArray[np.int64] = words * counts >> 32
        return chosen


@dataclass(frozen=True)
class Texts:
    """How texts are made of what images come with."""

    length: int
    """tokens of each, the end among them"""
    templates: tuple[str, ...] = ()
    """of captions of classes; (): the images come with captions"""
    names: tuple[str, ...] = ()
    """of the classes"""

    def parts(self, accepts: Collection[str]) -> frozenset[str]:
        """Return what the images must come with for a network that accepts this."""
        return frozenset(LABEL if one == "text" and self.templates else one for one in accepts)

    def of(self, images: Images, numbers: NDArray[np.int64], draw: Draw | None) -> Text:
        """Return the texts of the images of these numbers: those drawn, or the first of each.

        Of an image without a caption it is the empty one.
        """
        if not len(numbers):
            return tokens.encode([], self.length)
        captions = self._captions(images, numbers)
        which = np.zeros(len(numbers), np.int64)
        if draw is not None:
            which = draw.of(np.array([max(1, len(one)) for one in captions], np.int64))
        chosen = [one[at] if one else "" for one, at in zip(captions, which.tolist(), strict=True)]
        return tokens.encode(chosen, self.length)

    def _captions(self, images: Images, numbers: NDArray[np.int64]) -> list[tuple[str, ...]]:
        if not self.templates:
            return images.captions(numbers)
        names = [self.names[label] for label in images.member(LABEL, numbers).tolist()]
        return [tuple(caption_of(one, name) for one in self.templates) for name in names]


def texts_of(config: RunConfig, index: Index) -> Texts | None:
    """Return how texts are made for the network of a run; None: it takes none.

    Args:
        config: the run.
        index: of its data set.
    """
    if not config.model.uses_text:
        return None
    data = config.data
    templates = data.caption_templates if data.captions == "classes" else ()
    return Texts(config.model.text_length, templates, index.label.names)
