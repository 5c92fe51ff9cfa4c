"""The held-out images that a run of `model.low_size` enlarges without a `sample.low_from`."""

from contextlib import closing

import numpy as np

from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError
from ddpm_core.loading.loader import Images, load_split
from ddpm_core.loading.texts import texts_of
from ddpm_core.runs import results
from ddpm_core.shards.index import Index, load_index
from ddpm_core.store.storage import Store


def held_out_index(store: Store, config: RunConfig) -> Index:
    """Return the index of a run's data set, which has held-out images.

    Raises:
        DataError: it has none, or the run no data set.
    """
    pointer = results.dataset_pointer(store, config.name)
    if pointer is None:
        raise DataError(
            f"run {config.name!r} enlarges held-out images and has no data set; run the shard "
            "stage first, or give sample.low_from"
        )
    index = load_index(store, pointer.folder, pointer.fingerprint)
    if not index.num_images["test"]:
        raise DataError(
            f"run {config.name!r} enlarges held-out images, and its data set has none: give "
            "sample.low_from, or a data set with some (data.num_test_images)"
        )
    return index


def open_held_out(store: Store, index: Index) -> Images:
    """Return the held-out images, in 8 bits."""
    return load_split(store, index, "test", eight_bits=True)


def held_out_plan(
    store: Store, config: RunConfig
) -> tuple[tuple[int, ...], tuple[str, ...], tuple[str, ...]]:
    """Return what the held-out images are of, in turn.

    Returns:
        Their labels and the names of the classes, both empty where there is one class; and, for a
        network of texts, the first caption of each.

    Raises:
        DataError: as `held_out_index`.
    """
    index = held_out_index(store, config)
    names, texts = index.label.names, texts_of(config, index)
    if len(names) < 2 and texts is None:
        return (), (), ()
    with closing(open_held_out(store, index)) as held_out:
        numbers = np.arange(len(held_out))
        captions = () if texts is None else tuple(texts.firsts(held_out, numbers))
        if len(names) < 2:
            return (), (), captions
        return tuple(held_out.member("label", numbers).tolist()), names, captions
