"""Digits in six colours, with captions: pictures of words that a small network learns.

Each of scikit-learn's digits stands there in each of six colours, on black, and is of the class of
both: "red seven". Ten of the sixty pairs of a colour and a digit are not in the training split, one
of each digit: a network that draws them when it reads their names has understood both words. The
held-out split has all sixty, of digits that are in no colour in the training split.

Source: the digits, see `splits`; their colours are ours.
"""

import numpy as np
from numpy.typing import NDArray

from ddpm_core.sources.raw_images import RawImages

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASSES = tuple(f"{colour} {digit}" for colour in COLOURS for digit in DIGITS)
"""of the labels: 10 times the number of the colour, and the digit"""
UNSEEN = tuple(f"{list(COLOURS)[at % len(COLOURS)]} {digit}" for at, digit in enumerate(DIGITS))
"""the classes of which the training split has no image: red zero, green one, ..., yellow nine"""
NUM_TEST_DIGITS = 297
"""that are held out, in all colours"""
_TEMPLATES = ("a {pair}", "a {colour} digit {digit}", "the digit {digit} in {colour}", "{pair}")


def captions_of(name: str) -> tuple[str, ...]:
    """Return the captions of the images of a class, e.g. of "red seven"."""
    colour, digit = name.split()
    return tuple(one.format(pair=name, colour=colour, digit=digit) for one in _TEMPLATES)


def coloured(grey: RawImages) -> RawImages:
    """Return images (N, h, w, 1) in all colours, (6 N, h, w, 3): those of one after the other's.

    Of the split "train" without the pairs that are held out.
    """
    inks = np.array(list(COLOURS.values()), np.uint16)
    # Rounded to the nearest; a full ink of 255 leaves the values what they are.
    values = (grey.images_u8[:, None].astype(np.uint16) * inks[:, None, None] + 127) // 255
    labels = np.arange(len(COLOURS)) * len(DIGITS) + grey.labels[:, None]
    kept = ~np.isin(labels, _unseen()) if grey.name == "train" else np.ones(labels.shape, bool)
    captions = tuple(captions_of(CLASSES[label]) for label in labels[kept].tolist())
    return RawImages(values[kept].astype(np.uint8), labels[kept], grey.name, captions)


def _unseen() -> NDArray[np.int64]:
    return np.array([CLASSES.index(name) for name in UNSEEN], np.int64)
