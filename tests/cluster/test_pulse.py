"""A worker that computes is left alone, however long; one that does nothing is given up."""

import threading
import time

import pytest

from ddpm_core.cluster import pulse
from ddpm_core.errors import ConfigError


class Clock:
    def __init__(self):
        self.time, self.shown = 0.0, {}

    def watch(self, limit):
        return pulse.Watch(
            limit,
            now=lambda: self.time,
            shown=self.shown.get,
            forget=lambda name: self.shown.pop(name, None),
        )


def test_who_computes_is_never_stuck():
    """Catches a deadline for units: those of a large network take hours on a small machine."""
    clock = Clock()
    watch = clock.watch(100)
    watch.begin("a")
    for hour in range(1, 50):
        clock.time, clock.shown["a"] = 3600.0 * hour, 2.0 * hour
        assert not watch.is_stuck("a")


def test_who_shows_nothing_new_is_stuck_after_the_limit():
    """Catches a wait for ever for a file system or a device, and an end at the first silence."""
    clock = Clock()
    watch = clock.watch(100)
    clock.shown["a"] = 5.0
    watch.begin("a")
    clock.time = 60
    clock.shown["a"] = 7.0
    assert not watch.is_stuck("a")
    clock.time, clock.shown["a"] = 150, 7.5  # its thread that shows the pulse costs a little
    assert not watch.is_stuck("a")
    clock.time = 161
    assert watch.is_stuck("a")


def test_who_never_showed_anything_is_stuck_too():
    """Catches a worker that was stopped before its first beat."""
    clock = Clock()
    watch = clock.watch(100)
    watch.begin("a")
    clock.time = 101
    assert watch.is_stuck("a")


def test_a_new_unit_counts_from_its_own_beginning():
    """Catches a worker that waited for work, and is taken for stuck as soon as it has some."""
    clock = Clock()
    watch = clock.watch(100)
    watch.begin("a")
    clock.time = 90
    watch.begin("a")
    clock.time = 180
    assert not watch.is_stuck("a")
    clock.shown["a"] = 3.0
    watch.end("a")
    assert clock.shown == {}, "what it has shown is removed from the cluster"


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    """Catches a traceback, and workers that are all stuck at once."""
    monkeypatch.setenv(pulse.LIMIT_VARIABLE, text)
    with pytest.raises(ConfigError, match=r"DDPM_STUCK_AFTER_S=.*number of seconds above 0"):
        pulse.limit_s()


def test_the_limit_is_generous_unless_it_is_set(monkeypatch):
    """Catches a minute, in which a file of a few GB is not fetched."""
    monkeypatch.delenv(pulse.LIMIT_VARIABLE, raising=False)
    assert pulse.limit_s() == 900
    monkeypatch.setenv(pulse.LIMIT_VARIABLE, "30.5")
    assert pulse.limit_s() == 30.5


def test_work_of_a_worker_is_that_of_its_python_threads():
    """Catches an idle Ray, whose own threads and whose beat use seconds in 15 minutes, that looks
    like progress, and work in another thread that looks like none.
    """
    stop, used = threading.Event(), []

    def beat():
        first = pulse._used_s()
        while not stop.is_set():
            pass
        used.append(pulse._used_s() - first)

    spinning = threading.Thread(target=beat)
    before = pulse._used_s()
    spinning.start()
    while pulse._used_s() - before < 2:  # what another thread does is work
        time.sleep(0.3)
    stop.set()
    spinning.join()
    assert used[0] < 1, "what the thread that looks does is none"
