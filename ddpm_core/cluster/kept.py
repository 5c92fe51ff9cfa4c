"""Actors without work, kept for the next pool of this process: each took seconds to start.

They hold the cores and cards that they were started with: whatever else needs those calls
`release` first, and so does the end of the connection.
"""

from typing import Any, NamedTuple

import ray

from ddpm_core.cluster import pulse


class Kind(NamedTuple):
    """What an actor of a pool holds."""

    num_cpus: int
    num_gpus: int


class Named(NamedTuple):
    """An actor, and the name under which it shows its pulse."""

    actor: Any
    name: str


_kept: dict[Kind, list[Named]] = {}


def keep(kind: Kind, one: Named) -> None:
    """Keep an actor that has nothing to do, and holds nothing of what it did."""
    _kept.setdefault(kind, []).append(one)


def take(kind: Kind) -> Named | None:
    """Return one of this kind, which is the caller's from now on; None: there is none."""
    return _kept[kind].pop() if _kept.get(kind) else None


def release(*, other_than: Kind | None = None) -> None:
    """End all that are kept, or those of other kinds: what they hold is free for others."""
    for kind in [kind for kind in _kept if kind != other_than]:
        for one in _kept.pop(kind):
            pulse.forget(one.name)
            ray.kill(one.actor)
