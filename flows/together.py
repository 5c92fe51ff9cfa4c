"""The stages of a flow on a Ray of its own: one job runs them, as long as none fails.

A job for each would pay every time for what is the same. On a cluster each stage stays a job of its
own: a flow that was lost attaches to it, and what a stage was can be seen there.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from ddpm_core.progress import BEGINS, ENDS


@dataclass
class Together:
    """What is known of that job. The Ray ends with the flow's process, and so may this."""

    stages: Sequence[str]
    """of the flow"""
    job: str | None = None
    """id of the newest job; None: none was submitted"""
    covered: tuple[str, ...] = ()
    """stages that it runs"""
    followed: set[str] = field(default_factory=set)
    """stages whose lines were read from it, to their end or not"""

    def begin(self, job: str, stages: Sequence[str]) -> None:
        """Keep that the job runs these stages."""
        self.job, self.covered, self.followed = job, tuple(stages), set()

    def is_awaited(self, stage: str) -> bool:
        """Return whether the job has run the stage, or will, and its lines were not read yet."""
        return stage in self.covered and stage not in self.followed

    def after(self, stage: str) -> Sequence[str]:
        """Return the stages that come after this one."""
        return self.stages[self.stages.index(stage) + 1 :] if stage in self.stages else ()


class StageEnded(Exception):  # noqa: N818 - no error
    """The lines of a stage are over; its job goes on to the next one."""


def lines_of(
    stage: str, on_line: Callable[[str], None], *, is_first: bool
) -> Callable[[str], None]:
    """Return what takes the lines of a job and hands on those of one stage.

    Args:
        stage: which.
        on_line: called with each of them.
        is_first: whether it is the job's first, or only one: its lines are also those before any
            mark, by which an interpreter says that it cannot start.

    Raises:
        StageEnded: by what is returned, at the line that says so.
    """
    current = stage if is_first else ""

    def take(line: str) -> None:
        nonlocal current
        if line.startswith(BEGINS):
            current = line.removeprefix(BEGINS)
        elif line == f"{ENDS}{stage}":
            raise StageEnded
        elif current == stage and not line.startswith(ENDS):
            on_line(line)

    return take


_current: ContextVar[Together | None] = ContextVar("_current", default=None)


@contextlib.contextmanager
def one_job(stages: Sequence[str]) -> Iterator[None]:
    """Let the stages that are run within the block share a job, where the Ray is the flow's own."""
    token = _current.set(Together(stages))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Together | None:
    """Return what the stage that is run now belongs to; None: it is run alone."""
    return _current.get()
