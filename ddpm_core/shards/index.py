"""The index of a data set: what its shards hold, where in them, and what is known of the images.

datasets/mnist-<fingerprint>/
train-000000.tar      train-00000000.png, .cls, .json, train-00000001.png, ...
train-000000.json     what is known of this shard; written after it, read when a killed
sharding goes on
test-000000.tar ...
train-first.png       the first images, for people
index.json            committed last: without it the rest does not exist

A data set of very many images, or one whose shards lie elsewhere, has an index of format 4: tables
of its shards and parts for each of them, in files beside index.json; see `table`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ddpm_core import canonical
from ddpm_core.config import DataConfig, identity
from ddpm_core.errors import DataError
from ddpm_core.runs import layout
from ddpm_core.runs.results import DatasetDamagedError, DatasetPointer
from ddpm_core.shards.members import (
    ABOUT,
    CAPTION,
    CAPTION_ENDING,
    IMAGE,
    LABEL,
    WORDS_OF_FORMAT_2,
    ClassMember,
    ImageMember,
    Member,
    OtherMember,
    TextMember,
    entries_of_format_2,
    member_of,
    whole,
)
from ddpm_core.shards.one import Located
from ddpm_core.shards.one import Shard as Shard
from ddpm_core.shards.table import ShardTable, TableWriter
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, FileRecord, Manifest
from ddpm_core.store.storage import Store

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")

FORMAT_VERSION = 3
"""of index.json; 2 said the same of images and classes without naming them members"""
IN_PARTS = 4
"""the version of an index in parts: where an image is stands beside index.json, and shards may lie
elsewhere. Written only where that is needed, so that versions before can read the rest"""
_READ_VERSIONS = (2, FORMAT_VERSION, IN_PARTS)
_SHARDS_VERSION = 2
"""of the bytes of shards, which index.json names: it counts in the fingerprint, and did not change
with format 3, so that the data sets of format 2 are found"""


@dataclass(frozen=True)
class Rejected:
    """A file of the source that was left out."""

    key: str
    """its name at the source"""
    reason: str
    num_bytes: int


@dataclass(frozen=True)
class Index:
    """What index.json says of a data set."""

    manifest: Manifest
    fingerprint: str
    image: ImageMember
    """the member `image`"""
    others: Mapping[str, OtherMember]
    """the other members by name"""
    num_images: Mapping[str, int]
    """split -> images"""
    shards: Mapping[str, Sequence[Shard]]
    """split -> its shards, in order; of an index in parts each is read on access"""
    rejected: tuple[Rejected, ...]
    """files of the source that were left out"""
    texts: Mapping[str, TextMember] = field(default_factory=dict)
    """the members that are texts; read are captions that were counted, see `captions`"""

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by name."""
        return {IMAGE: self.image, **self.others}

    @property
    def label(self) -> ClassMember:
        """The member `label`."""
        return self.others[LABEL]

    @property
    def captions(self) -> TextMember | None:
        """The captions of its images; None: they have none, or none that was counted."""
        found = self.texts.get(CAPTION)
        return None if found is None or found.counts is None else found

    def endings_of(self, shard: Shard) -> tuple[str, ...]:
        """Return those of the files that follow an image's in a sample of a shard, in order.

        Of one shard a data set may have captions, and of another none: it may be made of others.
        """
        captions = (CAPTION_ENDING,) if CAPTION in shard.beside else ()
        return (*self.endings, *captions)

    @property
    def endings(self) -> tuple[str, ...]:
        """Those of the files that are in every sample behind an image's, in order."""
        return tuple(sorted({ABOUT, *(member.ending for member in self.others.values())}))

    @property
    def is_in_parts(self) -> bool:
        """Whether it says in parts where the images are: shards are read, one by one."""
        return any(isinstance(shards, ShardTable) for shards in self.shards.values())

    def counts(self, split: str) -> NDArray[np.int64]:
        """Return (S,) images of each shard of a split; reads no part."""
        shards = self.shards[split]
        if isinstance(shards, ShardTable):
            return shards.counts
        return np.array([shard.num_images for shard in shards], np.int64)

    def first_numbers(self, split: str) -> NDArray[np.int64]:
        """Return (S,) `Shard.first_number` of each shard of a split; reads no part."""
        shards = self.shards[split]
        if isinstance(shards, ShardTable):
            return shards.first_numbers
        return np.array([shard.first_number for shard in shards], np.int64)

    def file_bytes(self, split: str) -> NDArray[np.int64]:
        """Return (S,) bytes of each shard's file of a split; reads no part."""
        shards = self.shards[split]
        if isinstance(shards, ShardTable):
            return shards.file_bytes
        return np.array([self.located(shard).size for shard in shards], np.int64)

    def located(self, shard: Shard) -> Located:
        """Return where the file of a shard lies, and what it must be."""
        if shard.file is not None:
            return shard.file
        record = self.manifest.files[shard.role]
        return Located(self.manifest.folder, record.name, record.size, f"sha256:{record.sha256}")

    def located_at(self, split: str, number: int) -> Located:
        """Return that of shard `number` of a split; reads no part."""
        shards = self.shards[split]
        if isinstance(shards, ShardTable):
            return shards.located(number)
        return self.located(shards[number])

    def require_there(self, store: Store) -> None:
        """Refuse a data set of which a file is missing or has another length; reads none.

        Shards at places of others are not looked at: each is checked when it is opened.

        Raises:
            DamagedError: the first such file.
            StorageError: the storage does not answer.
        """
        self.manifest.require_sizes(store)
        listed: dict[str, Mapping[str, int]] = {}
        for split in SPLITS if self.is_in_parts else ():
            for number in range(len(self.shards[split])):
                file = self.located_at(split, number)
                if file.is_outside:
                    continue
                if file.place not in listed:
                    listed[file.place] = store.sizes(file.place)
                if (found := listed[file.place].get(file.name)) != file.size:
                    raise DamagedError(
                        f"{store.uri_of(file.key)} is missing or damaged: expected {file.size} "
                        f"bytes, found {found}; {manifest.REMEDY}"
                    )

    def place_of(self, member: str) -> int:
        """Return which of the files of a sample is this member's; the image's is 0."""
        return 0 if member == IMAGE else 1 + self.endings.index(self.others[member].ending)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.image.shape

    @property
    def pointer(self) -> DatasetPointer:
        """Where it lies and which one it is, as a run's dataset.json says."""
        return DatasetPointer(self.manifest.folder, self.fingerprint)


def key_of(split: str, number: int) -> str:
    """Return what WebDataset calls image `number` of a split."""
    return f"{split}-{number:08d}"


def dataset_fingerprint(data: DataConfig, images_sha256: str) -> str:
    """Return the SHA-256 of all that determines the bytes of the shards; places do not count.

    Args:
        data: which images, made into what, and cut how.
        images_sha256: digest of the images as they come from the source.
    """
    return _fingerprint(identity.data(data), images_sha256)


def _fingerprint(data: object, images_sha256: object) -> str:
    return canonical.fingerprint(
        {"data": data, "format_version": _SHARDS_VERSION, "images_sha256": images_sha256}
    )


def load_index(store: Store, folder: str, fingerprint: str | None = None) -> Index:
    """Return the index of the data set in `folder`, which must be the one its name promises.

    Args:
        store: where.
        folder: `datasets/NAME-FINGERPRINT`, with the first 16 digits of the fingerprint.
        fingerprint: all 64 digits, where the caller knows them.

    Raises:
        DatasetDamagedError: it is damaged, or the index of another data set.
        DataError: there is none, or another version of this program made it.
    """
    where = store.uri_of(f"{folder}/{layout.DATASET_INDEX}")
    expected = Expected({} if fingerprint is None else {"fingerprint": fingerprint})
    try:
        found = manifest.load(store, folder, expected, name=layout.DATASET_INDEX)
    except DamagedError as error:
        raise DatasetDamagedError(f"{error}: the shard stage") from None
    if found is None:
        raise DataError(f"there is no data set at {where}; run the shard stage first")
    version = found.body.get("format_version")
    if version not in _READ_VERSIONS:
        raise DataError(
            f"{where} has format {version!r}, this program reads up to {IN_PARTS}; use the "
            "version that made it, or shard under another root"
        )
    require_identity(found, store)
    try:
        return _index(store, found)
    except DamagedError as error:
        raise DatasetDamagedError(f"{error}: the shard stage") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where} is committed, but no index of this program: {type(error).__name__} {error}. "
            "Delete it and run the shard stage again"
        ) from None


def require_identity(found: Manifest, store: Store) -> None:
    """Refuse an index whose fingerprint is not of what it says, or not of its folder's name.

    One of another format is not looked at: this version does not know what it is made of.

    Raises:
        DatasetDamagedError: with the fingerprint that it should have.
    """
    where, body = store.uri_of(f"{found.folder}/{layout.DATASET_INDEX}"), found.body
    if body.get("format_version") not in _READ_VERSIONS:
        return
    of_content = _fingerprint(body.get("data"), body.get("images_sha256"))
    if body.get("fingerprint") != of_content:
        raise DatasetDamagedError(
            f"{where} says that its fingerprint is {str(body.get('fingerprint'))[:64]!r}; that of "
            f"the data and images it names is {of_content}; {manifest.REMEDY}"
        )
    if not found.folder.endswith(f"-{of_content[:16]}"):
        raise DatasetDamagedError(
            f"{where} is the index of another data set, with the fingerprint {of_content}: its "
            f"folder would end in -{of_content[:16]}. Move it to a folder of that name, and run "
            "the shard stage again, which makes what should lie here anew"
        )


def shard_entry(shard: Shard, file_bytes: int | None) -> dict[str, Any]:
    """Return what index.json says of a shard; sizes that are all the same stand there once."""
    entry = {
        "name": shard.name,
        "num_images": shard.num_images,
        "first_number": shard.first_number,
        "offsets": list(shard.offsets),
    }
    sizes = {} if file_bytes is not None else {"sizes": list(shard.sizes)}
    return {**entry, **sizes, **beside_entry(shard)}


def beside_entry(shard: Shard) -> dict[str, Any]:
    """Return what is said of where the files beside a shard's images are; {} if nothing is."""
    if not shard.beside:
        return {}
    return {"beside": {name: _columns_of(rows) for name, rows in sorted(shard.beside.items())}}


def beside_of(entry: Mapping[str, Any]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return what `beside_entry` says.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return {
        str(name): tuple(
            zip(map(whole, columns["offsets"]), map(whole, columns["sizes"]), strict=True)
        )
        for name, columns in entry.get("beside", {}).items()
    }


def _columns_of(rows: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
    return {"offsets": [offset for offset, _ in rows], "sizes": [size for _, size in rows]}


def commit_in_parts(
    store: Store,
    folder: str,
    body: Mapping[str, Any],
    shards: Mapping[str, Iterable[Shard]],
    *,
    files: Mapping[str, FileRecord] = MappingProxyType({}),
) -> Manifest:
    """Commit an index of format 4: tables of the shards, and a part of each.

    Args:
        store: where.
        folder: of the data set.
        body: what index.json says beside `format_version` and `shards`.
        shards: split -> its shards, each with `file`: where it lies.
        files: further files of the folder, by role.

    Raises:
        RunConflictError: an index of something else stands there.
    """
    writer = TableWriter(store, folder)
    for split in SPLITS:
        writer.write(split, shards[split])
    said = {**body, "format_version": IN_PARTS, "shards": writer.body()}
    return commit(store, folder, {**files, **writer.files}, said, name=layout.DATASET_INDEX)


def _index(store: Store, found: Manifest) -> Index:
    body = found.body
    members = {name: member_of(entry) for name, entry in entries(body).items()}
    image = members.pop(IMAGE)
    if not isinstance(image, ImageMember) or not isinstance(members.get(LABEL), ClassMember):
        raise TypeError("there is no member image, or no label")
    others = {name: one for name, one in members.items() if isinstance(one, ClassMember)}
    texts = {name: one for name, one in members.items() if isinstance(one, TextMember)}
    if len(others) + len(texts) < len(members):
        raise TypeError(f"several images in a sample: {', '.join(members)}")
    return Index(
        manifest=found,
        fingerprint=body["fingerprint"],
        image=image,
        others=others,
        num_images={split: whole(body["num_images"][split]) for split in SPLITS},
        shards=_shards(store, found, image.file_bytes),
        rejected=tuple(Rejected(**one) for one in body["rejected"]),
        texts=texts,
    )


def _shards(store: Store, found: Manifest, file_bytes: int | None) -> dict[str, Sequence[Shard]]:
    said = found.body["shards"]
    if found.body["format_version"] == IN_PARTS:
        return {split: ShardTable(store, found, split, said) for split in SPLITS}
    return {split: tuple(_shard(found, one, file_bytes) for one in said[split]) for split in SPLITS}


def entries(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an index.json of any format says of each member: kind, dtype, shape and more."""
    return entries_of_format_2(body) if body["format_version"] == 2 else dict(body["members"])


def in_format_3(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an index.json says, in the words of format 3 if it is of format 2."""
    if body["format_version"] == IN_PARTS:
        return dict(body)
    rest = {
        key: value
        for key, value in body.items()
        if body["format_version"] != 2 or key not in WORDS_OF_FORMAT_2
    }
    return rest | {"format_version": FORMAT_VERSION, "members": entries(body)}


def _shard(found: Manifest, entry: Mapping[str, Any], file_bytes: int | None) -> Shard:
    name, count = entry["name"], whole(entry["num_images"])
    offsets = tuple(map(whole, entry["offsets"]))
    if len(offsets) != count:
        raise ValueError(f"{name}: {count} images, {len(offsets)} offsets")
    sizes = tuple(map(whole, entry["sizes"])) if file_bytes is None else (file_bytes,) * count
    beside = beside_of(entry)
    shard = Shard(name, count, whole(entry["first_number"]), offsets, sizes, beside=beside)
    record = found.files[shard.role]
    # Pairs of unequal number are refused here too.
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    if record.name != name or max(ends, default=0) > record.size:
        raise ValueError(f"{name}: its images lie outside of {record.name}, {record.size} bytes")
    for member, rows in beside.items():
        if len(rows) != count or max(map(sum, rows), default=0) > record.size:
            raise ValueError(f"{name}: a {member} lies outside of it, or is of no image")
    return shard
