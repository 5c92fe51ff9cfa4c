"""The words of captions: which there are, and which images have them.

A caption is taken for the set of its words, in small letters and without what lies between them.
It says nothing of their order: "a red cup on a blue cloth" is "a blue cup on a red cloth".
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 256
"""of a vocabulary, those that come nearest to half of the images"""
LEAST_SHARE = 0.005
"""of the training images that must have a word, and that must not"""
_WORD = re.compile(r"\w+")
Has = NDArray[np.bool_]
"""(images, words): whether an image has a word"""


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text: runs of letters and digits, in small letters."""
    return frozenset(_WORD.findall(text.casefold()))


def vocabulary(captions: Sequence[Iterable[str]]) -> tuple[str, ...]:
    """Return the words by which the captions of images differ, in the order of the alphabet.

    Args:
        captions: of each image, its captions.
    """
    counts = Counter(word for own in captions for word in _all_of(own))
    least = max(1.0, LEAST_SHARE * len(captions))
    fewer = {word: min(count, len(captions) - count) for word, count in counts.items()}
    differ = sorted((-count, word) for word, count in fewer.items() if count >= least)
    return tuple(sorted(word for _, word in differ[:MAX_WORDS]))


def has_words(captions: Sequence[Iterable[str]], words: Sequence[str]) -> Has:
    """Return which words each image has in one of its captions, (n, words)."""
    columns = {word: column for column, word in enumerate(words)}
    found = np.zeros((len(captions), len(words)), bool)
    for row, own in zip(found, captions, strict=True):
        row[[columns[word] for word in _all_of(own) if word in columns]] = True
    return found


def _all_of(captions: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*map(words_of, captions))
