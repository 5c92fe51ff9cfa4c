"""Where an image lies on the canvas that a model draws: all of it, or with room beside it.

A mask is black and white, and white is made anew. It is cut and resized as its image is; a pixel of
the canvas is known if all that it covers is black.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ddpm_core.config import RunConfig
from ddpm_core.config.data import DataConfig
from ddpm_core.editing.files import ImageFile
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.images.decode import BadImageError, decode_image
from ddpm_core.images.image_facts import Facts, UnreadableError
from ddpm_core.images.image_walk import walk
from ddpm_core.images.pixels import plain_pixels
from ddpm_core.images.resize import center_box, resized
from ddpm_core.sharding.file_records import shaping_of

_SIDES = ("left", "right", "top", "bottom")
_WHITE = 255
_TURNED = 5
"""EXIF's orientations from here on exchange width and height"""
# A white pixel of 2**26 that are averaged still shows.
_SHARE = 2**31


@dataclass(frozen=True)
class Margins:
    """Pixels of the canvas beside the image, which are made anew."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read e.g. `left=8,top=4`.

        Raises:
            ConfigError: it is none of these.
        """
        found = dict(re.findall(rf"({'|'.join(_SIDES)})=([0-9]{{1,5}})(?:,|$)", text))
        spelt = ",".join(f"{side}={pixels}" for side, pixels in found.items())
        if not found or spelt != text or not any(map(int, found.values())):
            raise ConfigError(
                f"--extend {text[:100]!r} must name pixels of the model's size on one or more "
                "sides, e.g. left=8,right=8, and not 0 on all of them"
            )
        return cls(**{side: int(pixels) for side, pixels in found.items()})

    @property
    def words(self) -> dict[str, int]:
        """The sides with room, and how much."""
        return {side: getattr(self, side) for side in _SIDES if getattr(self, side)}


def low_data_of(config: RunConfig) -> DataConfig:
    """Return how images of a user become the low resolutions of a model that enlarges.

    Raises:
        ConfigError: it enlarges nothing.
    """
    if config.model.low_size is None:
        raise ConfigError(
            "this model draws images from noise alone (model.low_size is not given), and enlarges "
            "none"
        )
    height, width = config.model.low_size
    # Of 8 bits, as files of images have, whatever the model draws.
    return config.data.model_copy(update={"height": height, "width": width, "depth": 8})


@dataclass(frozen=True)
class Canvas:
    """The model's images, and where on them those of a user lie.

    Raises:
        ConfigError: the margins leave no room for the image.
    """

    data: DataConfig
    margins: Margins = Margins()

    def __post_init__(self) -> None:
        height, width = self._inner
        if height < 1 or width < 1:
            sides = ",".join(f"{side}={pixels}" for side, pixels in self.margins.words.items())
            raise ConfigError(
                f"--extend {sides} leaves {width}x{height} pixels of the {self.data.width}x"
                f"{self.data.height} that the model draws; give less"
            )

    @property
    def _inner(self) -> tuple[int, int]:
        margins = self.margins
        height = self.data.height - margins.top - margins.bottom
        return height, self.data.width - margins.left - margins.right

    def _where(self) -> tuple[slice, slice]:
        (height, width), margins = self._inner, self.margins
        rows = slice(margins.top, margins.top + height)
        return rows, slice(margins.left, margins.left + width)

    def place(self, file: ImageFile) -> NDArray[Any]:
        """Return the image on the canvas, (height, width, channels), grey beside it.

        It is brought to its place by the data set's own rule; what has that size is not touched.

        Raises:
            DataError: the file cannot be used.
        """
        height, width = self._inner
        channels: Literal[1, 3] = 1 if self.data.channels == 1 else 3
        shaping = replace(shaping_of(self.data), height=height, width=width, channels=channels)
        try:
            pixels = decode_image(
                file.content, shaping, origin=file.origin, max_pixels=self.data.max_pixels
            )
        except BadImageError as error:
            raise DataError(
                f"{file.origin} cannot be used: {error.reason}. Replace or remove it"
            ) from None
        shape = (self.data.height, self.data.width, self.data.channels)
        canvas = np.full(shape, self.data.num_levels // 2, self.data.dtype)
        canvas[self._where()] = pixels
        return canvas

    def known(self, mask: ImageFile | None, image: ImageFile) -> NDArray[np.bool_]:
        """Return which pixels of the canvas are known, (height, width).

        Args:
            mask: of the image; None: all of the image is known, and nothing beside it.
            image: that it is of.

        Raises:
            DataError: the mask has another size than image and canvas, is not black and white, or
                leaves all or nothing to be made.
        """
        known = np.zeros((self.data.height, self.data.width), np.bool_)
        if mask is None:
            known[self._where()] = True
            return known
        white = self._white(mask, image)
        size = self._inner
        if white.shape != size:
            if self.data.crop == "center":
                height, width = white.shape
                rows, columns = center_box(height, width, size)
                white = white[rows, columns]
            share = resized(white[..., None].astype(np.int64) * _SHARE, size, "box")
            white = share[..., 0] > 0
        known[self._where()] = ~white
        if known.all():
            raise DataError(
                f"the mask {mask.origin} has no white pixel where the model draws, so nothing "
                "would be made anew; white is what is made anew, black what is kept"
            )
        if not known.any():
            raise DataError(
                f"the mask {mask.origin} has no black pixel where the model draws, so nothing "
                "would be kept; leave --mask out and give --strength, or `sample` new images"
            )
        return known

    def _white(self, mask: ImageFile, image: ImageFile) -> NDArray[np.bool_]:
        """Return where the mask is white, in its own size."""
        facts = _facts(mask, self.data.max_pixels)
        found, of_image = _size(facts), _size(_facts(image, self.data.max_pixels))
        if found not in (of_image, self._inner):
            height, width = self._inner
            raise DataError(
                f"the mask {mask.origin} has {found[1]}x{found[0]} pixels; it must have the "
                f"{of_image[1]}x{of_image[0]} of its image {image.origin}, or the {width}x{height} "
                "to which that is brought"
            )
        try:
            pixels = plain_pixels(facts, (_WHITE, _WHITE, _WHITE))
        except UnreadableError as error:
            raise DataError(f"the mask {mask.origin} cannot be used: {error}") from None
        is_white, is_black = (pixels == _WHITE).all(axis=2), (pixels == 0).all(axis=2)
        if not (is_white | is_black).all():
            others = int((~(is_white | is_black)).sum())
            raise DataError(
                f"the mask {mask.origin} is not black and white: {others} of its "
                f"{is_white.size} pixels are neither; draw it without soft edges and save it as PNG"
            )
        return np.asarray(is_white)


def _facts(file: ImageFile, max_pixels: int) -> Facts:
    try:
        return walk(file.content, max_pixels=max_pixels)
    except UnreadableError as error:
        raise DataError(f"{file.origin} cannot be used: {error}. Replace or remove it") from None


def _size(facts: Facts) -> tuple[int, int]:
    """Return (height, width), upright."""
    upright = facts.orientation < _TURNED
    return (facts.height, facts.width) if upright else (facts.width, facts.height)
