"""The texts that a network is given of images: one of the captions of each, as tokens.

Captions come with the images, or are made from the names of their classes by templates. Which of
several captions a step takes follows from (seed, step, position in the global batch): the same
after a restart, and for any number of ranks. Measuring takes the first.
"""

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core import seeding
from ddpm_core.conditioning import Text
from ddpm_core.config import RunConfig
from ddpm_core.config.captions import caption_of
from ddpm_core.errors import DataError
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.loader import Images
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.runs import results
from ddpm_core.shards.index import Index, Split, load_index
from ddpm_core.shards.members import LABEL, require_members
from ddpm_core.store.storage import Store
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

    def firsts(self, images: Images, numbers: NDArray[np.int64]) -> list[str]:
        """Return the first caption of each image; of one without the empty text."""
        return [one[0] if one else "" for one in self.captions(images, numbers)]

    def of(self, images: Images, numbers: NDArray[np.int64], draw: Draw | None) -> Text:
        """Return the texts of the images of these numbers: those drawn, or the first of each.

        Of an image without a caption it is the empty one.
        """
        if not len(numbers):
            return tokens.encode([], self.length)
        captions = self.captions(images, numbers)
        which = np.zeros(len(numbers), np.int64)
        if draw is not None:
            which = draw.of(np.array([max(1, len(one)) for one in captions], np.int64))
        chosen = [one[at] if one else "" for one, at in zip(captions, which.tolist(), strict=True)]
        return tokens.encode(chosen, self.length)

    def captions(self, images: Images, numbers: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return all captions of the images of these numbers."""
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
    return _made_by(config, index) if config.model.uses_text else None


def captions_of_data(config: RunConfig, index: Index) -> Texts | None:
    """Return how the captions of a data set are made, whoever reads them; None: it has none.

    Arguments as of `texts_of`.
    """
    texts = _made_by(config, index)
    return texts if texts.templates or index.captions else None


def _made_by(config: RunConfig, index: Index) -> Texts:
    return Texts(config.model.text_length, templates_of(config), index.label.names)


def first_captions(store: Store, config: RunConfig, split: Split, count: int) -> list[str]:
    """Return the first caption of each of the first images of a split; reads no pixel.

    Args:
        store: where the run lies.
        config: the run, of whose data set they are.
        split: of it.
        count: images, at most; there may be fewer.

    Raises:
        DataError: the run has no data set, its images have no captions, or it is damaged.
    """
    pointer = results.dataset_pointer(store, config.name)
    if pointer is None:
        raise DataError(f"run {config.name!r} has no data set yet; run the shard stage first")
    index = load_index(store, pointer.folder, pointer.fingerprint)
    texts = Texts(0, templates_of(config), index.label.names)
    numbers = np.arange(min(count, index.num_images[split]))
    cache = Cache.of_environment()
    with closing(StreamedImages(store, index, split, cache, num_decoders=1)) as images:
        require_members(images.members, texts.parts({"text"}), of="the data set")
        return texts.firsts(images, numbers)


def templates_of(config: RunConfig) -> tuple[str, ...]:
    """Return the templates of captions of classes; (): the images come with captions, or none."""
    return config.data.caption_templates if config.data.captions == "classes" else ()
