"""What a data set that is made of others will consist of, before anything of it is made."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ddpm_core.composing.agree import Given
from ddpm_core.composing.choose import chosen_labels, listed_keys
from ddpm_core.composing.compose import Plan, plan
from ddpm_core.config import DataConfig, RunConfig
from ddpm_core.errors import ConfigError
from ddpm_core.runs import grown_data, named_data
from ddpm_core.shards.captions import CaptionCounts, sum_of
from ddpm_core.shards.index import SPLITS, Index, Split, load_index
from ddpm_core.sources.glance import Glance
from ddpm_core.store.pinned_file import read_pinned
from ddpm_core.store.storage import Store


def composed_plan(store: Store, config: RunConfig) -> Plan:
    """Return what becomes of the data sets that `data.sets` names.

    Raises:
        ConfigError: there is no such data set, or the weights, the classes that are to stay or the
            list cannot be used.
        DataError: an index is damaged or gone, or the data sets cannot become one.
    """
    named, sets = named_data.named_sets(store, config), config.data.references
    refs = () if sets is None else sets.refs
    given = [
        Given(
            one.pinned,
            load_index(store, one.pointer.folder, one.pointer.fingerprint),
            # As it was written: 0.7 is 7/10, and no float is.
            None if ref.weight is None else Fraction(str(ref.weight)),
        )
        for ref, one in zip(refs, named, strict=True)
    ]
    return plan(config.data, given, keys=keys_of(config.data))


def keys_of(data: DataConfig) -> bytes | None:
    """Return the content of the list `data.only_keys`, if one is given.

    Raises:
        ConfigError: it cannot be read, is another file than its digest says, or lists nothing.
    """
    if data.only_keys_sha256 is None:
        return None
    if data.only_keys is None:
        raise ConfigError(
            "data.only_keys_sha256 is given and data.only_keys is not; give the file too"
        )
    content = read_pinned(data.only_keys, data.only_keys_sha256, key="data.only_keys")
    listed_keys(content)
    return content


def glance_of(made: Plan) -> Glance:
    """Return what a data set will consist of; numbers where the indexes alone tell them."""
    counts = {split: np.zeros(len(made.names), np.int64) for split in SPLITS}
    for given, labels in zip(made.given, made.labels, strict=True):
        for split in SPLITS:
            for label, count in zip(labels, given.index.label.counts[split], strict=True):
                if label >= 0:
                    counts[split][label] += count
    train, test = (int(counts[split].sum()) for split in SPLITS)
    names, weights = [one.name for one in made.given], made.weights or (None,) * len(made.given)
    text = ", ".join(
        name if weight is None else f"{name} ({weight} of {sum(made.weights or ())})"
        for name, weight in zip(names, weights, strict=True)
    )
    captions = None if made.chooses else _captions(made)
    if made.keys is not None or made.data.duplicates == "drop":
        return Glance(
            None, None, f"at most {train} to train on and {test} held out, of {text}", made.names
        )
    return Glance(
        train,
        test,
        f"{train} images to train on, {test} held out, of {text}",
        made.names,
        tuple(counts["train"].tolist()),
        captions,
    )


def captions_of(index: Index) -> dict[Split, CaptionCounts] | None:
    """Return split -> captions of the images of a data set; None: they have none."""
    counts = None if index.captions is None else index.captions.counts
    return None if counts is None else {split: counts[split] for split in SPLITS}


def _captions(made: Plan) -> dict[Split, CaptionCounts] | None:
    """Return the captions of all images of the data sets together; None: they have none."""
    each = [(one.index, captions_of(one.index)) for one in made.given]
    if all(captions is None for _, captions in each):
        return None
    return {
        split: sum_of(
            CaptionCounts(Counter({0: index.num_images[split]}))
            if captions is None
            else captions[split]
            for index, captions in each
        )
        for split in SPLITS
    }


def grown(store: Store, config: RunConfig, seen: Glance) -> Glance:
    """Return what a data set that grows will consist of; numbers are not known before it is made.

    Args:
        store: the root.
        config: of a run that lets it grow.
        seen: what its source has, with what is there already.

    Raises:
        RunConflictError: it has grown since.
        DataError: its index is damaged or gone.
    """
    base = grown_data.grows(store, config)
    index = load_index(store, base.pointer.folder, base.pointer.fingerprint)
    names = tuple(dict.fromkeys((*index.label.names, *(seen.classes or ()))))
    total = sum(index.num_images.values())
    text = f"{base.pinned} with {total} images, and what of these it has not: {seen.text}"
    return Glance(None, None, text, names)


def part_of(data: DataConfig, seen: Glance) -> Glance:
    """Return what stays of the images of a source, as far as can be known now.

    Raises:
        ConfigError: the classes that are to stay are none of them, or the list cannot be read.
    """
    if not data.is_part:
        return seen
    keys_of(data)
    names, labels = seen.classes, tuple(range(len(seen.classes or ())))
    if names is not None:
        names, labels = chosen_labels(names, data.only_classes)
    counts = seen.class_counts
    if counts is not None:
        counts = tuple(count for label, count in zip(labels, counts, strict=True) if label >= 0)
    text = f"of these some stay: {_rules(data)}; {seen.text}"
    return replace(
        seen,
        num_train=None,
        num_test=None,
        text=text,
        classes=names,
        class_counts=counts,
        captions=None,
    )


def _rules(data: DataConfig) -> str:
    rules = [
        (bool(data.only_classes), f"of the classes {', '.join(map(str, data.only_classes))}"),
        (data.only_keys_sha256 is not None, "those that data.only_keys lists"),
        (data.duplicates == "drop", "of equal ones the first"),
    ]
    return ", ".join(text for holds, text in rules if holds)
