"""WebDataset shards that others made: tars in which files of one stem are one sample.

    some/place/imagenet-train-000000.tar     0001.jpg, 0001.cls, 0001.json, 0002.jpg, ...
    some/place/imagenet-val-000000.tar

A sample is one image and what describes it. Of that only `.cls` is read, the number of the class in
decimal digits; `.pyd`, `.pkl` and `.pth`, which would execute when they are read, never are.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError, StorageError
from ddpm_core.images.names import (
    BESIDE,
    IMAGE_EXTENSIONS,
    MAX_NAME_BYTES,
    TEXT,
    bytes_of,
    checked_name,
    is_of_a_system,
    quoted,
    reason_to_pass_over,
    shown,
    text_of,
)
from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.container import Container, Entry, PassedOver
from ddpm_core.sources.containers.local_file import LocalFile
from ddpm_core.sources.containers.tar_walk import Member, walk
from ddpm_core.sources.containers.tarred import Tar

MAX_LABEL = 2**16 - 1
CAPTIONS = ("txt", "caption", "text")
"""endings of the files that hold a caption; the first that a sample has is meant"""
_LABEL = re.compile(rb"\s*(\d{1,5})\s*")
_MAX_LABEL_BYTES = 64
# What nearly all members are called: nothing in it leads elsewhere, is hidden or of a system.
_SIMPLE = re.compile(
    rb"((?:[0-9A-Za-z][0-9A-Za-z_-]*/)*[0-9A-Za-z][0-9A-Za-z_-]*)\."
    rb"(cls|json|txt|png|jpe?g|webp|gif)",
    re.IGNORECASE,
)
_SPLITS = {"train": "train", **dict.fromkeys(("test", "val", "valid", "validation"), "test")}
_NO_IMAGE = "a sample without an image"
_NO_KEY = "a name without a key before its first dot"
_NUM_PEEKED = 8


class Sample(NamedTuple):
    """Files of one key that stand together in a shard."""

    key: str
    files: dict[str, Member]
    """extension -> member"""

    def images(self) -> list[str]:
        """Return the extensions of its images, in their order."""
        return sorted(one for one in self.files if one in IMAGE_EXTENSIONS)


@final
class ShardFiles(Container):
    """Samples of several tars. `Entry.where` is (number of the shard, byte of the image).

    A name is that of the shard, without .tar, and that of the image. If both splits are found in
    the names of the shards (train, and one of test, val, valid or validation, as a word of it), the
    name begins with the folder train/ or test/.
    """

    folders_are_classes = False

    def __init__(self, shards: Iterable[tuple[str, Path]], *, uri: str) -> None:
        """Take these shards, each by the name that it goes by and where it lies."""
        self.uri = uri
        self._shards = [(name, path) for name, path in shards]
        splits = [split_of(name) for name, _ in self._shards]
        both = {"train", "test"} <= set(splits)
        self._folders = [
            (f"{split}/" if both and split else "") + name.removesuffix(".tar") + "/"
            for split, (name, _) in zip(splits, self._shards, strict=True)
        ]
        self._opened: tuple[int, Tar] | None = None
        self._marks: list[marks.FileMark] = []

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        self._marks = [LocalFile(path).mark(self.identities) for _, path in self._shards]
        for number, (name, path) in enumerate(self._shards):
            origin = shown(f"{self.uri}/{name}")
            with closing(LocalFile(path)) as content, LocalFile(path).opened() as file:
                for sample in samples(file, origin, passed_over):
                    images = sample.images()
                    full = self._folders[number] + sample.key
                    if not images:
                        passed_over.add(_NO_IMAGE, full, harmless=False)
                        continue
                    if len(images) > 1:
                        raise DataError(
                            f"{quoted(sample.key)} in {origin} has several images "
                            f"({', '.join(images)}); a sample must have one. Make the shard again"
                        )
                    if len(sample.files) > 1 + ("cls" in sample.files):
                        _note_others(sample, full, passed_over, self.beside)
                    found = sample.files[images[0]]
                    label = label_of(sample, content.read_at, origin)
                    image = self._folders[number] + text_of(found.raw_name)
                    yield Entry(image, found.size, (number, found.offset), label)
                    for one in (sample.files.get(ending) for ending in self.beside):
                        if one is not None:
                            name = self._folders[number] + text_of(one.raw_name)
                            yield Entry(name, one.size, (number, one.offset))

    def read(self, entry: Entry) -> bytes:
        number, offset = entry.where
        if not 0 <= number < len(self._shards):
            raise DataError(f"{self.uri} has no shard {number}; list it again")
        opened = self._opened
        if opened is None or opened[0] != number:
            name, path = self._shards[number]
            # The one before closes itself, once no thread reads from it any more.
            self._opened = opened = (number, Tar(path, uri=f"{self.uri}/{name}"))
        return opened[1].read_from(entry, offset)

    def marks_of(self, where: NDArray[np.int64]) -> marks.Marks:
        numbers = where[:, 0]
        values = np.array([mark.values for mark in self._marks], np.int64)
        are_trusted = np.array([mark.is_trusted for mark in self._marks], np.bool_)
        return marks.Marks(values[numbers], are_trusted[numbers])

    def place(self) -> dict[str, Any]:
        shards = [[name, str(path)] for name, path in self._shards]
        return {"kind": "shards", "shards": shards, "uri": self.uri}

    def is_here(self) -> bool:
        return all(path.is_file() for _, path in self._shards)

    def close(self) -> None:
        self._opened = None


def shards_in(root: Path) -> list[tuple[str, Path]]:
    """Return the tars in a folder and its folders, by name and place, if no image is there.

    Raises:
        StorageError: one of these folders cannot be listed.
    """
    found = []
    try:
        for folder in (root, *sorted(one for one in root.iterdir() if _is_folder(one))):
            for one in folder.iterdir():
                if reason_to_pass_over(one.name) is None:
                    return []
                if one.name.endswith(".tar") and not is_of_a_system(one.name) and one.is_file():
                    found.append((one.relative_to(root).as_posix(), one))
    except OSError as error:
        raise StorageError(
            f"cannot list {quoted(str(error.filename))}: {error.strerror}; give this user the "
            "right to read it, or mount it, then run again"
        ) from None
    return sorted(found)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not is_of_a_system(path.name)


def is_a_shard(path: Path, uri: str) -> bool:
    """Say whether an archive begins as a shard does: with a `.cls` among its first members.

    Raises:
        DataError: it begins as no archive does; `uri` is what it is called then.
    """
    with LocalFile(path).opened() as file:
        members = walk(file, uri)
        first = [found.raw_name for found, _ in zip(members, range(_NUM_PEEKED), strict=False)]
    return any(name.endswith(b".cls") for name in first)


def _key_and_extension(member: str) -> tuple[str, str]:
    """Return what stands before and behind the first dot of a name's last part."""
    folder, slash, last = member.rpartition("/")
    stem, _, extension = last.partition(".")
    return (folder + slash + stem if stem and extension else ""), extension.lower()


def split_of(name: str) -> str | None:
    """Return the split that a word of a shard's name says, train or test; None if none does."""
    words = {_SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLITS}
    return words.pop() if len(words) == 1 else None


def label_of(sample: Sample, read_at: Callable[[int, int], bytes], origin: str) -> int | None:
    """Return the class that a sample's `.cls` says; None if it has none.

    Args:
        sample: files of one key.
        read_at: called with a byte of the shard and how many to read from it on.
        origin: what to call the shard in an error.

    Raises:
        DataError: it holds no number of a class.
    """
    found = sample.files.get("cls")
    if found is None:
        return None
    text = found.content
    if text is None:
        text = read_at(found.offset, min(found.size, _MAX_LABEL_BYTES))
    match = _LABEL.fullmatch(text)
    if found.size > _MAX_LABEL_BYTES or not match or int(match[1]) > MAX_LABEL:
        raise DataError(
            f"{quoted(sample.key + '.cls')} in {origin} is {quoted(text_of(text[:30]))}; it must "
            f"be the number of a class, 0..{MAX_LABEL}. Make the shard again"
        )
    return int(match[1])


def samples(file: BinaryIO, origin: str, passed_over: PassedOver) -> Iterator[Sample]:
    """Yield neighbouring members of one key together, as WebDataset does.

    Args:
        file: the shard; it can seek.
        origin: what to call it in an error.
        passed_over: what is no part of a sample is noted here.

    Raises:
        DataError: it is damaged, or its samples are not sorted by key.
    """
    sample = Sample("", {})
    seen = set()
    for found in walk(file, origin):
        simple = _SIMPLE.fullmatch(found.raw_name)
        if simple and found.problem is None and len(found.raw_name) <= MAX_NAME_BYTES:
            key, extension = simple[1].decode(), simple[2].decode().lower()
        else:
            member = checked_name(found.raw_name, origin)
            key, extension = _key_and_extension(member)
            if found.problem or not key or is_of_a_system(member):
                reason = found.problem or reason_to_pass_over(member) or _NO_KEY
                passed_over.add(reason, member, harmless=is_of_a_system(member))
                continue
            found = found._replace(raw_name=bytes_of(member))
        if key != sample.key:
            if sample.files:
                yield sample
            sample = Sample(key, {})
            if key in seen:
                raise DataError(
                    f"{quoted(key)} in {origin} has files in two places; those of one "
                    "sample must stand together. Make the shard again, sorted by name"
                )
            seen.add(key)
        if extension in sample.files:
            member = text_of(found.raw_name)
            raise DataError(f"{origin} holds {quoted(member)} twice; make it again")
        sample.files[extension] = found
    if sample.files:
        yield sample


def _note_others(
    sample: Sample, full: str, passed_over: PassedOver, beside: Collection[str]
) -> None:
    for extension in sorted(sample.files.keys() - IMAGE_EXTENSIONS - {"cls", *beside}):
        name = f"{full}.{extension}"
        is_text = reason_to_pass_over(f"x.{extension}") == TEXT
        passed_over.add(TEXT if is_text else BESIDE, name, harmless=True)
