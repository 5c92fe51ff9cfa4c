"""The members of a data set: what each image comes with, in which file, and how that is read.

A sample of a shard is the files of one image: the image's own first, then those of the other
members and `.json` in the order of their endings. A new member is a class here: how it stands in
index.json, and what its files hold.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images import png
from ddpm_core.images.names import quoted, text_of
from ddpm_core.images.shaped import Cut, Unusable, shape_files
from ddpm_core.shards.captions import CaptionCounts, captions_in

IMAGE, LABEL, CAPTION = "image", "label", "caption"
MADE = (IMAGE, LABEL)
"""the members that the shard stage makes of any source"""
ABOUT = "json"
"""ending of the file that says where an image comes from; no member"""
CAPTION_ENDING = "txt"
"""of the file of an image's captions, in shards of this program"""
IMAGE_ENDINGS = ("png", "jpg", "webp")
_MAX_PIXELS = 2**26
"""of an image, as of a configuration"""
_AXES = ("channels", "height", "width")

DType = Literal["uint8", "uint16"]


@dataclass(frozen=True)
class ImageMember:
    """The image: a PNG, JPEG or WebP file."""

    dtype: DType
    shape: tuple[int, int, int]
    """(channels, height, width) of every image"""
    mean: tuple[float, ...]
    """of the training images, per channel, in levels"""
    std: tuple[float, ...]
    """of the training images, per channel, in levels"""
    file_bytes: int | None
    """length of every file, if all are PNGs of `png.encode`; None where files are as they came"""
    cut: Cut | None = None
    """of files of any size, in shards that are used in place: how they become of one; None where
    all have the size"""

    @property
    def num_levels(self) -> int:
        """Values that a sample can have."""
        return int(np.iinfo(self.dtype).max) + 1

    def entry(self) -> dict[str, Any]:
        """Return what index.json says of it."""
        kind = "png" if self.file_bytes is not None else "picture"
        return {
            "kind": kind if self.cut is None else "shaped",
            "dtype": self.dtype,
            "shape": [list(axis) for axis in zip(_AXES, self.shape, strict=True)],
            "mean": list(self.mean),
            "std": list(self.std),
            "file_bytes": self.file_bytes,
            **({} if self.cut is None else {"cut": {**asdict(self.cut)}}),
        }

    def decode(
        self,
        files: Sequence[bytes],
        origin: Callable[[int], str],
        unusable: Unusable | None = None,
    ) -> NDArray[Any]:
        """Return the pixels, (n, channels, height, width).

        Args:
            files: n of them.
            origin: what to call an image in an error, by its number here.
            unusable: counts those of which nothing can be made, where there is a `cut`; None: of
                these files alone.

        Raises:
            DataError: one is damaged, or of another shape; with `cut`, if too many are.
        """
        # Only here: an index is read by commands that have no Pillow.
        from ddpm_core.images.decoding import decode_files

        channels, height, width = self.shape
        pixels: NDArray[Any] = np.empty((len(files), height, width, channels), self.dtype)
        if self.cut is not None:
            problems = shape_files(files, pixels, self.cut)
            (unusable or Unusable()).note(len(files), problems, origin)
            return pixels.transpose(0, 3, 1, 2)
        decode_files(files, pixels, origin=origin, checksums=True)
        return pixels.transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class ClassMember:
    """The class of the image: its number, in ASCII."""

    ending: ClassVar[str] = "cls"
    dtype: ClassVar[str] = "int64"
    shape: ClassVar[tuple[int, ...]] = ()
    names: tuple[str, ...]
    """what 0, 1, ... means"""
    counts: Mapping[str, tuple[int, ...]]
    """split -> images of each class"""

    def entry(self) -> dict[str, Any]:
        """Return what index.json says of it."""
        counts = {split: list(numbers) for split, numbers in self.counts.items()}
        about = {"kind": "class", "dtype": self.dtype, "shape": []}
        return {**about, "names": list(self.names), "counts": counts}

    def decode(self, files: Sequence[bytes], origin: Callable[[int], str]) -> NDArray[Any]:
        """Return the classes, (n,).

        Raises:
            DataError: a file holds no number of a class.
        """
        for number, content in enumerate(files):
            if not content.isdigit() or len(content) > 6 or int(content) >= len(self.names):
                raise DataError(
                    f"{origin(number)} holds {quoted(text_of(content[:20]))}, which is no class; "
                    f"it must be 0..{len(self.names) - 1}. Shard under another root"
                )
        return np.array([int(content) for content in files], np.int64)


@dataclass(frozen=True)
class TextMember:
    """Texts that come with the image, such as captions; some images may have none.

    Where the file of each image is, the index says: `Shard.beside`.
    """

    dtype: ClassVar[str] = "utf-8"
    ending: str
    """of its files"""
    key: str | None = None
    """of the JSON in its files that has the texts; None: they are text, one a line"""
    counts: Mapping[str, CaptionCounts] | None = None
    """split -> how many there are, and how long; None: nobody has read them, and nothing does"""

    def entry(self) -> dict[str, Any]:
        """Return what index.json says of it."""
        about = {"kind": "text", "dtype": self.dtype, "shape": [], "ending": self.ending}
        key = {} if self.key is None else {"key": self.key}
        if self.counts is None:
            return {**about, **key}
        return {
            **about,
            **key,
            "counts": {split: one.entry() for split, one in self.counts.items()},
        }

    def decode(self, files: Sequence[bytes], origin: Callable[[int], str]) -> list[tuple[str, ...]]:
        """Return the texts of each image.

        Raises:
            DataError: a file has none that can be used.
        """
        texts = []
        for number, content in enumerate(files):
            try:
                texts.append(captions_in(content, self.key) if content else ())
            except ValueError as error:
                raise DataError(f"{origin(number)} {error}") from None
        return texts


OtherMember = ClassMember
"""what an image comes with, as numbers"""
Member = ImageMember | OtherMember


def member_of(entry: Mapping[str, Any]) -> Member | TextMember:
    """Return the member that an entry of index.json describes.

    Raises:
        KeyError, TypeError, ValueError: it is none that this version reads.
    """
    axes = [(str(axis), whole(size)) for axis, size in entry["shape"]]
    names = tuple(axis for axis, _ in axes)
    match entry["kind"], entry["dtype"]:
        case "png" | "picture", "uint8" | "uint16" if names == _AXES:
            return _image(entry)
        case "shaped", "uint8" if names == _AXES:
            return _shaped(entry)
        case "text", "utf-8" if not axes:
            return _text(entry)
        case "class", "int64" if not axes:
            classes = tuple(entry["names"])
            counts = {
                split: tuple(map(whole, numbers)) for split, numbers in entry["counts"].items()
            }
            of_all = all(len(counts[split]) == len(classes) for split in ("train", "test"))
            if not of_all or not all(isinstance(name, str) for name in classes):
                raise ValueError("classes without a name, or without a count in each split")
            return ClassMember(classes, counts)
        case kind, dtype:
            raise ValueError(f"a member of kind {kind!r}, {dtype!r}, axes {names}: a later version")


def _text(entry: Mapping[str, Any]) -> TextMember:
    key, counts = entry.get("key"), entry.get("counts")
    if counts is not None:
        counts = {split: CaptionCounts.of_entry(counts[split]) for split in ("train", "test")}
    return TextMember(str(entry["ending"]), None if key is None else str(key), counts)


def _image(entry: Mapping[str, Any]) -> ImageMember:
    channels, height, width = (size for _, size in entry["shape"])
    dtype, mean, std = entry["dtype"], tuple(entry["mean"]), tuple(entry["std"])
    if channels not in ((1, 3) if dtype == "uint8" else (1,)) or not height * width:
        raise ValueError(f"images of {channels} x {height} x {width} {dtype} values")
    if height * width > _MAX_PIXELS:
        raise ValueError(f"images of {height} x {width} pixels, over {_MAX_PIXELS}")
    if [type(value) for value in (*mean, *std)] != 2 * channels * [float]:
        raise ValueError(f"no mean and std of each of {channels} channels")
    if entry["kind"] == "picture":
        return ImageMember(dtype, (channels, height, width), mean, std, None)
    file_bytes = png.stored_bytes((height, width, channels), dtype)
    if entry["file_bytes"] != file_bytes:
        raise ValueError(
            f"files of {entry['file_bytes']} bytes, where its images have {file_bytes}"
        )
    return ImageMember(dtype, (channels, height, width), mean, std, file_bytes)


def _shaped(entry: Mapping[str, Any]) -> ImageMember:
    channels, height, width = (size for _, size in entry["shape"])
    if channels not in (1, 3) or not 0 < height * width <= _MAX_PIXELS:
        raise ValueError(f"images of {channels} x {height} x {width} values")
    cut = dict(entry["cut"])
    background = tuple(map(whole, cut.pop("background")))
    if len(background) != 3 or max(background) > 255:
        raise ValueError(f"the background {background}")
    said = Cut(background=background, **cut)
    Cut.of_numbers(said.numbers())
    whole(said.max_pixels)
    return ImageMember("uint8", (channels, height, width), (), (), None, said)


def whole(value: object) -> int:
    """Return a number of index.json that counts something.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 0, or over 2**63 - 1.
    """
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    if not 0 <= value < 2**63:
        raise ValueError(f"{value} is no number of images or bytes")
    return value


WORDS_OF_FORMAT_2 = ("shape", "mean", "std", "png_bytes", "classes", "class_counts")
"""the keys of an index of format 2 that say what the members are"""


def entries_of_format_2(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of an index that says them in the words of format 2."""
    counts = {split: tuple(numbers) for split, numbers in body["class_counts"].items()}
    channels, height, width = body["shape"]
    mean, std = tuple(body["mean"]), tuple(body["std"])
    image = ImageMember("uint8", (channels, height, width), mean, std, body["png_bytes"])
    return {IMAGE: image.entry(), LABEL: ClassMember(tuple(body["classes"]), counts).entry()}


_MEMBERS = {"text": CAPTION}
"""part of a conditioning -> the member that it is made of, if that has another name"""


def require_members(have: Collection[str], accepts: Collection[str], *, of: str) -> None:
    """Refuse a network that takes what the images do not come with.

    Args:
        have: the members of the data set, or `MADE` of one that is still to be made.
        accepts: the parts of a conditioning that the network takes: each is the member of its name,
            a text a caption.
        of: what the members are of, for people, e.g. "the data set at URI".

    Raises:
        DataError: with what is missing, and what there is.
    """
    others = set(have) - {IMAGE}
    if missing := {_MEMBERS.get(part, part) for part in accepts} - others:
        raise DataError(
            f"the network takes {', '.join(sorted(accepts))}, and {of} has no "
            f"{', '.join(sorted(missing))}; with its images come: {', '.join(sorted(others))}"
        )
