"""Texts as the bytes of their UTF-8: tokens without a vocabulary, of every language.

Byte b is token b + 3; 0 fills up, 1 ends a text, 2 stands for what is not known. Networks of
transformers that are made for them (ByT5) have the same numbers.

Source: Xue et al. 2022, arXiv:2105.13626, section 3.1.
"""

from collections.abc import Sequence

import torch

from ddpm_core.conditioning import Text
from ddpm_core.errors import ConfigError

PAD, END, HIDDEN = 0, 1, 2
FIRST_BYTE = 3
NUM_TOKENS = FIRST_BYTE + 256
"""that occur"""


def encode(texts: Sequence[str], length: int) -> Text:
    """Return the tokens of texts, each with its end, filled up to one length.

    A text that is too long keeps as many of its first whole characters as there is place for.

    Args:
        texts: b of them; the empty one is its end alone.
        length: l, tokens of each, the end among them.

    Raises:
        ConfigError: `length` has no place for an end, or a text is none (a lone surrogate).
    """
    if length < 1:
        raise ConfigError(f"texts of {length} tokens have no end; give at least 1")
    tokens = torch.full((len(texts), length), PAD, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        content = _bytes_of(text, length - 1)
        row[: len(content)] = torch.tensor(list(content), dtype=torch.int64) + FIRST_BYTE
        row[len(content)] = END
    return Text(tokens, tokens != PAD)


def num_tokens(text: str) -> int:
    """Return how many tokens a text has, its end among them."""
    return len(_bytes_of(text)) + 1


def decode(text: Text) -> list[str]:
    """Return the texts that tokens stand for, up to their ends; bytes that are no character are
    shown as \N{REPLACEMENT CHARACTER}.
    """
    rows = [row[row >= FIRST_BYTE] - FIRST_BYTE for row in text.tokens]
    return [bytes(row[row < 256].tolist()).decode(errors="replace") for row in rows]


def _bytes_of(text: str, most: int | None = None) -> bytes:
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the text {text[:100]!a} cannot be written as UTF-8: {error.reason}; give text"
        ) from None
    # Whole characters: what is left of a cut one is ignored.
    return content if most is None else content[:most].decode(errors="ignore").encode()
