"""Pictures for people: many small images side by side, on one sheet."""

import io
from collections.abc import Sequence
from math import ceil, isqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GRID_PIXELS = 750
_STRIP_PIXELS = 900
_SEPARATOR_LEVEL = 64  # dark grey: seen between black images, quiet between bright ones
_MARGIN = 12
_ROW_IMAGES = 10
_NAME_LENGTH = 24
"""characters of a name that are shown"""
_PREVIEW_QUALITY = 85
_PAPER, _INK = 255, 40


def sheet(
    images_u8: NDArray[np.uint8],
    *,
    num_columns: int,
    scale: int = 1,
    smooth: bool = False,
    separator: int = 2,
) -> NDArray[np.uint8]:
    """Lay images (n, h, w, c) out row by row as one image (H, W, c).

    Args:
        images_u8: the images; 1 or 3 channels.
        num_columns: images in a row; places left over in the last row keep the separators' grey.
        scale: each pixel becomes scale x scale pixels.
        smooth: enlarge with Lanczos' filter, else by repeating pixels. Repeating shows every
            level as it is; for images of a few pixels only the filter lets a person see the shape.
        separator: pixels between and around the images.
    """
    count, height, width, channels = images_u8.shape
    num_rows = ceil(count / num_columns)
    height, width = height * scale, width * scale
    canvas = np.full(
        (
            num_rows * (height + separator) + separator,
            num_columns * (width + separator) + separator,
            channels,
        ),
        _SEPARATOR_LEVEL,
        np.uint8,
    )
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    for index, image_u8 in enumerate(images_u8):
        row, column = divmod(index, num_columns)
        top, left = row * (height + separator) + separator, column * (width + separator) + separator
        enlarged = np.asarray(as_pillow(image_u8).resize((width, height), how))
        canvas[top : top + height, left : left + width] = enlarged.reshape(height, width, channels)
    return canvas


def grid(images_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay images (n, h, w, c) out in ceil(sqrt(n)) columns, enlarged to about 750 pixels."""
    num_columns = isqrt(len(images_u8) - 1) + 1
    scale = max(1, _GRID_PIXELS // (num_columns * (images_u8.shape[2] + 1)))
    # As wide as a pixel of the images: digits that fill their 8x8 would touch the next ones.
    return sheet(
        images_u8, num_columns=num_columns, scale=scale, smooth=True, separator=max(2, scale)
    )


def named_rows(rows: Sequence[tuple[str, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Lay out groups of images in rows of at most ten, each with its name at the left.

    Args:
        rows: name and images (n, h, w, c) of each group, at least one image.

    Returns:
        One image (H, W, c), with dark writing on white; ten images are about 750 pixels wide.
    """
    _, _, width, channels = rows[0][1].shape
    scale = max(1, _GRID_PIXELS // (_ROW_IMAGES * (width + 1)))
    num_columns = min(_ROW_IMAGES, max(len(images_u8) for _, images_u8 in rows))
    panels = [
        sheet(images_u8, num_columns=num_columns, scale=scale, smooth=True, separator=max(2, scale))
        for _, images_u8 in rows
    ]
    font = ImageFont.load_default(size=14)
    names = [
        name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..." for name, _ in rows
    ]
    left = 2 * _MARGIN + ceil(max(font.getlength(name) for name in names))
    shape = (
        sum(len(panel) + _MARGIN // 2 for panel in panels) + _MARGIN,
        left + panels[0].shape[1] + _MARGIN,
        channels,
    )
    canvas = as_pillow(np.full(shape, _PAPER, np.uint8))
    pen = ImageDraw.Draw(canvas)
    ink = _INK if channels == 1 else (_INK,) * channels
    top = _MARGIN
    for name, panel in zip(names, panels, strict=True):
        canvas.paste(as_pillow(panel), (left, top))
        pen.text((left - _MARGIN, top + len(panel) // 2), name, fill=ink, font=font, anchor="rm")
        top += len(panel) + _MARGIN // 2
    return np.asarray(canvas).reshape(shape)


def strip(
    blocks: Sequence[tuple[str, NDArray[np.uint8]]], *, captions: Sequence[str]
) -> NDArray[np.uint8]:
    """Lay out how images came to be: a row for each image, a column for each moment.

    Args:
        blocks: (title, frames) side by side; frames (moments, images, h, w, c) uint8.
        captions: what stands over each moment's column.

    Returns:
        One image (H, W, c), about 900 pixels wide, with dark writing on white.
    """
    moments, _, _, width, channels = blocks[0][1].shape
    scale = max(1, _STRIP_PIXELS // (len(blocks) * moments * width))
    panels = [
        # (moments, images, ...) -> image by image, each with all its moments.
        sheet(
            np.concatenate(list(frames.swapaxes(0, 1))),
            num_columns=moments,
            scale=scale,
            smooth=True,
            separator=1,
        )
        for _, frames in blocks
    ]
    title_font, caption_font = (ImageFont.load_default(size) for size in (14, 12))
    head = 48
    total_width = sum(panel.shape[1] for panel in panels) + (len(panels) + 1) * _MARGIN
    shape = (head + panels[0].shape[0] + _MARGIN, total_width, channels)
    canvas = as_pillow(np.full(shape, _PAPER, np.uint8))
    pen = ImageDraw.Draw(canvas)
    ink = _INK if channels == 1 else (_INK,) * channels
    left = _MARGIN
    for (title, _), panel in zip(blocks, panels, strict=True):
        canvas.paste(as_pillow(panel), (left, head))
        pen.text((left, 8), title, fill=ink, font=title_font)
        for column, caption in enumerate(captions):
            middle = left + column * (width * scale + 1) + width * scale // 2
            pen.text((middle, head - 6), caption, fill=ink, font=caption_font, anchor="ms")
        left += panel.shape[1] + _MARGIN
    return np.asarray(canvas).reshape(shape)


def to_png(image_u8: NDArray[np.uint8]) -> bytes:
    """Return an image (h, w, c) as a compressed PNG file."""
    buffer = io.BytesIO()
    as_pillow(image_u8).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def preview(png: bytes, *, max_bytes: int) -> bytes:
    """Return a copy of a picture as a JPEG of at most `max_bytes`, smaller in pixels if need be.

    Args:
        png: the file of a grey or RGB picture.
        max_bytes: at least 1,000, which a picture of one pixel has room in.

    Raises:
        OSError: `png` is no picture.
    """
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert("L" if opened.mode == "L" else "RGB")
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=_PREVIEW_QUALITY)
        if buffer.tell() <= max_bytes or picture.size == (1, 1):
            return buffer.getvalue()
        picture.thumbnail((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))


def as_pillow(image_u8: NDArray[np.uint8]) -> Image.Image:
    """Return an image (h, w, c), c = 1 (grey) or 3 (RGB), as Pillow holds it."""
    return Image.fromarray(image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8)
