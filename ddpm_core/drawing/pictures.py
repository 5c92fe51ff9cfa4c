"""Pictures for people: many small images side by side, on one sheet."""

import io
import textwrap
from collections.abc import Sequence
from math import ceil, isqrt
from typing import Any

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
_CAPTION_PIXELS, _CAPTION_LINES, _LINE_PIXELS = 90, 4, 15
"""width of an image with a caption at least, lines of one at most, and how high a line is"""
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


def captioned(images_u8: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.uint8]:
    """Lay images (n, h, w, c) out as `grid` does, each with its caption below it, in a few lines.

    Returns:
        One image (H, W, c), with dark writing on white.
    """
    count, height, width, channels = images_u8.shape
    num_columns = isqrt(count - 1) + 1
    scale = max(1, _GRID_PIXELS // (num_columns * (width + 1)), ceil(_CAPTION_PIXELS / width))
    width, height = width * scale, height * scale
    font = _font(12, captions)
    lines = [_lines(text, max(8, width // 6), _CAPTION_LINES) for text in captions]
    under = max(map(len, lines)) * _LINE_PIXELS
    step_x, step_y = width + _MARGIN, height + under + _MARGIN
    num_rows = ceil(count / num_columns)
    shape = (num_rows * step_y + _MARGIN, num_columns * step_x + _MARGIN, channels)
    canvas = as_pillow(np.full(shape, _PAPER, np.uint8))
    pen = ImageDraw.Draw(canvas)
    ink = _INK if channels == 1 else (_INK,) * channels
    for index, image_u8 in enumerate(images_u8):
        row, column = divmod(index, num_columns)
        left, top = _MARGIN + column * step_x, _MARGIN + row * step_y
        enlarged = as_pillow(image_u8).resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(enlarged, (left, top))
        for number, line in enumerate(lines[index]):
            middle = (left + width // 2, top + height + (number + 0.5) * _LINE_PIXELS)
            pen.text(middle, line, fill=ink, font=font, anchor="mm")
    return np.asarray(canvas).reshape(shape)


def _font(size: int, texts: Sequence[str]) -> Any:  # noqa: ANN401 - Pillow has two classes
    """Return a font that has the letters of the texts: Pillow's own has those of ASCII alone."""
    if all(text.isascii() for text in texts):
        return ImageFont.load_default(size)
    from matplotlib import get_data_path  # only here: where images are served there is none

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _lines(text: str, width: int, most: int) -> list[str]:
    """Return a text in lines of so many characters; what has no place is left out, as is said."""
    return textwrap.wrap(text, width, max_lines=most, placeholder=" ...") or [""]


def named_rows(
    rows: Sequence[tuple[str, NDArray[np.uint8]]], *, num_lines: int = 1
) -> NDArray[np.uint8]:
    """Lay out groups of images in rows of at most ten, each with its name at the left.

    Args:
        rows: name and images (n, h, w, c) of each group, at least one image.
        num_lines: that a name may have.

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
    font = _font(14, [name for name, _ in rows])
    names = [
        [name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 3]}..."]
        if num_lines == 1
        else _lines(name, _NAME_LENGTH, num_lines)
        for name, _ in rows
    ]
    left = 2 * _MARGIN + ceil(max(font.getlength(line) for name in names for line in name))
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
        for number, line in enumerate(name):
            middle = top + len(panel) // 2 + (number - (len(name) - 1) / 2) * _LINE_PIXELS
            pen.text((left - _MARGIN, middle), line, fill=ink, font=font, anchor="rm")
        top += len(panel) + _MARGIN // 2
    return np.asarray(canvas).reshape(shape)


def strip(
    blocks: Sequence[tuple[str, NDArray[np.uint8]]],
    *,
    captions: Sequence[str],
    row_names: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Lay out how images came to be: a row for each image, a column for each moment.

    Args:
        blocks: (title, frames) side by side; frames (moments, images, h, w, c) uint8.
        captions: what stands over each moment's column.
        row_names: what stands at the left of each image's row; none: nothing does.

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
    title_font, caption_font = ImageFont.load_default(14), _font(12, row_names)
    head = 48
    row_height = (panels[0].shape[0] - 1) // max(1, blocks[0][1].shape[1])
    names = [_lines(name, _NAME_LENGTH, max(1, row_height // _LINE_PIXELS)) for name in row_names]
    beside = ceil(max((caption_font.getlength(line) for name in names for line in name), default=0))
    beside += _MARGIN if names else 0
    total_width = beside + sum(panel.shape[1] for panel in panels) + (len(panels) + 1) * _MARGIN
    shape = (head + panels[0].shape[0] + _MARGIN, total_width, channels)
    canvas = as_pillow(np.full(shape, _PAPER, np.uint8))
    pen = ImageDraw.Draw(canvas)
    ink = _INK if channels == 1 else (_INK,) * channels
    left = _MARGIN + beside
    for row, name in enumerate(names):
        for number, line in enumerate(name):
            middle = head + (row + 0.5) * row_height + (number - (len(name) - 1) / 2) * _LINE_PIXELS
            pen.text((left - _MARGIN, middle), line, fill=ink, font=caption_font, anchor="rm")
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
