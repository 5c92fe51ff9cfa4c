"""The index of a data set: what its shards hold, where in them, and what is known of the images.

datasets/mnist-<fingerprint>/
train-000000.tar      train-00000000.png, .cls, .json, train-00000001.png, ...
train-000000.json     what is known of this shard; written after it, read when a killed
sharding goes on
test-000000.tar ...
train-first.png       the first images, for people
index.json            committed last: without it the rest does not exist
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ddpm_core import canonical
from ddpm_core.config import DataConfig, identity
from ddpm_core.errors import DataError
from ddpm_core.runs import layout
from ddpm_core.runs.results import DatasetDamagedError, DatasetPointer
from ddpm_core.shards.members import (
    ABOUT,
    IMAGE,
    LABEL,
    WORDS_OF_FORMAT_2,
    ClassMember,
    ImageMember,
    Member,
    OtherMember,
    entries_of_format_2,
    member_of,
    whole,
)
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")

FORMAT_VERSION = 3
"""of index.json; 2 said the same of images and classes without naming them members"""
_READ_VERSIONS = (2, FORMAT_VERSION)
_SHARDS_VERSION = 2
"""of the bytes of shards, which index.json names: it counts in the fingerprint, and did not change
with format 3, so that the data sets of format 2 are found"""


@dataclass(frozen=True)
class Shard:
    """One tar of a data set."""

    name: str
    num_images: int
    first_number: int
    """of its images, which are numbered on from there; what was left out leaves a gap behind"""
    offsets: tuple[int, ...]
    """byte at which each image's file begins"""
    sizes: tuple[int, ...]
    """bytes of each image's file"""

    @property
    def role(self) -> str:
        """Its role in the manifest."""
        return self.name.removesuffix(".tar")


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
    shards: Mapping[str, tuple[Shard, ...]]
    """split -> its shards, in order"""
    rejected: tuple[Rejected, ...]
    """files of the source that were left out"""

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by name."""
        return {IMAGE: self.image, **self.others}

    @property
    def label(self) -> ClassMember:
        """The member `label`."""
        return self.others[LABEL]

    @property
    def endings(self) -> tuple[str, ...]:
        """Those of the files that follow an image's in its sample, in order."""
        return tuple(sorted({ABOUT, *(member.ending for member in self.others.values())}))

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
            f"{where} has format {version!r}, this program reads up to {FORMAT_VERSION}; use the "
            "version that made it, or shard under another root"
        )
    require_identity(found, store)
    try:
        return _index(found)
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
    return entry if file_bytes is not None else {**entry, "sizes": list(shard.sizes)}


def _index(found: Manifest) -> Index:
    body = found.body
    members = {name: member_of(entry) for name, entry in entries(body).items()}
    image = members.pop(IMAGE)
    if not isinstance(image, ImageMember) or not isinstance(members.get(LABEL), ClassMember):
        raise TypeError("there is no member image, or no label")
    others = {name: one for name, one in members.items() if not isinstance(one, ImageMember)}
    return Index(
        manifest=found,
        fingerprint=body["fingerprint"],
        image=image,
        others=others,
        num_images={split: whole(body["num_images"][split]) for split in SPLITS},
        shards={
            split: tuple(_shard(found, one, image.file_bytes) for one in body["shards"][split])
            for split in SPLITS
        },
        rejected=tuple(Rejected(**one) for one in body["rejected"]),
    )


def entries(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an index.json of any format says of each member: kind, dtype, shape and more."""
    return entries_of_format_2(body) if body["format_version"] == 2 else dict(body["members"])


def in_format_3(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an index.json of any format says, in the words of format 3."""
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
    shard = Shard(name, count, whole(entry["first_number"]), offsets, sizes)
    record = found.files[shard.role]
    # Pairs of unequal number are refused here too.
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    if record.name != name or max(ends, default=0) > record.size:
        raise ValueError(f"{name}: its images lie outside of {record.name}, {record.size} bytes")
    return shard
