"""Each line of a log once, in order, whatever happens to the connection."""

import asyncio
import itertools
import threading

import pytest

from flows import job_log
from flows.job_log import JobLog

TEXT = "one\ntwo\r\nthree three\n\nfive without end"
LINES = ["one", "two", "three three", "", "five without end"]


class LostError(Exception):
    pass


def stream(cuts, *, lost_after=None):
    """Return a stream of TEXT, cut at `cuts`; the first `lost_after` connections break midway."""
    connections = 0

    async def connect():
        nonlocal connections
        connections += 1
        edges = [0, *cuts, len(TEXT)]
        for start, stop in itertools.pairwise(edges):
            yield TEXT[start:stop]
            await asyncio.sleep(0)
            if lost_after is not None and connections <= lost_after and stop >= 9:
                raise LostError

    return connect


def read(connect):
    log = JobLog(connect, (LostError,))
    try:
        lines = []
        while not log.is_over:
            lines += log.lines(timeout_s=1)
        return lines + list(log.rest())
    finally:
        log.close()


def test_lines_do_not_depend_on_where_chunks_are_cut():
    """Catches: half lines, a carriage return in the log, a lost last line."""
    for cuts in ([], [1], [3], [4], [5, 9], list(range(1, len(TEXT)))):
        assert read(stream(cuts)) == LINES


def test_a_lost_connection_repeats_and_loses_nothing(monkeypatch):
    """Catches: a log that begins anew, or has a hole, after each reconnection."""
    monkeypatch.setattr(job_log, "_RECONNECT_S", 0.0)
    for cuts in ([2, 9, 12], [5, 11], list(range(1, len(TEXT)))):
        assert read(stream(cuts, lost_after=2)) == LINES


def test_waiting_for_a_silent_log_ends_in_time():
    """Catches: a flow that cannot look after its job while the job says nothing."""

    async def silent():
        yield "one\n"
        await asyncio.sleep(60)
        yield "never"

    log = JobLog(silent, (LostError,))
    try:
        assert list(log.lines(timeout_s=0.3)) == ["one"]
        assert not log.is_over
    finally:
        log.close()
    assert not [t for t in threading.enumerate() if t.name == "job-log" and t.is_alive()]


def test_the_rest_comes_from_the_whole_log_where_the_stream_fell_short():
    """Catches: the error message at the end of a log missing, since the websocket closed early."""

    async def short():
        yield TEXT[:9]

    log = JobLog(short, (LostError,))
    lines = list(log.lines(timeout_s=2))
    assert lines + list(log.rest(TEXT)) == LINES
    log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_stream_that_breaks_otherwise_is_over_but_not_complete():
    """Catches: a log taken for whole since its thread is gone."""

    async def broken():
        yield TEXT[:9]
        raise KeyError("a fault of the client's")

    for connect, complete in ((broken, False), (stream([4]), True)):
        log = JobLog(connect, (LostError,))
        list(log.lines(timeout_s=2))
        assert (log.is_over, log.is_complete) == (True, complete)
        log.close()
