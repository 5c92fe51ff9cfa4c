"""One shard that is used in place: which images it holds, where, of what class, with what beside.

Only the headers of the tar are read, what says the classes, and, where the shard is pinned by its
digest, each of its bytes once: then its image files are looked at too. No pixel is decoded.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, final
from urllib.parse import unquote, urlsplit

from ddpm_core.errors import DataError, StorageError
from ddpm_core.images.decode import first_look
from ddpm_core.images.image_facts import MAX_FILE_BYTES
from ddpm_core.images.names import quoted, shown, text_of
from ddpm_core.shards.captions import MAX_FILE_BYTES as MAX_CAPTIONS_BYTES
from ddpm_core.shards.captions import captions_in
from ddpm_core.shards.index import Rejected
from ddpm_core.shards.members import CAPTION
from ddpm_core.shards.one import Located, Shard
from ddpm_core.sources.containers.container import PassedOver
from ddpm_core.sources.containers.shard_files import CAPTIONS, MAX_LABEL, Sample, label_of, samples
from ddpm_core.sources.containers.tar_walk import Member
from ddpm_core.sources.download import downloads_folder
from ddpm_core.sources.shard_list import Listed
from ddpm_core.store.foreign_bucket import ForeignBucket, bucket_and_key

_NO_IMAGE = "a sample without an image"
_BLOCK_BYTES = 2**23
_RANGE_BYTES = 2**16
_MAX_JSON_BYTES = 2**20


@dataclass(frozen=True)
class Rules:
    """What is looked for in a shard."""

    pin: Literal["sha256", "listing"]
    max_pixels: int
    label_key: str | None = None
    """key of a sample's .json that holds the number of its class; None: its .cls says it"""
    captions: bool = False
    """whether captions are read, counted and checked; else only where they are is noted"""
    caption_key: str | None = None
    """key of a sample's .json that holds its captions; None: its .txt, .caption or .text does"""

    @property
    def beside(self) -> Mapping[str, tuple[str, ...]]:
        """Member -> endings of the file that is it; the first that a sample has is meant."""
        return {"caption": CAPTIONS if self.caption_key is None else ("json",), "about": ("json",)}


@dataclass(frozen=True)
class Indexed:
    """What was found in a shard."""

    shard: Shard
    has_labels: bool
    """whether its samples say a class; if not, `shard.labels` are 0"""
    rejected: tuple[Rejected, ...]
    """images that cannot be used, by their headers"""
    passed_over: Mapping[str, int]
    """why files were not taken for images -> how many"""
    captions: tuple[tuple[int, ...], ...] | None = None
    """bytes of each caption of each image; None: they were not read"""


def index_shard(listed: Listed, rules: Rules) -> Indexed:
    """Return which images a shard holds.

    Raises:
        DataError: it is damaged, is not what its list says, or changes meanwhile.
        StorageError: its place does not answer.
    """
    where, pin = shown(listed.file.key), listed.file.pin
    with _opened(listed.file, whole=rules.pin == "sha256") as file:
        if rules.pin == "sha256":
            pin = f"sha256:{_digest(file, listed, where)}"
        rows = _Rows(file, where, rules)
        count = sum(rows.take(sample) for sample in samples(file, where, rows.passed_over))
    if listed.num_samples not in (None, count):
        raise DataError(
            f"{where} has {count} samples, and its list says nsamples={listed.num_samples}; make "
            "the list again, or the shard"
        )
    return rows.indexed(replace(listed.file, pin=pin))


@final
class _Rows:
    """The images of a shard, in its order."""

    def __init__(self, file: BinaryIO, where: str, rules: Rules) -> None:
        self._file, self._where, self._rules = file, where, rules
        self._images: list[tuple[int, int]] = []
        self._labels: list[int | None] = []
        self._beside: dict[str, list[tuple[int, int]]] = {name: [] for name in rules.beside}
        self._captions: list[tuple[int, ...]] = []
        self._rejected: list[Rejected] = []
        self.passed_over = PassedOver()

    def take(self, sample: Sample) -> int:
        """Take a sample; return 1."""
        images = sample.images()
        if not images:
            self.passed_over.add(_NO_IMAGE, sample.key, harmless=False)
            return 1
        if len(images) > 1:
            raise DataError(
                f"{quoted(sample.key)} in {self._where} has several images ({', '.join(images)}); "
                "a sample must have one. Make the shard again"
            )
        image = sample.files[images[0]]
        name = text_of(image.raw_name)
        if (problem := self._problem(image.offset, image.size, name)) is not None:
            self._rejected.append(Rejected(name, problem, image.size))
            return 1
        self._images.append((image.offset, image.size))
        self._labels.append(self._label(sample))
        for member, endings in self._rules.beside.items():
            one = next((sample.files[ending] for ending in endings if ending in sample.files), None)
            # One that is missing is at the image, and has no bytes.
            place = (image.offset, 0) if one is None else (one.offset, one.size)
            self._beside[member].append(place)
            if member == CAPTION and self._rules.captions:
                self._captions.append(self._lengths(one))
        return 1

    def indexed(self, file: Located) -> Indexed:
        """Return what was taken, of a shard that lies there."""
        has_labels = {label is not None for label in self._labels}
        if len(has_labels) > 1:
            raise DataError(
                f"{self._where} has images with a class and images without; give each one, or none"
            )
        shard = Shard(
            file.name,
            len(self._images),
            0,
            tuple(offset for offset, _ in self._images),
            tuple(size for _, size in self._images),
            labels=tuple(label or 0 for label in self._labels),
            beside={
                member: tuple(rows)
                for member, rows in self._beside.items()
                if any(size for _, size in rows)
            },
            file=file,
        )
        named = (replace(one, key=f"{file.name}/{one.key}") for one in self._rejected)
        counts = dict(self.passed_over.counts)
        captions = tuple(self._captions) if self._rules.captions else None
        return Indexed(shard, True in has_labels, tuple(named), counts, captions)

    def _read_at(self, offset: int, num_bytes: int) -> bytes:
        self._file.seek(offset)  # who walks the archive seeks before each of its own reads
        return self._file.read(num_bytes)

    def _problem(self, offset: int, size: int, name: str) -> str | None:
        """Return why an image cannot be used, as far as is looked; None: nothing is known."""
        if not 0 < size <= MAX_FILE_BYTES:
            return f"it has {size} bytes; 1 to {MAX_FILE_BYTES} are read"
        if self._rules.pin == "listing":
            return None
        return first_look(self._read_at(offset, size), name, self._rules.max_pixels)[0]

    def _lengths(self, file: Member | None) -> tuple[int, ...]:
        """Return the bytes of each caption of a sample, which must be such that it can be used."""
        if file is None or not file.size:
            return ()
        try:
            content = self._read_at(file.offset, min(file.size, MAX_CAPTIONS_BYTES + 1))
            captions = captions_in(content, self._rules.caption_key)
        except ValueError as error:
            name = quoted(text_of(file.raw_name))
            raise DataError(f"{name} in {self._where} {error}") from None
        return tuple(len(caption.encode()) for caption in captions)

    def _label(self, sample: Sample) -> int | None:
        key = self._rules.label_key
        if key is None:
            return label_of(sample, self._read_at, self._where)
        found = sample.files.get("json")
        content = self._read_at(found.offset, min(found.size, _MAX_JSON_BYTES)) if found else b"{}"
        label = None
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            label = json.loads(content).get(key)
        if type(label) is not int or not 0 <= label <= MAX_LABEL:
            raise DataError(
                f"{quoted(sample.key + '.json')} in {self._where} has no class: its {key!r} must be"
                f" a number 0..{MAX_LABEL}; correct data.label_key, or leave it out"
            )
        return label


@contextmanager
def _opened(file: Located, *, whole: bool) -> Iterator[BinaryIO]:
    """Give a shard, which must still be what it was listed as, before and after it is read."""
    if file.place.startswith("s3://"):
        content = _Ranges(file)
        if not whole:
            yield io.BufferedReader(content, _RANGE_BYTES)
            return
        with _errors(file), tempfile.TemporaryFile(dir=_temporary_folder()) as copy:
            shutil.copyfileobj(io.BufferedReader(content, _BLOCK_BYTES), copy, _BLOCK_BYTES)
            copy.seek(0)
            yield copy
        return
    path = Path(unquote(urlsplit(file.place).path), file.name)
    with _errors(file), path.open("rb") as local:
        yield local
        found = os.fstat(local.fileno())
    if (found.st_size, f"mtime:{found.st_mtime_ns}") != (file.size, file.pin):
        raise DataError(
            f"{shown(file.key)} has changed while it was read; let nothing write there, then run "
            "again"
        )


@contextmanager
def _errors(file: Located) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot read {shown(file.key)}: {error.strerror or error}; mend that, then run again"
        ) from None


def _temporary_folder() -> Path:
    folder = downloads_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@final
class _Ranges(io.RawIOBase):
    """An object of a bucket, of the ETag that was listed, as a file that can seek."""

    def __init__(self, file: Located) -> None:
        bucket, folder = bucket_and_key(file.place)
        self._bucket, self._key = ForeignBucket(bucket), f"{folder}/{file.name}".lstrip("/")
        self._size, self._etag, self._at = file.size, file.pin.removeprefix("etag:"), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as of io.RawIOBase
        size = min(len(buffer), self._size - self._at)
        if size <= 0:
            return 0
        buffer[:size] = self._bucket.read(self._key, self._at, size, etag=self._etag)
        self._at += size
        return size


def _digest(file: BinaryIO, listed: Listed, where: str) -> str:
    """Return the SHA-256 of a shard, whose MD5 must be the one of its list, if that says one."""
    digest, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
        if listed.md5 is not None:
            md5.update(block)
    if listed.md5 not in (None, md5.hexdigest()):
        raise DataError(
            f"{where} has the MD5 {md5.hexdigest()}, and its list says md5sum={listed.md5}; fetch "
            "it again, or make the list again"
        )
    return digest.hexdigest()
