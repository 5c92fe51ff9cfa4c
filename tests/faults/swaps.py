"""Swaps for the campaign: whole, committed things where others belong."""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.damage import places, unfinished

# kind -> where two things of a kind lie; one of the run `a`, or of its data set, is replaced
FOLDERS = {
    "checkpoints of two steps": ("runs/a/checkpoints/*", "runs/a/checkpoints/*"),
    "checkpoints of two runs": ("runs/a/checkpoints/*", "runs/[bc]/checkpoints/*"),
    "samples of two samplers": ("runs/a/samples/*", "runs/a/samples/*"),
    "samples of two runs": ("runs/a/samples/*", "runs/[bc]/samples/*"),
    "evaluations of two protocols": ("runs/a/evaluation/*", "runs/a/evaluation/*"),
    "evaluations of two runs": ("runs/a/evaluation/*", "runs/[bc]/evaluation/*"),
    "two data sets": ("{data}", "datasets/digits-*"),
    "two feature networks": ("{data}/features-*", "datasets/digits-*/features-*"),
}
FILES = {
    "dataset.json of two runs": ("runs/a/dataset.json", "runs/c/dataset.json"),
    "units of a set of samples": ("runs/a/samples/*/0*.json", "runs/a/samples/*/0*.json"),
    "units of two runs": ("runs/a/samples/*/0*.json", "runs/[bc]/samples/*/0*.json"),
    "units of an evaluation": (
        "runs/a/evaluation/*/*-000*.json", "runs/a/evaluation/*/*-000*.json",
    ),
    "units of evaluations of two runs": (
        "runs/a/evaluation/*/*-000*.json", "runs/[bc]/evaluation/*/*-000*.json",
    ),
    "manifests of two sets of samples": (
        "runs/a/samples/*/first-*.json", "runs/*/samples/*/first-*.json",
    ),
    "manifests of two checkpoints": (
        "runs/a/checkpoints/*/manifest.json", "runs/*/checkpoints/*/manifest.json",
    ),
    "indices of two data sets": ("{data}/index.json", "datasets/digits-*/index.json"),
    "manifests of two shards": ("{data}/t*.json", "datasets/digits-*/t*.json"),
}  # fmt: skip


def _whole(path: Path) -> bool:
    """Say whether it still has its files: of a retired checkpoint only the manifest is left."""
    return not (path / "retired").exists() and not (path.parent / "retired").exists()


def replace(patterns: tuple[str, str], root: Path, rng: random.Random) -> str:
    """Put a copy of one thing where another lies; return which."""
    ours, theirs = (
        [path for path in places(root, pattern) if _whole(path)] for pattern in patterns
    )
    target = rng.choice(ours)
    source = rng.choice([path for path in theirs if path != target])
    if source.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return f"{source.relative_to(root)} over {target.relative_to(root)}"


def exchange(patterns: tuple[str, str], root: Path, rng: random.Random) -> str:
    """Let two files change places; return which."""
    ours, theirs = (
        [path for path in places(root, pattern) if _whole(path)] for pattern in patterns
    )
    one = rng.choice(ours)
    other = rng.choice([path for path in theirs if path != one])
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return f"{one.relative_to(root)} and {other.relative_to(root)}"


KINDS: dict[str, Callable[[Path, random.Random], str]] = {
    **{f"copied: {kind}": partial(replace, patterns) for kind, patterns in FOLDERS.items()},
    **{f"exchanged: {kind}": partial(exchange, patterns) for kind, patterns in FILES.items()},
    **{
        f"exchanged, unfinished: {kind}": partial(unfinished, partial(exchange, FILES[kind]))
        for kind in ("units of an evaluation", "units of evaluations of two runs")
    },
}
