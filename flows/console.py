"""What a person in front of a terminal sees: one line per stage that counts up in place."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from ddpm_core import output
from ddpm_core.progress import UNSENT, Progress

_BAR = 20
_PLAIN_EVERY_S = 15.0
_LIVE_EVERY_S = 0.1
_SPEED_OVER_S = 30.0


class Console:
    """Shows progress in place on a terminal, and as a line now and then elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_live = not self._stream.closed and self._stream.isatty()
        self._shown_at = float("-inf")
        self._what = ("", "")
        self._seen: deque[tuple[float, int]] = deque()
        self._line = ""
        self.unsent: list[str] = []
        """warnings of what did not reach a server, to be said again at the end"""

    def warn(self, line: str) -> None:
        """Show a warning of a stage."""
        self.say(line)
        if UNSENT in line:
            self.unsent.append(line)

    def say(self, text: str) -> None:
        """Show a line that stays."""
        if self._is_live and self._line:
            output.say("", stream=self._stream)
        self._line = ""
        output.say(text, stream=self._stream)

    def progress(self, progress: Progress) -> None:
        """Show how far a stage is; not more often than can be read."""
        now = time.monotonic()
        self._remember(progress, now)
        every_s = _LIVE_EVERY_S if self._is_live else _PLAIN_EVERY_S
        if now - self._shown_at < every_s and progress.done < progress.total:
            return
        line = self._text(progress, now)
        if line == self._line:
            return
        self._shown_at, self._line = now, line
        if self._is_live:
            width = shutil.get_terminal_size().columns - 1
            # Erase what a longer line left behind.
            output.say(f"\r\x1b[2K{line[:width]}", end="", stream=self._stream)
        else:
            output.say(line, stream=self._stream)

    def _remember(self, progress: Progress, now: float) -> None:
        """Keep what was done in the last half minute: attached to a job, its past comes at once."""
        if self._what != (progress.stage, progress.unit):
            self._what = (progress.stage, progress.unit)
            self._seen.clear()
            self._shown_at = float("-inf")
        self._seen.append((now, progress.done))
        while self._seen[0][0] < now - _SPEED_OVER_S and len(self._seen) > 2:
            self._seen.popleft()

    def _text(self, progress: Progress, now: float) -> str:
        share = min(progress.done / progress.total, 1.0) if progress.total else 1.0
        bar = f"[{'#' * round(share * _BAR):<{_BAR}}]" if self._is_live else ""
        count = f"{progress.done}/{progress.total} {progress.unit}"
        words = (f"{progress.stage:<9}", bar, count, progress.note, self._left(progress, now))
        return "  ".join(word for word in words if word)

    def _left(self, progress: Progress, now: float) -> str:
        since, first = self._seen[0]
        if "eta" in progress.note:
            return ""  # the stage knows better
        if progress.done <= first or progress.done >= progress.total or now - since < 2:
            return ""
        left_s = (progress.total - progress.done) * (now - since) / (progress.done - first)
        return f"{duration(left_s)} left"


def duration(seconds: float) -> str:
    """Return `seconds` for people: 42 s, 3 min, 2 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


_shown: ContextVar[Console | None] = ContextVar("_shown", default=None)


@contextmanager
def show_on(console: Console) -> Iterator[None]:
    """Within the block, flows show their progress on `console`."""
    token = _shown.set(console)
    try:
        yield
    finally:
        _shown.reset(token)


def shown() -> Console | None:
    """Return the console of the command line that runs the flow; None: there is none."""
    return _shown.get()
