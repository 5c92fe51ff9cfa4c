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
_of: list[tuple[str, str]] = []
"""the connection that those kept are of"""


def keep(kind: Kind, one: Named) -> None:
    """Keep an actor that has nothing to do, and holds nothing of what it did."""
    _drop_what_is_gone()
    _kept.setdefault(kind, []).append(one)


def take(kind: Kind) -> Named | None:
    """Return one of this kind, which is the caller's from now on; None: there is none."""
    _drop_what_is_gone()
    return _kept[kind].pop() if _kept.get(kind) else None


def release(*, other_than: Kind | None = None) -> None:
    """End all that are kept, or those of other kinds: what they hold is free for others."""
    if _kept:
        _drop_what_is_gone()
    for kind in [kind for kind in _kept if kind != other_than]:
        for one in _kept.pop(kind):
            pulse.forget(one.name)
            ray.kill(one.actor)


def _drop_what_is_gone() -> None:
    # Who connects by `ray.init` may leave by `ray.shutdown`, and such an actor cannot be called.
    here = _connection()
    if _of != [here]:
        _kept.clear()
        _of[:] = [here]


def _connection() -> tuple[str, str]:
    """Return the cluster that this process is connected to, and as which of its jobs."""
    context = ray.get_runtime_context()
    return context.gcs_address, context.get_job_id()
