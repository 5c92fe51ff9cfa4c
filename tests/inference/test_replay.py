"""Recording a graph where there is no GPU: its errors, and when work is recorded."""

from contextlib import contextmanager

import pytest
import torch

from ddpm_core.errors import ConfigError
from ddpm_core.inference.replay import NUM_WARM_UP, Replay, off_the_default_stream, record_graph


def test_work_is_done_at_each_call_recorded_once_and_repeated():
    """Catches a warm-up that is no work, a recording that counts as work or is made anew."""
    done = []

    def record(work):
        done.append("recorded")
        return lambda: done.append("repeated"), "result"

    replay = Replay(lambda: done.append("work"), record)
    for _ in range(NUM_WARM_UP + 2):
        replay()
    assert done == ["work"] * NUM_WARM_UP + ["recorded", "repeated", "repeated"]
    assert replay() == "result"


def test_work_that_is_not_recorded_is_done_each_time():
    """Catches a result of a few calls ago."""
    numbers = iter(range(9))
    replay = Replay(lambda: next(numbers), None)
    assert [replay() for _ in range(6)] == list(range(6))


@pytest.fixture
def capture(monkeypatch):
    """Stand-ins for what torch records with; returns the arguments that they were given."""
    given = {}

    @contextmanager
    def graph(_, **options):
        given.update(options)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: type("Graph", (), {"replay": print}))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "current")
    monkeypatch.setattr(torch.cuda, "default_stream", lambda: "default")
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return given


def test_a_recording_is_of_this_thread_and_its_stream(capture):
    """Catches the mode in which a loader that pins memory spoils it, and another stream than that
    on which the gradient's nodes were made.
    """
    assert record_graph(lambda: 7)[1] == 7
    assert capture == {"stream": "current", "capture_error_mode": "thread_local"}


def test_an_error_of_a_recording_names_the_switch(capture):
    """Catches a traceback of the driver's; a lack of memory has a sentence of its own."""

    def fail(error):
        raise error

    with pytest.raises(ConfigError, match=r"not permitted.*compute\.cuda_graphs=false"):
        record_graph(lambda: fail(RuntimeError("operation not permitted")))
    with pytest.raises(torch.OutOfMemoryError):
        record_graph(lambda: fail(torch.OutOfMemoryError()))


@pytest.mark.parametrize("wanted", [True, False])
def test_a_cpu_has_no_streams(wanted):
    """Catches a switch that fails on a machine without a GPU."""
    with off_the_default_stream(torch.device("cpu"), wanted=wanted):
        pass
