"""What an outbox delivers, to whom, and the two ways in which that may fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Unreachable(Exception):  # noqa: N818 - a state of the server, not an error of ours
    """No answer, or not in time; the same delivery may succeed later."""


class Refused(Exception):  # noqa: N818
    """The server answered no; the same delivery would be refused again."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value of a curve; step None is for what is measured by the clock."""

    key: str
    value: float
    step: int | None
    timestamp_ms: int


class Watch(Protocol):
    """What a receiver reports of its server: so a slow one does not count as one that is away."""

    def heard(self) -> None:
        """Note an answer; the next one is due as soon as any."""

    def allow(self, more_s: float) -> None:
        """Allow the next answer so much longer: for an upload, or for work before the request."""


class Receiver(Protocol):
    """The server's side of one run; each method raises Unreachable or Refused, in bounded time."""

    def last_steps(self) -> dict[str, int]:
        """Return the highest step the server has of each key."""

    def step_at(self, timestamp_ms: int) -> int:
        """Return the step of what is measured by the clock; grows with the time."""

    def send(self, measurements: Sequence[Measurement]) -> None:
        """Deliver at most 1000 measurements, all of them with a step."""
