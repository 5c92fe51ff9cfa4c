"""Which images of a data set stay: by class, by a list of keys, and of equal ones the first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import ConfigError
from ddpm_core.images.names import quoted
from ddpm_core.shards.lineage import LeftOut

_NUM_SHOWN = 3


@dataclass(frozen=True)
class Row:
    """The images of one shard, as columns."""

    labels: NDArray[np.int64]
    """(n,) among the classes of the new data set; -1: of a class that is left out"""
    keys: tuple[tuple[str, ...], ...]
    """(n) names by which a list may mean each"""
    digests: NDArray[np.uint64]
    """(n, 4) SHA-256 of each image's file in the shard"""
    captions: tuple[bytes, ...] = ()
    """(n) the file of each one's captions, where keys are wanted too and there are any; else ()"""


def chosen_labels(
    names: Sequence[str], only: Sequence[str | int]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the classes that stay, in the order that they have, and the new label of each old one.

    Args:
        names: of all classes.
        only: names or numbers of those that stay; () for all.

    Returns:
        The names that stay; and for each of `names` its number among them, or -1.

    Raises:
        ConfigError: one of `only` is no class, or they say one class twice.
    """
    if not only:
        return tuple(names), tuple(range(len(names)))
    wanted: list[int] = []
    for one in only:
        found = [at for at, name in enumerate(names) if one in (at, name)]
        if len(found) != 1:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise ConfigError(
                f"data.only_classes has {one!r}, which "
                + ("is no class of the images" if not found else "two classes are called")
                + f"; there are {len(names)}, with the numbers 0 to {len(names) - 1}: {shown}"
            )
        if found[0] in wanted:
            raise ConfigError(f"data.only_classes says the class {names[found[0]]!r} twice")
        wanted += found
    wanted.sort()
    labels = [-1] * len(names)
    for label, at in enumerate(wanted):
        labels[at] = label
    return tuple(names[at] for at in wanted), tuple(labels)


def listed_keys(content: bytes) -> frozenset[str]:
    """Return the keys of a list: a line each, in UTF-8; empty lines do not count.

    Raises:
        ConfigError: there is none.
    """
    lines = content.decode("utf-8", "surrogateescape").splitlines()
    keys = frozenset(line for line in lines if line)
    if not keys:
        raise ConfigError("data.only_keys lists no key; write the key of an image in each line")
    return keys


def require_known(keys: frozenset[str], rows: Sequence[Row]) -> None:
    """Refuse a list with keys that no image has: it is of other images.

    Raises:
        ConfigError: with the first of them.
    """
    unknown = set(keys)
    for row in rows:
        for names in row.keys:
            unknown.difference_update(names)
    if unknown:
        first = ", ".join(quoted(key) for key in sorted(unknown)[:_NUM_SHOWN])
        raise ConfigError(
            f"data.only_keys has {len(unknown)} keys that no image has, as {first}; the key of an "
            "image is its name at the source below the folder that everything lies in, or its name "
            "in the shard, train-00000000"
        )


def stay(
    train: Sequence[Row],
    test: Sequence[Row],
    *,
    keys: frozenset[str] | None,
    drop_duplicates: bool,
) -> tuple[dict[str, list[NDArray[np.bool_]]], dict[str, LeftOut]]:
    """Return which images of each shard stay, and how many of each split do not.

    Of images of equal bytes the first stays, in the order of the shards, which is that of the keys;
    where the held-out split has one of them, that one, so that no image that is trained on is
    measured with.

    Args:
        train: the shards of the training split, in order.
        test: those of the held-out split.
        keys: of the images that stay; None: all.
        drop_duplicates: whether of equal images one stays.
    """
    rows = [*test, *train]
    counts = [len(row.labels) for row in rows]
    labelled = _joined([row.labels >= 0 for row in rows])
    listed = np.ones_like(labelled)
    if keys is not None:
        own = [[not keys.isdisjoint(names) for names in row.keys] for row in rows]
        listed = _joined([np.array(one, bool) for one in own])
    taken = labelled & listed
    first = np.ones_like(taken)
    if drop_duplicates:
        digests = np.concatenate([np.empty((0, 4), np.uint64), *(row.digests for row in rows)])
        first = _is_first(digests, taken)
    ends = np.cumsum(counts)[:-1]
    masks = np.split(taken & first, ends) if rows else []
    at = sum(counts[: len(test)])
    report = {
        split: LeftOut(
            int((~labelled[part]).sum()),
            int((labelled & ~listed)[part].sum()),
            int((taken & ~first)[part].sum()),
        )
        for split, part in (("train", slice(at, None)), ("test", slice(0, at)))
    }
    return {"test": masks[: len(test)], "train": masks[len(test) :]}, report


def unknown(known: Sequence[Row], rows: Sequence[Row]) -> tuple[list[NDArray[np.bool_]], int]:
    """Return which images of each shard are equal to none of those that are known; and the others.

    Args:
        known: all shards of a data set, of both splits.
        rows: shards of which images are to be added to it.
    """
    there = {digest.tobytes() for row in known for digest in row.digests}
    masks = [
        np.array([digest.tobytes() not in there for digest in row.digests], bool) for row in rows
    ]
    return masks, sum(int((~mask).sum()) for mask in masks)


def _is_first(digests: NDArray[np.uint64], taken: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the taken ones have no equal one before them."""
    places = np.flatnonzero(taken)
    own = digests[places]
    # Stable: equal ones keep their order. The first of each run of equal ones is the first of all.
    order = np.lexsort(own.T)
    is_new = np.ones(len(order), bool)
    is_new[1:] = (own[order][1:] != own[order][:-1]).any(axis=1)
    first = np.zeros(len(digests), bool)
    first[places[order[is_new]]] = True
    return first


def _joined(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.concatenate([np.empty(0, bool), *masks])
