"""Prompts: the texts that images are drawn of, checked, and where a network reads less of them."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from ddpm_core.errors import ConfigError

OF_DATA = ("held_out", "training")
"""words for the captions of a data set"""
FILE = "@"
"""what the place of a file of prompts begins with"""
MAX_PROMPTS = 2**12
_MAX_BYTES = 2**16
"""of all prompts as JSON: they stand in run.json, and in the command line of each job"""
Prompts = Literal["held_out", "training"] | tuple[str, ...]


def checked_prompts(value: Any) -> Any:  # noqa: ANN401 - not checked yet
    """Return what `sample.prompts` is given: a word, or texts; a text by itself is one of them.

    Raises:
        ValueError: it is neither, there are too many, or one is no text.
    """
    if isinstance(value, str):
        if value in OF_DATA:
            return value
        if value.startswith(FILE):
            raise ValueError(
                f"prompts={value[:200]!r} names a file, which is read where a command or a flow "
                "begins; give its texts here, as a list"
            )
        value = (value,)
    texts = tuple(value) if isinstance(value, list | tuple) else ()
    if not 0 < len(texts) <= MAX_PROMPTS or not all(type(one) is str for one in texts):
        raise ValueError(
            f"prompts={json.dumps(value, default=str)[:100]} must be held_out, training, a text, a "
            f'list of 1 to {MAX_PROMPTS} texts, as in ["a red seven"], or @FILE'
        )
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"prompts[{number}]={text[:100]!a} cannot be written as UTF-8: {error.reason}; "
                "give text"
            ) from None
    size = len(json.dumps(texts))
    if size > _MAX_BYTES:
        raise ValueError(
            f"prompts are {size} bytes as JSON, and at most {_MAX_BYTES} go into a run.json; give "
            "fewer, or make a data set of images with these captions and draw of held_out"
        )
    return texts


def lacking(prompts: str) -> ConfigError:
    """Return the error of prompts that are captions of a data set which has none."""
    return ConfigError(
        f"sample.prompts={prompts} draws images of the captions of a data set, and there are none; "
        'give texts, e.g. --set sample.prompts=["a red seven"]'
    )


def prompts_of_lines(content: bytes, *, origin: str) -> list[str]:
    """Return the texts of a file, one a line; empty lines at the end are none, others are empty.

    Args:
        content: UTF-8, with or without a byte order mark, lines ended as anywhere.
        origin: what to call the file.

    Raises:
        ConfigError: it is no UTF-8, or there is no text.
    """
    try:
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{origin}, line {line}, is no text in UTF-8: {error.reason}") from None
    if not any(lines):
        raise ConfigError(f"{origin} holds no prompt; write one into each line")
    return lines


def cut_text(prompts: Sequence[str], text_length: int) -> str | None:
    """Return what to say of prompts of which a network reads the beginning alone; None: all fit.

    Args:
        prompts: the texts.
        text_length: tokens that the network is given, the end among them: a byte is one.
    """
    cut = [number for number, text in enumerate(prompts) if len(text.encode()) >= text_length]
    if not cut:
        return None
    first = prompts[cut[0]].encode()
    kept = first[: text_length - 1].decode(errors="ignore")
    return (
        f"{len(cut)} of {len(prompts)} prompts are longer than the {text_length - 1} bytes that "
        f"this network reads (model.text_length={text_length}), and are cut: of prompt {cut[0]}, "
        f"with {len(first)}, it reads {_ending(kept)!r}"
    )


def _ending(text: str) -> str:
    return text if len(text) <= 60 else f"...{text[-57:]}"
