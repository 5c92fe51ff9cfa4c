"""Image files of any size, decoded, cut and resized when they are read: of shards used in place.

The pixels are those of `decode.decode_image`, a function of the file and the rule alone. A file of
which nothing can be made becomes an image of the background: the same on every machine, rank and
resume. It is named once, and too many of them are an error: see `Unusable`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError

NUM_NUMBERS = 6
_CROPS: tuple[Literal["center", "none"], ...] = ("center", "none")
_FILTERS: tuple[Literal["box", "lanczos"], ...] = ("box", "lanczos")
_MAX_SHARE = 0.01
_ALWAYS = 20
"""unusable images that are allowed of any number: a share of few images says nothing"""
_NUM_NAMED = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """How images become of one size, as `decode.Shaping` says; known without Pillow."""

    crop: Literal["center", "none"]
    resize: Literal["box", "lanczos"]
    background: tuple[int, int, int]
    """red, green, blue, 0..255"""
    max_pixels: int
    """that an image may have"""

    def numbers(self) -> list[int]:
        """Return it as `NUM_NUMBERS` whole numbers."""
        of_words = (_CROPS.index(self.crop), _FILTERS.index(self.resize))
        return [*of_words, *self.background, self.max_pixels]

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> "Cut":
        """Return the one whose `numbers` these are."""
        crop, resize, red, green, blue, max_pixels = numbers
        return cls(_CROPS[crop], _FILTERS[resize], (red, green, blue), max_pixels)


def shape_files(files: Sequence[bytes], out: NDArray[np.uint8], cut: Cut) -> dict[int, str]:
    """Decode, cut and resize files.

    Args:
        files: n of them, of any kind and size that is read.
        out: (n, height, width, channels), to be filled; with the background where nothing can be
            made of the file.
        cut: how they become of one size.

    Returns:
        number here -> why nothing can be made of the file.
    """
    # Only here: an index is read by commands that have no Pillow.
    from ddpm_core.images.decode import BadImageError, Shaping, decode_image
    from ddpm_core.images.pixels import as_grey

    height, width, channels = out.shape[1:]
    shaping = Shaping(
        height=height,
        width=width,
        channels=1 if channels == 1 else 3,
        crop=cut.crop,
        resize=cut.resize,
        background=cut.background,
    )
    problems = {}
    for number, content in enumerate(files):
        try:
            pixels = decode_image(content, shaping, origin="", max_pixels=cut.max_pixels)
        except BadImageError as error:
            problems[number] = error.reason
            background = np.array(cut.background, np.uint8).reshape(1, 1, 3)
            pixels = as_grey(background) if channels == 1 else background
        out[number] = pixels
    return problems


@final
class Unusable:
    """Images of which nothing could be made, while a data set is read. Any thread may note them.

    Args:
        num_images: that will be read, in any order; None: what was read so far is what counts.
    """

    def __init__(self, num_images: int | None = None) -> None:
        self._num_images, self._names = num_images, set[str]()
        self._num_read = 0
        self._lock = Lock()

    def note(self, num_read: int, problems: dict[int, str], origin: Callable[[int], str]) -> None:
        """Count images that were read, and name those of which nothing could be made.

        Args:
            num_read: images.
            problems: what `shape_files` returned of them.
            origin: what to call an image, by its number among them.

        Raises:
            DataError: they are more than a hundredth of all that are read, and more than 20.
        """
        with self._lock:
            self._num_read += num_read
            for number, reason in sorted(problems.items()):
                name = origin(number)
                if name in self._names:
                    continue
                self._names.add(name)
                if len(self._names) <= _NUM_NAMED:
                    _log.warning("%s cannot be used, and is all background: %s", name, reason)
            num_images = self._num_images or self._num_read
            if problems and len(self._names) > max(_ALWAYS, _MAX_SHARE * num_images):
                raise DataError(
                    f"{len(self._names)} of {num_images} images cannot be used, the last "
                    f"{name}: {reason}. Mend the shards, or shard them with data.in_place=False, "
                    "which leaves such images out"
                )
