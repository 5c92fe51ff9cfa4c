"""Captions of images: what a file of them holds, and how many there are of which length.

A file has a caption in each line, in UTF-8. White space around a line and empty lines do not count,
nor does a byte order mark; all else of a caption stays as it is, letter by letter. Shards of this
program hold exactly the captions, with a line feed between two of them; an image without one has an
empty file.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_CAPTION_BYTES = 4096
"""of a caption in UTF-8; a network has its own bound, in tokens, and cuts what is longer"""
MAX_CAPTIONS = 64
"""of an image"""
MAX_FILE_BYTES = 2**20
"""of a file of captions, or of the JSON that has some"""
_NUL = "\0"
_ENDS_TOKENS = 1  # the end of a text, beside its bytes: see `text.tokens`


def captions_in(content: bytes, key: str | None = None) -> tuple[str, ...]:
    """Return the captions in a file.

    Args:
        content: of the file.
        key: of its JSON object that has the captions, a text or a list of texts; None: it is text.

    Raises:
        ValueError: it has none that can be used; with the reason, which names no file.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"has {len(content)} bytes; captions may have at most {MAX_FILE_BYTES}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is no text in UTF-8: byte {error.start} is 0x{content[error.start]:02x}; save it as "
            "UTF-8"
        ) from None
    return checked(lines_of([text] if key is None else _at_key(text, key)))


def lines_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the captions in texts: a line of one of them each."""
    lines = (
        line.strip()
        for text in texts
        for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    )
    return tuple(line for line in lines if line)


def checked(captions: tuple[str, ...]) -> tuple[str, ...]:
    """Return captions that can be used.

    Raises:
        ValueError: one cannot, or there are too many; with the reason.
    """
    if len(captions) > MAX_CAPTIONS:
        raise ValueError(f"has {len(captions)} captions; an image may have at most {MAX_CAPTIONS}")
    for caption in captions:
        if _NUL in caption:
            raise ValueError(f"has a NUL byte in the caption {shown(caption)}; save it as UTF-8")
        try:
            length = len(caption.encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"has half a character in the caption {shown(caption)}, which cannot be written as "
                "UTF-8; mend it"
            ) from None
        if length > MAX_CAPTION_BYTES:
            raise ValueError(
                f"has a caption of {length} bytes, {shown(caption)}; one may have at most "
                f"{MAX_CAPTION_BYTES}: shorten it"
            )
    return captions


def file_of(captions: Sequence[str]) -> bytes:
    """Return the file of these captions in a shard."""
    return "\n".join(captions).encode()


def shown(caption: str) -> str:
    """Return a caption for an error: in quotes, one line of ASCII, cut after 60 characters."""
    return json.dumps(caption[:60]) + ("..." if len(caption) > 60 else "")


@dataclass
class CaptionCounts:
    """How many captions images have, and how long they are: whole numbers, which add up."""

    images: Counter[int] = field(default_factory=Counter)
    """captions of an image -> images that have so many"""
    lengths: Counter[int] = field(default_factory=Counter)
    """bytes of a caption -> captions that have so many"""

    def add(self, captions: Sequence[str]) -> None:
        """Count the captions of an image."""
        self.images[len(captions)] += 1
        self.lengths.update(len(caption.encode()) for caption in captions)

    def take(self, other: "CaptionCounts") -> None:
        """Take what was counted elsewhere."""
        self.images.update(other.images)
        self.lengths.update(other.lengths)

    def entry(self) -> dict[str, Any]:
        """Return them as JSON."""
        return {
            "images": [[number, self.images[number]] for number in sorted(self.images)],
            "bytes": [[number, self.lengths[number]] for number in sorted(self.lengths)],
        }

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> "CaptionCounts":
        """Return what `entry` says.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        images, lengths = (
            Counter({_whole(number): _whole(count) for number, count in entry[name]})
            for name in ("images", "bytes")
        )
        if sum(number * count for number, count in images.items()) != lengths.total():
            raise ValueError("captions of images that are not as many as there are lengths")
        return cls(images, lengths)

    @property
    def num_without(self) -> int:
        """Images without a caption."""
        return self.images[0]

    @property
    def num_with(self) -> int:
        """Images with one or more."""
        return self.images.total() - self.num_without

    @property
    def num_captions(self) -> int:
        """Captions in all."""
        return self.lengths.total()

    @property
    def longest(self) -> int:
        """Bytes of the longest caption; 0 if there is none."""
        return max(self.lengths, default=0)

    def percentile(self, share: float) -> int:
        """Return the bytes that at least this share, in (0, 1], of the captions have at most."""
        seen, wanted = 0, share * self.num_captions
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= wanted:
                return length
        return 0

    def num_cut(self, text_length: int) -> int:
        """Return how many captions are longer than so many tokens: their bytes, and an end."""
        return sum(
            count for length, count in self.lengths.items() if length + _ENDS_TOKENS > text_length
        )

    def __str__(self) -> str:
        each = sorted(number for number in self.images if number)
        if not each:
            return f"none of {self.num_without} images"
        of_each = str(each[0]) if len(each) == 1 else f"{each[0]} to {each[-1]}"
        without = f", {self.num_without} without" if self.num_without else ""
        return (
            f"{self.num_with} images with {of_each} each{without}; half have up to "
            f"{self.percentile(0.5)} bytes, 95 % up to {self.percentile(0.95)}, the longest "
            f"{self.longest}"
        )


def sum_of(several: Iterable[CaptionCounts]) -> CaptionCounts:
    """Return the sum of counts."""
    total = CaptionCounts()
    for one in several:
        total.take(one)
    return total


def _at_key(text: str, key: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}; mend it") from None
    value = found.get(key) if isinstance(found, dict) else None
    if value is None:
        return []
    return texts_of(value, key)


def texts_of(value: object, key: str) -> list[str]:
    """Return the texts of a value of JSON.

    Raises:
        ValueError: it is neither a text nor a list of texts.
    """
    values = value if isinstance(value, list) else [value]
    texts = [one for one in values if isinstance(one, str)]
    if len(texts) < len(values):
        raise ValueError(f"has a {key!r} that is neither a text nor a list of texts; mend it")
    return texts


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} counts nothing")
    return value
