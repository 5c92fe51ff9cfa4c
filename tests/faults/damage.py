"""Damage for the campaign: one file of a finished run, of a kind, changed in a random way."""

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

WAYS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {}


def _way(change: Callable[[bytes, random.Random], bytes | None]):
    WAYS[change.__name__] = change
    return change


@_way
def flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit."""
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@_way
def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


@_way
def longer(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randint(1, 600))


@_way
def zeros(data: bytes, rng: random.Random) -> bytes:
    return bytes(len(data))


@_way
def other_bytes(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(len(data))


@_way
def missing(data: bytes, rng: random.Random) -> None:
    return None


# kind of file -> where it lies in the root; the run of the campaign is `a`, `{data}` its data set
PLACES = {
    "dataset.json": "runs/a/dataset.json",
    "index": "{data}/index.json",
    "shard": "{data}/*.tar",
    "manifest of a shard": "{data}/t*.json",
    "feature network": "{data}/features-*/network-*",
    "manifest of a feature network": "{data}/features-*/manifest.json",
    "checkpoint": "runs/a/checkpoints/*/*-*",
    "manifest of a checkpoint": "runs/a/checkpoints/*/manifest.json",
    "samples": "runs/a/samples/*/*.tar",
    "picture of samples": "runs/a/samples/*/*.png",
    "manifest of a unit": "runs/a/samples/*/0*.json",
    "manifest of samples": "runs/a/samples/*/first-*.json",
    "figures and numbers": f"runs/a/evaluation/*/*-{'?' * 16}.[jp]*",
    "unit of an evaluation": "runs/a/evaluation/*/*.safetensors",
    "manifest of a unit of an evaluation": "runs/a/evaluation/*/*-000*.json",
    "manifest of an evaluation": "runs/a/evaluation/*/manifest.json",
}


def places(root: Path, pattern: str) -> list[Path]:
    """Return what there is at a place, in order."""
    data = json.loads((root / "runs/a/dataset.json").read_bytes())["dataset"]
    return sorted(root.glob(pattern.replace("{data}", data)))


def strike(pattern: str, root: Path, rng: random.Random) -> str:
    """Damage one file; return which and how."""
    path = rng.choice([one for one in places(root, pattern) if one.is_file()])
    way = rng.choice(sorted(WAYS))
    changed = WAYS[way](path.read_bytes(), rng)
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    return f"{way}: {path.relative_to(root)}"


def unfinished(
    strike_at: Callable[[Path, random.Random], str], root: Path, rng: random.Random
) -> str:
    """Let something happen to the units of evaluations that are not finished."""
    for path in root.glob("runs/a/evaluation/*/manifest.json"):
        path.unlink()
    return strike_at(root, rng)


UNIT_PLACES = ("unit of an evaluation", "manifest of a unit of an evaluation")
KINDS = {f"damage: {kind}": partial(strike, pattern) for kind, pattern in PLACES.items()} | {
    f"damage, unfinished: {kind}": partial(unfinished, partial(strike, PLACES[kind]))
    for kind in UNIT_PLACES
}
