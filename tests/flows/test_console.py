"""Progress as a person reads it."""

import io
from pathlib import Path

import pytest

from ddpm_core.progress import UNSENT, Progress
from flows import console
from flows.console import Console, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_terminal_line_is_rewritten_in_place_and_cut_to_the_width(clock, monkeypatch):
    """Catches: a screen full of lines, remains of a longer line, a line that wraps and scrolls."""
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    show = Console(stream)
    show.progress(Progress("train", 0, 100, "steps", "x" * 200))
    clock[0] += 1
    show.progress(Progress("train", 50, 100, "steps"))
    show.say("done")
    shown = stream.getvalue()
    first, second, last = shown.split("\r")[1], shown.split("\r")[2], shown.splitlines()[-1]
    assert len(first.removeprefix("\x1b[2K")) == 59
    assert "[##########          ]  50/100 steps" in second
    assert last == "done"


def test_plain_output_is_throttled_but_keeps_first_and_last(clock):
    """Catches: thousands of lines in a log file, or an end that is not shown."""
    stream = io.StringIO()
    show = Console(stream)
    for step in range(0, 1001, 10):
        clock[0] += 0.2
        show.progress(Progress("train", step, 1000, "steps"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "0/1000" in lines[0]
    assert "1000/1000" in lines[-1]
    assert "\r" not in stream.getvalue()


def test_stream_that_takes_nothing_ends_nothing(clock):
    """Catches: a training that ends with BrokenPipeError after `| head -1`, or at "±"."""
    full = Path("/dev/full")
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii")]
    streams += [full.open("w")] if full.exists() else []
    for stream in streams:
        show = Console(stream)
        show.say("bits/dim 3.25 ± 0.50")
        show.progress(Progress("train", 1, 1, "steps", "±"))
        show.say("done")
    assert b"3.25 \\xb1 0.50" in streams[0].buffer.getvalue()
    for stream in streams:
        stream.close()
    Console(streams[0]).say("nobody reads this")


def test_time_left_is_judged_from_the_last_half_minute(clock):
    """Catches: after attaching, hours of work foretold as seconds since its past came at once."""
    stream = io.StringIO()
    show = Console(stream)
    for step in range(0, 5001, 100):  # the replayed past
        show.progress(Progress("sample", step, 10_000, "images"))
    for step in range(5001, 5101):  # one image a second from here
        clock[0] += 1
        show.progress(Progress("sample", step, 10_000, "images"))
    assert stream.getvalue().splitlines()[-1].endswith("1 h 22 min left")


def test_the_stage_s_own_estimate_is_not_doubled(clock):
    """Catches: two different times left in one line."""
    stream = io.StringIO()
    show = Console(stream)
    show.progress(Progress("train", 1, 100, "steps", "eta 9s"))
    clock[0] += 20
    show.progress(Progress("train", 50, 100, "steps", "eta 9s"))
    assert "left" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_duration(seconds, text):
    """Catches: 60 min, and 1 h 5 min that reads as 1 h 50."""
    assert duration(seconds) == text


def test_what_did_not_reach_a_server_is_kept_for_the_end():
    """Catches: a model that is not in the registry, as a line said that has scrolled by."""
    stream = io.StringIO()
    show = Console(stream)
    lines = [f"warning: MLflow{UNSENT}the model; `again` sends it", "warning: the chain has no end"]
    for line in lines:
        show.warn(line)
    assert stream.getvalue().splitlines() == lines
    assert show.unsent == lines[:1]
