"""How much a reader does with foreign bytes, counted, so that no clock is needed to see a loop."""

import sys
from contextlib import contextmanager
from pathlib import Path

import ddpm_core

_ROOMS = ("images", "shards", "sources", "loading", "sharding")
_OURS = tuple(str(Path(ddpm_core.__file__).parent / room) for room in _ROOMS)


class EndlessError(BaseException):
    """More lines were executed, or bytes copied, than a pass over the content takes."""


class Counted(bytes):
    """Bytes that count what is copied out of them, also out of the copies."""

    copied = 0

    def __getitem__(self, where):
        found = super().__getitem__(where)
        if isinstance(where, slice):
            Counted.copied += len(found)
            return Counted(found)
        return found

    def removeprefix(self, prefix):
        return self[len(prefix) :] if self.startswith(prefix) else self


@contextmanager
def bounded_work(*, lines, copied=None):
    """Raise EndlessError once more than `lines` of the rooms that read foreign bytes were executed.

    Then, or at the end, also for more than `copied` bytes out of `Counted` ones.
    """
    done = 0
    first = Counted.copied

    def check():
        if done > lines:
            raise EndlessError(f"{done} lines executed; a pass takes at most {lines}")
        if copied is not None and Counted.copied - first > copied:
            raise EndlessError(f"{Counted.copied - first} bytes copied; a pass takes {copied}")

    def trace(frame, event, _argument):
        nonlocal done
        if event == "call":
            return trace if frame.f_code.co_filename.startswith(_OURS) else None
        if event == "line":
            done += 1
            check()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    check()
