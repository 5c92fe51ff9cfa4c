"""The captions of a data set as prompts: the first of each image that has one, in their order."""

from contextlib import closing

import numpy as np

from ddpm_core.config import RunConfig
from ddpm_core.loading.loader import load_split
from ddpm_core.loading.texts import texts_of
from ddpm_core.runs import results
from ddpm_core.runs.reference import trained_by
from ddpm_core.shards.index import Index, Split, load_index
from ddpm_core.store.storage import Store

MAX_IMAGES = 2**14
"""whose captions are prompts: the first of a split; images beyond have them again in turn"""
_AT_ONCE = 1024


def captions_named(store: Store, config: RunConfig) -> tuple[str, ...] | None:
    """Return the captions that `sample.prompts` names by a word, of the data set of the run that
    trained the weights; where that has none, of the run's own.

    Returns:
        None where it names none, or no data set with captions is known.

    Raises:
        DataError: an index or captions cannot be read.
        ConfigError: as `trained_by`.
    """
    if not config.model.uses_text or not isinstance(config.sample.prompts, str):
        return None
    split: Split = "test" if config.sample.prompts == "held_out" else "train"
    for run in (trained_by(store, config), config):
        pointer = results.dataset_pointer(store, run.name)
        if pointer is not None:
            index = load_index(store, pointer.folder, pointer.fingerprint)
            return first_captions(store, run, index, split)
    return None


def first_captions(
    store: Store, config: RunConfig, index: Index, split: Split
) -> tuple[str, ...] | None:
    """Return the first caption of each of the first images of a split that have one.

    Args:
        store: where the data set is.
        config: of a run on it, which says how captions are made of classes.
        index: of the data set.
        split: which part of it.

    Returns:
        None where its images come without captions.
    """
    texts = texts_of(config, index)
    if texts is None or not (texts.templates or index.captions):
        return None
    with closing(load_split(store, index, split)) as images:
        count = min(len(images), MAX_IMAGES)
        found = [
            own
            for start in range(0, count, _AT_ONCE)
            for own in texts.captions(images, np.arange(start, min(start + _AT_ONCE, count)))
        ]
    return tuple(own[0] for own in found if own)
