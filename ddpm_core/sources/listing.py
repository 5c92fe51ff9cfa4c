"""Which images a container holds, in what order, of what class, and which are held out.

Everything follows from the names alone: not from the order in which a disk lists them, not from
the machine, not from a seed.

    train/<class>/<any path>     the folders of a split; see `split_folders`
    test/<class>/<any path>
    <class>/<any path>           no splits: some are held out by the digest of their keys
    <any name>                   no classes either: one class, "all"

A folder that everything lies in, as zips of a folder have it, does not count.
"""

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images.names import (
    HARMLESS,
    NAME_OF_A_SYSTEM,
    bytes_of,
    quoted,
    reason_to_pass_over,
    shown,
    text_of,
)
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.index import Split
from ddpm_core.sources.captions import Captions
from ddpm_core.sources.containers.container import MAX_ENTRIES, Container, PassedOver
from ddpm_core.sources.folder_runs import Run, folders_of, runs_of
from ddpm_core.sources.items import NO_LABEL, Items, Rows
from ddpm_core.sources.split_folders import TEST_FOLDERS, SplitFolders, find_split_folders

ONLY_CLASS = "all"
MAX_CLASSES = 2**16
_HELD_OUT = b"ddpm-pipeline: held out:"
_DEFAULT_SHARE = 10  # a tenth is held out by default
_MAX_DEFAULT = 1000
_OUTSIDE = "outside the folders of the two splits"


@dataclass(frozen=True)
class Listing:
    """All images of a container."""

    train: Items
    test: Items
    classes: tuple[str, ...]
    """what label 0, 1, ... means; the names of folders are in the order of their bytes"""
    passed_over: PassedOver
    """what was left out, and why"""

    def caption_counts(self) -> dict[Split, CaptionCounts] | None:
        """Return split -> captions of its images; None: they come without."""
        train, test = self.train.caption_counts(), self.test.caption_counts()
        return None if train is None or test is None else {"train": train, "test": test}

    def only(self, train: NDArray[np.int64], test: NDArray[np.int64]) -> "Listing":
        """Return the images of these numbers in each split; the classes stay what they are."""
        return replace(self, train=self.train.chosen(train), test=self.test.chosen(test))


def list_images(
    container: Container,
    *,
    num_test_images: int | None,
    on_bad: Literal["few", "fail", "skip"] = "fail",
    max_bad_share: float = 0,
    class_folders: bool = True,
    captions: Captions | None = None,
) -> Listing:
    """Return the images of a container.

    Held out of the training are, where there are split folders, `num_test_images` of the test
    folder (None: all of it); else that many of all (None: a tenth, 1 to 1000). It is those whose
    keys have the smallest SHA-256. So an image that is added either takes the place of the largest
    of these digests, or changes nothing; no other image ever changes its split.

    Args:
        container: where they lie.
        num_test_images: images to hold out.
        on_bad: what to do about files that may be images, but cannot be read by their name or kind
            (`photo.bmp`, a pipe): "fail" refuses the container, "skip" leaves them out (see
            `passed_over`), "few" leaves out up to `max_bad_share` of all files.
        max_bad_share: see there.
        class_folders: whether folders are classes; if not there is one class, "all".
        captions: where those of the images are; None: they have none.

    Raises:
        DataError: the container is damaged, holds no image, or too few, or only one split; the
            message says what to do.
        StorageError: it does not answer.
    """
    passed_over, uri = PassedOver(), shown(container.uri)
    container.beside = captions.endings if captions is not None else ()
    rows = _read_rows(container, passed_over, captions)
    _refuse_lost(uri, passed_over, len(rows), on_bad, max_bad_share)
    if not len(rows):
        lines = "".join(f"\n  {line}" for line in passed_over.lines())
        raise DataError(
            f"{uri} holds no image; data.source must be a folder, an archive or a "
            f"bucket with png, jpeg, webp or gif files{lines}"
        )
    start = _num_stripped(rows)
    if captions is not None:
        found = captions.read(container, rows, start, passed_over)
        rows = replace(rows, captions=found)
    has_classes = class_folders and container.folders_are_classes
    runs = list(runs_of(rows, start))
    split_folders = find_split_folders(folders_of(runs), has_classes=has_classes, uri=uri)
    splits, folder_of, folders = _splits_and_classes(
        rows, runs, split_folders, passed_over, has_classes
    )
    classes, labels = _labels(rows, folder_of, folders, splits, uri)
    train, test = (np.flatnonzero(splits == number) for number in (0, 1))
    train, test = _held_out(
        rows, start, train, test, num_test_images, uri, has_test=split_folders is not None
    )
    return Listing(
        Items(rows, train, labels[train], start),
        Items(rows, test, labels[test], start),
        classes,
        passed_over,
    )


def _read_rows(container: Container, passed_over: PassedOver, captions: Captions | None) -> Rows:
    names: list[bytes] = []
    sizes, where, given = array("q"), array("q"), array("i")
    for entry in container.entries(passed_over):
        reason = reason_to_pass_over(entry.name)
        if reason is not None:
            is_of_a_system = reason == NAME_OF_A_SYSTEM
            if captions is not None and not is_of_a_system and captions.takes(entry):
                continue
            passed_over.add(reason, entry.name, harmless=reason in HARMLESS)
            continue
        names.append(bytes_of(entry.name))
        sizes.append(entry.size)
        where.extend(entry.where)
        given.append(NO_LABEL if entry.label is None else entry.label)
        if len(names) > MAX_ENTRIES:
            raise DataError(
                f"{shown(container.uri)} holds over {MAX_ENTRIES} images, which is as many as are "
                "listed; split it"
            )
    order = np.array(names, dtype=object).argsort(kind="stable")
    for before, after in pairwise(order):
        if names[before] == names[after]:
            raise DataError(
                f"{shown(container.uri)} holds {quoted(text_of(names[after]))} twice; which one is "
                "meant nobody can know: make the archive again, from a folder"
            )
    width = len(where) // len(names) if names else 0
    return Rows(
        b"".join(names[row] for row in order),
        np.cumsum(np.array([len(name) for name in names], np.int64)[order]),
        np.array(sizes, np.int64)[order],
        np.array(where, np.int64).reshape(len(names), width)[order],
        np.array(given, np.int32)[order],
    )


def _refuse_lost(
    uri: str, passed_over: PassedOver, num_images: int, on_bad: str, max_bad_share: float
) -> None:
    """Refuse files that may have been meant as images, where they are not to be left out."""
    lost = sum(passed_over.counts[reason] for reason in passed_over.lost)
    may_lack = max_bad_share * (num_images + lost) if on_bad == "few" else 0
    if on_bad == "skip" or lost <= may_lack:
        return
    lines = "\n".join(f"  {line}" for line in passed_over.lines(only_lost=True))
    than = f", more than data.max_bad_share={max_bad_share} of all" if on_bad == "few" else ""
    raise DataError(
        f"{uri} holds files that are no images that can be read{than}:\n{lines}\n"
        "Convert them or take them out, or leave them out with data.on_bad='skip'"
    )


def _num_stripped(rows: Rows) -> int:
    """Return the length of the folders, with their slashes, that all names begin with."""
    # In the order of bytes, what the first and the last begin with all begin with.
    first, last = rows.name(0), rows.name(len(rows) - 1)
    start = 0
    while True:
        folder, slash, _ = first[start:].partition(b"/")
        is_split = folder.lower() in TEST_FOLDERS  # alone it is a mistake; train alone is not
        if not slash or is_split or not last[start:].startswith(folder + slash):
            return start
        start += len(folder) + 1


def _splits_and_classes(
    rows: Rows,
    runs: Iterable[Run],
    split_folders: SplitFolders | None,
    passed_over: PassedOver,
    class_folders: bool,
) -> tuple[NDArray[np.int8], NDArray[np.int32], list[bytes]]:
    """Return for each row 0 (train), 1 (test) or -1 (neither), and the number of its class's folder
    or -1; and these folders.
    """
    splits = np.zeros(len(rows), np.int8)
    numbers = np.full(len(rows), NO_LABEL, np.int32)
    number_of = {split_folders.train: 0, split_folders.test: 1} if split_folders else {}
    known: dict[bytes, int] = {}
    for run in runs:
        own, folder = slice(run.first, run.stop), run.top
        if split_folders is not None:
            split = number_of.get(run.top.lower(), -1)
            splits[own] = split
            folder = run.below
            for row in range(run.first, run.stop) if split < 0 else ():
                passed_over.add(_OUTSIDE, text_of(rows.name(row)), harmless=True)
        if class_folders and folder:
            numbers[own] = known.setdefault(folder, len(known))
    return splits, numbers, list(known)


def _labels(
    rows: Rows,
    folder_of: NDArray[np.int32],
    folders: list[bytes],
    splits: NDArray[np.int8],
    uri: str,
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return what the classes are called, and the class of each row."""
    used = np.flatnonzero(splits >= 0)
    given = rows.given[used]
    if (given != NO_LABEL).any():
        if (given == NO_LABEL).any():
            lacking = text_of(rows.name(int(used[(given == NO_LABEL).argmax()])))
            raise DataError(f"{uri} gives classes, but none to {quoted(lacking)}; give it one")
        return tuple(str(number) for number in range(int(given.max()) + 1)), rows.given
    numbers = np.unique(folder_of[used])
    names = sorted(folders[number] for number in numbers.tolist() if number != NO_LABEL)
    if not names:
        return (ONLY_CLASS,), np.zeros(len(rows), np.int32)
    loose = used[folder_of[used] == NO_LABEL]
    if len(loose):
        first = quoted(text_of(rows.name(int(loose[0]))))
        raise DataError(
            f"{uri} has folders, such as {quoted(text_of(names[0]))}, that would be classes, and "
            f"{len(loose)} images beside them, the first {first}; put these into "
            "folders or take them out, or set data.class_folders=False"
        )
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"{uri} has {len(names)} folders that would be classes; at most {MAX_CLASSES} are "
            "told apart. Set data.class_folders=False"
        )
    number_of = {name: number for number, name in enumerate(names)}
    # The last is for rows without a folder.
    labels = np.array([*(number_of.get(name, -1) for name in folders), -1], np.int32)
    return tuple(map(text_of, names)), labels[folder_of]


def _held_out(
    rows: Rows,
    start: int,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    wanted: int | None,
    uri: str,
    *,
    has_test: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of both splits, after taking `wanted` for the test."""
    pool = test if has_test else train
    most = len(pool) if has_test else len(pool) - 1
    if wanted is None and has_test:
        wanted = len(pool)
    elif wanted is None:
        wanted = min(_MAX_DEFAULT, max(1, len(pool) // _DEFAULT_SHARE))
    if wanted > most:
        what = "its test split" if has_test else "it, of which one must be left to train on,"
        raise DataError(
            f"data.num_test_images={wanted}, but {what} has {len(pool)} images ({uri}); give at "
            f"most {most}"
        )
    digests = b"".join(
        hashlib.sha256(_HELD_OUT + rows.name(int(row))[start:]).digest() for row in pool
    )
    smallest = np.frombuffer(digests, "S32").argsort(kind="stable")[:wanted]
    chosen = np.sort(pool[smallest])
    return (train if has_test else np.setdiff1d(train, chosen)), chosen
