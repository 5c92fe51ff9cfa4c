"""Sheets of pictures with titles, captions and rows that have names: the paper's picture figures.

Every pixel of the sheet is a pixel of the file; the writing stands around the images, never on
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.drawing import pictures
from ddpm_core.drawing.plot import DPI, GREY, png

_WIDTH = 1200
_CELL_PIXELS = (48, 128)
_GAP, _BLOCK_GAP = 4, 20
_LINE = 17
_MARGIN = 14
_CHARACTER = 7.2  # pixels of width, about, in the writing of _SMALL points
_SMALL, _MIDDLE, _LARGE = 9.5, 11, 13


@dataclass(frozen=True)
class Block:
    """Columns that belong together."""

    title: str
    frames_u8: NDArray[np.uint8]
    """(columns, rows, h, w, c)"""
    captions: Sequence[Sequence[str]] = ()
    """of each column: its lines"""
    notes: Sequence[Sequence[str]] = ()
    """of each column: what stands under each of its images"""


def sheet_figure(
    blocks: Sequence[Block],
    *,
    title: str,
    row_names: Sequence[str] = (),
    caption_names: Sequence[str] = (),
) -> bytes:
    """Return blocks of columns side by side as a PNG of about 1200 pixels of width.

    Args:
        blocks: all with the same rows.
        title: of the whole sheet.
        row_names: of each row, at its left.
        caption_names: what the lines of the captions are, at their left.
    """
    plan = _Plan(blocks, row_names, caption_names, title)
    figure = Figure(figsize=(plan.width / DPI, plan.height / DPI), dpi=DPI)
    # RGB, also for grey images: a colour map would round some levels down.
    figure.figimage(plan.canvas(), origin="upper")

    def write(
        x: float, y: float, text: str, size: float, *, align: str = "left", ink: str = "#222222"
    ) -> None:
        figure.text(
            x / plan.width,
            1 - y / plan.height,
            text,
            fontsize=size,
            ha=align,
            va="center",
            color=ink,
        )

    write(_MARGIN, _MARGIN + 8, title, _LARGE)
    for row, name in enumerate(row_names):
        write(plan.left - 8, plan.row(row) + plan.cell_height / 2, name, _SMALL, align="right")
    top = plan.captions_top
    for line, name in enumerate(caption_names):
        write(plan.left - 8, top + (line + 0.4) * _LINE, name, _SMALL, align="right", ink=GREY)
    for block, left in zip(blocks, plan.block_lefts, strict=True):
        write(left, top - _LINE * 0.7, block.title, _MIDDLE)
        for column, lines in enumerate(block.captions):
            middle = plan.column(left, column) + plan.cell_width / 2
            for line, text in enumerate(lines):
                write(middle, top + (line + 0.4) * _LINE, text, _SMALL, align="center")
        for column, texts in enumerate(block.notes):
            middle = plan.column(left, column) + plan.cell_width / 2
            for row, text in enumerate(texts):
                below = plan.row(row) + plan.cell_height + 0.5 * _LINE
                write(middle, below, text, _SMALL, align="center")
    return png(figure)


class _Plan:
    """Where everything lies, in pixels from the upper left corner."""

    def __init__(
        self,
        blocks: Sequence[Block],
        row_names: Sequence[str],
        caption_names: Sequence[str],
        title: str,
    ) -> None:
        self._blocks = blocks
        shape: tuple[int, ...] = blocks[0].frames_u8.shape
        _, self._num_rows, height, width, _ = shape
        num_columns = sum(len(block.frames_u8) for block in blocks)
        longest = max((len(name) for name in (*row_names, *caption_names)), default=0)
        self.left = _MARGIN + (int(longest * _CHARACTER) + 8 if longest else 0)
        room = (_WIDTH - self.left - _MARGIN - len(blocks) * _BLOCK_GAP) // num_columns - _GAP
        self.cell_width = min(max(room, _CELL_PIXELS[0]), _CELL_PIXELS[1])
        self.cell_height = round(self.cell_width * height / width)
        self._row_pitch = self.cell_height + _GAP
        if any(block.notes for block in blocks):
            self._row_pitch += _LINE
        num_lines = max((len(lines) for block in blocks for lines in block.captions), default=0)
        self.captions_top = _MARGIN + int(3.5 * _LINE)
        self.top = self.captions_top + num_lines * _LINE
        self.block_lefts = []
        right = self.left
        for block in blocks:
            self.block_lefts.append(right)
            columns = len(block.frames_u8) * (self.cell_width + _GAP) - _GAP
            right += max(columns, int(len(block.title) * _CHARACTER)) + _BLOCK_GAP
        self.width = max(right, int(1.35 * _CHARACTER * len(title))) + _MARGIN
        self.height = self.top + self._num_rows * self._row_pitch + _MARGIN

    def column(self, block_left: int, column: int) -> int:
        """Return where a column of the block that begins at `block_left` begins."""
        return block_left + column * (self.cell_width + _GAP)

    def row(self, row: int) -> int:
        """Return where a row begins."""
        return self.top + row * self._row_pitch

    def canvas(self) -> NDArray[np.uint8]:
        """Return white paper (H, W, 3) with all images on it."""
        paper = np.full((self.height, self.width, 3), 255, np.uint8)
        for block, block_left in zip(self._blocks, self.block_lefts, strict=True):
            for column, frames_u8 in enumerate(block.frames_u8):
                left = self.column(block_left, column)
                for row, image_u8 in enumerate(frames_u8):
                    # Smooth: of images of a few pixels only the filter shows the shape.
                    enlarged = (
                        pictures.as_pillow(image_u8)
                        .convert("RGB")
                        .resize((self.cell_width, self.cell_height), Image.Resampling.LANCZOS)
                    )
                    top = self.row(row)
                    cell = paper[top : top + self.cell_height, left : left + self.cell_width]
                    cell[:] = np.asarray(enlarged)
        return paper
