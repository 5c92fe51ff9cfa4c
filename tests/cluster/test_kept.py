"""Who ends the actors that are kept between pools: whatever needs what they hold, and the end."""

from types import SimpleNamespace

import pytest
import ray

from ddpm_core.cluster import connection, group, kept, pool, pulse
from ddpm_core.cluster.kept import Kind, Named
from ddpm_core.config import ComputeConfig

ONE, WIDE, CARD = Kind(1, 0), Kind(2, 0), Kind(1, 1)


@pytest.fixture
def ended(monkeypatch):
    """Record which actors and pulses are ended, and in what order with `ended` itself."""
    ended = []
    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(kept, "_connection", lambda: ("127.0.0.1:1", "01000000"))
    monkeypatch.setattr(ray, "kill", ended.append)
    monkeypatch.setattr(pulse, "forget", ended.append)
    return ended


def test_only_an_actor_that_holds_the_same_is_taken_and_once(ended):
    """Catches an actor of one core that is given the work of two, and one in two pools at once."""
    kept.keep(ONE, Named("a", "pulse of a"))
    assert kept.take(WIDE) is None
    assert kept.take(CARD) is None
    assert kept.take(ONE) == Named("a", "pulse of a")
    assert kept.take(ONE) is None
    assert not ended


@pytest.mark.parametrize("act", [lambda: kept.take(ONE), kept.release])
def test_what_another_connection_left_is_dropped(ended, monkeypatch, act):
    """Catches a pool that calls an actor of a cluster which was left by `ray.shutdown`."""
    kept.keep(ONE, Named("a", "pulse of a"))
    monkeypatch.setattr(kept, "_connection", lambda: ("127.0.0.1:2", "01000000"))
    assert act() is None
    assert not kept._kept
    assert not ended, "its name is another's here"


def test_a_pool_of_another_kind_ends_those_that_are_kept(ended, monkeypatch):
    """Catches a pool that waits five minutes for cores that its own process holds."""
    monkeypatch.setattr(pool, "uses_gpu", lambda _compute: False)
    kept.keep(ONE, Named("a", "pulse of a"))
    kept.keep(WIDE, Named("b", "pulse of b"))
    pool._Pool(print, {}, ComputeConfig(cpus_per_worker=2))
    assert ended == ["pulse of a", "a"]
    assert kept.take(WIDE) == Named("b", "pulse of b")


def test_a_group_begins_with_nothing_kept(ended, monkeypatch):
    """Catches a training that waits for cores that the pools before it hold."""
    kept.keep(ONE, Named("a", "pulse of a"))
    monkeypatch.setattr(group, "_trainer", lambda *_: ended.append("group"))
    monkeypatch.setattr(group, "_fit", lambda *_: None)
    group.train_group(print, {}, ComputeConfig(), name="after")
    assert ended == ["pulse of a", "a", "group"]


def test_the_end_of_a_connection_ends_them(ended, monkeypatch):
    """Catches an actor of one cluster that is taken in the next one."""
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("left"))
    kept.keep(ONE, Named("a", "pulse of a"))
    connection.Connection(joined=False).close()
    assert not ended, "a stage within another has not joined"
    connection.Connection(joined=True).close()
    assert ended == ["pulse of a", "a", "left"]
    assert kept.take(ONE) is None


class Idle:
    """An actor that has nothing to do."""

    forget = SimpleNamespace(remote=lambda: "forgotten")


@pytest.mark.parametrize(
    ("changes", "is_kept"), [({}, True), ({"compile": True}, False), ({"cuda_graphs": True}, False)]
)
def test_what_is_kept_has_answered_and_compiled_nothing(ended, monkeypatch, changes, is_kept):
    """Catches compiled code and recordings of one stage after the other in one process, and an
    actor that is still busy kept for the next pool, which would wait for it.
    """
    monkeypatch.setattr(pool, "uses_gpu", lambda _compute: False)
    monkeypatch.setattr(ray, "get", lambda _answer, timeout: None)
    made, idle, busy = pool._Pool(print, {}, ComputeConfig(**changes)), Idle(), Idle()
    made._watch = SimpleNamespace(end=lambda _name: None)
    made._names = {busy: "pulse of busy", idle: "pulse of idle"}
    made.hand_on([idle])
    assert ended == ([busy] if is_kept else [busy, idle])
    assert kept.take(made._kind) == (Named(idle, "pulse of idle") if is_kept else None)
