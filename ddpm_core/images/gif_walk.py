"""GIF walked from end to end; see `image_walk`."""

import struct
from collections.abc import Iterator

from ddpm_core.images.image_facts import (
    MAX_PARTS,
    GifFacts,
    UnreadableError,
    check_size,
    cut_short,
)

GIFS = (b"GIF87a", b"GIF89a")
_EXTENSION, _FRAME, _END = 0x21, 0x2C, 0x3B


def _end_of_blocks(content: bytes, at: int) -> int:
    """Return where a GIF's chain of blocks ends, with the empty block that ends it."""
    while at < len(content) and content[at]:
        at += 1 + content[at]
    if at >= len(content):
        raise cut_short("GIF")
    return at + 1


def _parts(content: bytes, at: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (kind, begin, begin of the blocks, end) of each extension and frame up to the end."""
    for _ in range(MAX_PARTS):
        part = content[at] if at < len(content) else 0
        if part == _END:
            return
        head = content[at : at + 11]
        if part == _EXTENSION and len(head) > 2:
            blocks = at + 2
        elif part == _FRAME and len(head) == 11:
            # A palette of its own may follow the header; then one byte of code size.
            blocks = at + 10 + _palette_bytes(head[9]) + 1
        elif at >= len(content) or len(head) < 11:
            raise cut_short("GIF")
        else:
            raise UnreadableError(f"at byte {at} there is no part of a GIF")
        end = _end_of_blocks(content, blocks)
        yield part, at, blocks, end
        at = end
    raise UnreadableError(f"it has over {MAX_PARTS} frames and extensions")


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def walk_gif(content: bytes, max_pixels: int) -> GifFacts:
    """Return what a GIF's headers say, and its first frame as a GIF of its own.

    Source: GIF89a specification, sections 18 to 27.
    """
    if len(content) < 13:
        raise cut_short("GIF")
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    check_size(width, height, max_pixels)
    start = 13 + _palette_bytes(flags)
    palette, transparent, frame = content[13:start], None, b""
    left = top = 0
    for part, begin, blocks, end in _parts(content, start):
        if frame:
            continue  # later frames are walked only to find the end
        if part == _EXTENSION and content[begin + 1 : begin + 3] == b"\xf9\x04":
            transparent = content[begin + 6] if content[begin + 3] & 1 else None
        elif part == _FRAME:
            left, top, columns, rows, frame_flags = struct.unpack_from("<4HB", content, begin + 1)
            check_size(columns, rows, max_pixels)
            palette = content[begin + 10 : blocks - 1] or palette
            if left + columns > width or top + rows > height or not palette:
                raise UnreadableError("its first frame has no palette, or leaves the picture")
            size_bits = (len(palette) // 3).bit_length() - 2
            frame = b"".join(
                (
                    struct.pack("<6sHHBBB", GIFS[1], columns, rows, 0x80 | size_bits, 0, 0),
                    palette,
                    struct.pack("<BHHHHB", _FRAME, 0, 0, columns, rows, frame_flags & 0x40),
                    content[blocks - 1 : end],
                    bytes([_END]),
                )
            )
    if not frame:
        raise UnreadableError("it is a GIF without a frame")
    return GifFacts(
        kind="gif",
        width=width,
        height=height,
        plain_channels=None,
        is_bare=False,
        essence=frame,
        left=left,
        top=top,
        palette=palette,
        transparent=transparent,
    )
