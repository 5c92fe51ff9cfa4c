"""Who is asked next: the pool's rules, with actors that are only names."""

import ray.exceptions

from ddpm_core.cluster import pool
from ddpm_core.config import ComputeConfig

GONE = ray.exceptions.ActorDiedError()


def test_an_idle_actor_takes_what_a_dead_one_leaves(monkeypatch):
    """Catches a wait for the resources that the idle one holds: five minutes, then an error."""
    said = []

    class Scripted:
        def __init__(self, *_arguments):
            self.events = [("a", None), ("b", None), ("a", 0), ("b", 1)]
            self.num_added = 0

        def add(self):
            self.num_added += 1
            said.append("add")

        def assign(self, actor, position, unit):
            said.append((actor, unit))
            if len(said) > 4:
                self.events.append((actor, position))

        def next_event(self):
            actor, position = self.events.pop(0)
            died = (actor, position) == ("b", 1) and len(said) == 4
            return actor, position, GONE if died else "made"

        def discard(self, actor):
            assert actor == "b"

        def hand_on(self, idle):
            said.append(("idle", *idle))

    monkeypatch.setattr(pool, "_Pool", Scripted)
    done = {}
    compute = ComputeConfig(num_workers=2, use_gpu=False)
    pool.map_units(print, {}, ["first", "last"], compute, on_done=done.__setitem__)
    assert said == ["add", "add", ("a", "first"), ("b", "last"), ("a", "last"), ("idle", "a")]
    assert done == {"first": "made", "last": "made"}
