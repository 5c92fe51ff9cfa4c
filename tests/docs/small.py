"""The rule by which a command of a page is made small enough to be run; said in docs/tests.md.

As a program: `small.py PROGRAM WORDS...` runs PROGRAM with the words of its smaller twin.
"""

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from ddpm_core import __main__ as stage
from ddpm_core.cli import changes_of, parse_overrides
from ddpm_core.recipes import is_recipe, recipe
from ddpm_core.runs.stages import STAGES
from flows import command_line

DIVISOR = 50
"""of every number of steps and images; also of the 400 in RUN@400"""
DIVIDED = {
    "train": ("num_steps", "warmup_steps", "log_every", "checkpoint_every", "preview_every"),
    "sample": ("num_images",),
    "evaluate": (
        *("num_likelihood_images", "num_classified_images", "num_enlarged_images"),
        "feature_steps",
    ),
    "study": (
        "num_images",
        "num_likelihood_images",
        "num_ode_images",
        "ode_steps",
        "ablation_steps",
    ),
}
AT_MOST = {
    "train.num_steps": 60,
    "train.global_batch_size": 16,
    "sample.num_images": 16,
    "sample.unit_size": 8,
    "sample.batch_size": 8,
    "compute.num_workers": 1,
}
AT_LEAST = {"train.num_steps": 2, "sample.num_images": 8, "evaluate.num_likelihood_images": 2}
FLOWS = {"flows.train_ddpm": command_line.TRAIN_DDPM, "flows.paper": command_line.PAPER}


def smaller(words: Sequence[str]) -> list[str]:
    """Return the words after `python` or `ddpm` of the command that is run in place of these.

    A dry run is as it stands. A training has its sizes divided, whether the command or its recipe
    sets them; of a run that is there already, only those that the command sets.
    """
    words = [_here(word) for word in words]
    given = _parsed(words)
    if given is None or not hasattr(given, "overrides") or getattr(given, "dry_run", False):
        return words
    said = parse_overrides(given.overrides)
    changes = {**_sizes_of_recipe(given), **_divided(said)}
    kept = [_at(word) for word in _without(words, changes)]
    return [
        *kept,
        *(word for key, value in changes.items() for word in ("--set", _set(key, value))),
    ]


def _parsed(words: Sequence[str]) -> argparse.Namespace | None:
    """Return what the command line makes of its words; None of a command without configuration."""
    match list(words):
        case ["-m", module, *rest] if module in FLOWS:
            return command_line._parser(FLOWS[module]).parse_args(rest)
        case ["run", *rest]:
            return command_line._parser(command_line.TRAIN_DDPM).parse_args(rest)
        case ["-m", "ddpm_core", *rest] | [*rest] if rest and not rest[0].startswith("-"):
            return stage._parser().parse_args(rest) if not rest[0].endswith(".py") else None
    return None


def _sizes_of_recipe(given: argparse.Namespace) -> dict[str, Any]:
    if getattr(given, "stage", None) not in (None, *STAGES, "import-weights", "edit", "upscale"):
        return {}
    name = getattr(given, "recipe", None) or given.target
    if not is_recipe(name):
        return {}
    changes = (
        changes_of(given, name) if hasattr(given, "size") else parse_overrides(given.overrides)
    )
    values = recipe(name).replaced(changes).model_dump(mode="json")
    return _divided(
        {f"{section}.{key}": value for section in values for key, value in _items(values[section])}
    )


def _items(section: object) -> list[tuple[str, Any]]:
    return list(section.items()) if isinstance(section, dict) else []


def _divided(values: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes among these, divided and bounded."""
    found = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        if not isinstance(value, int) or isinstance(value, bool) or not value:
            continue
        if name in DIVIDED.get(section, ()):
            found[key] = max(AT_LEAST.get(key, 1), min(value // DIVISOR, AT_MOST.get(key, value)))
        elif key in AT_MOST:
            found[key] = min(value, AT_MOST[key])
    return found


def _without(words: Sequence[str], changes: dict[str, Any]) -> list[str]:
    """Return the words without `--set` of these keys."""
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] == "--set" and word.partition("=")[0] in changes:
            kept.pop()
        else:
            kept.append(word)
    return kept


def _at(word: str) -> str:
    return re.sub(r"@(\d+)(?=:|$)", lambda at: f"@{int(at[1]) // DIVISOR}", word)


def _set(key: str, value: object) -> str:
    return f"{key}={json.dumps(value)}"


def _here(word: str) -> str:
    """Return a word with the folder of a page's data in place of /data."""
    return re.sub(r"(^|=)/data/", rf"\1{os.environ.get('PAGE_DATA', '/data')}/", word)


def prepared(program: str, given: Sequence[str]) -> list[str]:
    """Return the words to run, said before; folders of variables are those of the page's data."""
    words = smaller(given)
    print(f"+ {shlex.join([program.rpartition('/')[2], *words])}", file=sys.stderr, flush=True)
    for name, value in os.environ.items():
        if name.startswith("DDPM_"):
            os.environ[name] = _here(value)
    return words


if __name__ == "__main__":
    os.execv(sys.argv[1], [sys.argv[1], *prepared(sys.argv[1], sys.argv[2:])])  # noqa: S606 - no shell
