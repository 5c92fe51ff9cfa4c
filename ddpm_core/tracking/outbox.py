"""Deliveries to a server that may be slow, away or dead: one bounded queue and one thread.

The caller never waits. No point is sent twice: before each batch the thread asks the server for the
last step of every key and skips what is at or below it, also where another process sent it. Points
leave in the order of their steps, so what the server has of a key is always a beginning of its
curve, and sending the whole curve again adds just what is missing. Of a file the queue holds a
function that reads it.
"""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ddpm_core import output
from ddpm_core.tracking.receiver import Measurement, Receiver, Refused, Unreachable

MAX_POINTS = 20_000
"""Deliveries that wait at most; the longest recipe has 8,000 points."""
CLOSE_S = 30.0
"""Seconds that closing takes at most while the server answers, and a second for each MiB."""
SILENCE_S = 5.0
"""Seconds that closing waits for an answer of a server that gives none."""
_BATCH = 1000  # measurements in one request: the limit of MLflow
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_SLOWEST_BYTES_PER_S = 2**20  # of an upload that is still waited for when closing


R = TypeVar("R", bound=Receiver)


@dataclass(frozen=True, slots=True)
class _Point:
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class _Errand(Generic[R]):
    label: str
    action: Callable[[R], None]
    num_bytes: int
    work_s: float


class Outbox(Generic[R]):
    """The queue and its thread.

    When the queue is full, new points are left out, and so is all of the curve behind the first
    one that was: the server keeps a beginning without a gap, and handing in the curve again from
    there fills it up.
    """

    def __init__(
        self,
        connect: Callable[[Callable[[], None]], R],
        *,
        server: str,
        remedy: str,
        silence_s: float = SILENCE_S,
        max_points: int = MAX_POINTS,
    ) -> None:
        """Start the thread.

        Args:
            connect: finds the receiver, in the thread; raises Unreachable. Called with what the
                receiver is to call after each answer of the server.
            server: its name, for what is printed; holds no password.
            remedy: what sends the rest if not everything arrives, for what is printed.
            silence_s: how long closing waits for an answer that does not come.
            max_points: deliveries that wait at most.
        """
        self._connect, self._server, self._remedy = connect, server, remedy
        self._silence_s, self._max_points = silence_s, max_points
        self._receiver: R | None = None
        self._queue: deque[_Point | _Errand[R]] = deque()
        self._gap: int | None = None  # step of the first point of the curve that was left out
        self._lost: list[str] = []  # what was left out because the queue was full
        self._refused: list[str] = []  # named when it was
        self._num_not_finite = 0
        self._num_bytes = 0
        self._allowance_s = 0.0  # of what is being delivered
        self._answer_due = math.inf  # when the server should have answered
        self._trouble = ""  # what the server said last, "" while it answers
        self._wait_s = _FIRST_WAIT_S
        self._closing = self._abandoned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put_curve(self, points: Sequence[Mapping[str, float]]) -> None:
        """Queue points, each with its "step", in the order of their steps.

        Values that are not finite are left out and counted.
        """
        now = time.time_ns() // 1_000_000
        with self._changed:
            for point in points:
                step = int(point["step"])
                if self._gap is not None and step > self._gap:
                    continue
                if len(self._queue) >= self._max_points:
                    self._gap = step
                    continue
                self._gap = None
                self._queue.append(self._point(point, step, now))
            self._changed.notify_all()

    def put_sample(self, values: Mapping[str, float]) -> None:
        """Queue what is measured by the clock; left out when half of the queue is taken."""
        with self._changed:
            if len(self._queue) < self._max_points // 2:
                self._queue.append(self._point(values, None, time.time_ns() // 1_000_000))
                self._changed.notify_all()

    def put_errand(
        self, label: str, action: Callable[[R], None], *, num_bytes: int = 0, work_s: float = 0.0
    ) -> None:
        """Queue something to do with the receiver; it may be done twice, so that must be harmless.

        After an outage it may be done later than what was queued behind it: what it delivers has
        to be looked up when it is done, so that nothing old overwrites something new.

        Args:
            label: what it delivers, for what is printed.
            action: raises Unreachable or Refused.
            num_bytes: what it uploads.
            work_s: seconds that it may compute without the server having to answer.
        """
        with self._changed:
            if len(self._queue) >= self._max_points:
                self._lost.append(label)
                return
            self._num_bytes += num_bytes
            self._queue.append(_Errand(label, action, num_bytes, work_s))
            self._changed.notify_all()

    def close(self, timeout_s: float | None = None) -> bool:
        """Deliver what waits and end the thread; print a line if something is missing.

        A server that is away or silent is given up after `silence_s`.

        Args:
            timeout_s: how long at most while the server answers, and a second more for each MiB;
                None is CLOSE_S.

        Returns:
            Whether everything arrived in time.
        """
        with self._changed:
            self._closing = True
            now = time.monotonic()
            quiet_until = now + self._silence_s
            deadline = now + (CLOSE_S if timeout_s is None else timeout_s)
            deadline += self._num_bytes / _SLOWEST_BYTES_PER_S
            self._changed.notify_all()
        while self._thread.is_alive():
            now = time.monotonic()
            silent = self._trouble or now > self._answer_due
            if now > deadline or (now > quiet_until and silent):
                self._trouble = self._trouble or ("no answer" if silent else "too slow")
                break
            self._thread.join(0.05)
        with self._changed:
            self._abandoned = True
            missing = self._missing()
            self._changed.notify_all()
        if self._num_not_finite:
            say(f"{self._server}: {self._num_not_finite} values were not finite, not logged")
        if missing:
            trouble = f" ({self._trouble})" if self._trouble else ""
            say(f"{self._server} did not get {missing}{trouble}; {self._remedy}")
        return not missing and not self._refused

    def _run(self) -> None:
        while head := self._wait_for_work():
            self._allowance_s = _allowance_s(head[0])
            self._expect_answer()
            try:
                self._deliver(head)
            except Unreachable as error:
                self._back_off(head, str(error))
                continue
            except Refused as error:
                label = head[0].label if isinstance(head[0], _Errand) else "points"
                if label not in self._refused:
                    say(f"{self._server} refused {label}: {error}")
                    self._refused.append(label)
            finally:
                self._answer_due = math.inf
            self._done(head)

    def _expect_answer(self) -> None:
        self._answer_due = time.monotonic() + self._silence_s + self._allowance_s

    def _deliver(self, head: Sequence[_Point | _Errand[R]]) -> None:
        if self._receiver is None:
            self._receiver = self._connect(self._expect_answer)
        if isinstance(head[0], _Errand):
            head[0].action(self._receiver)
            return
        # Each time: a request may have arrived without us hearing of it, and another attempt at
        # the same run may be sending the same.
        last_steps, unsent = dict(self._receiver.last_steps()), []
        if self._abandoned:
            raise Unreachable("closed")
        for point in head:
            for one in point.measurements if isinstance(point, _Point) else ():
                step = self._receiver.step_at(one.timestamp_ms) if one.step is None else one.step
                if step > last_steps.get(one.key, -1):
                    last_steps[one.key] = step
                    unsent.append(replace(one, step=step))
        if unsent:
            self._receiver.send(unsent)

    def _wait_for_work(self) -> list[_Point | _Errand[R]]:
        """Return one errand, or the points of one request; nothing when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            head: list[_Point | _Errand[R]] = []
            if self._abandoned:
                return head
            num_measurements = 0
            for delivery in self._queue:
                if isinstance(delivery, _Errand):
                    return head or [delivery]
                num_measurements += len(delivery.measurements)
                if head and num_measurements > _BATCH:
                    break
                head.append(delivery)
            return head

    def _done(self, head: Sequence[_Point | _Errand[R]]) -> None:
        with self._changed:
            for _ in head:
                delivery = self._queue.popleft()
                if isinstance(delivery, _Errand):
                    self._num_bytes -= delivery.num_bytes
            self._wait_s = _FIRST_WAIT_S
            if self._trouble and not self._abandoned:
                say(f"{self._server} answers again")
            self._trouble = ""

    def _back_off(self, head: Sequence[_Point | _Errand[R]], trouble: str) -> None:
        with self._changed:
            if isinstance(head[0], _Errand):
                # A file that does not get through (its storage may be another server) must not
                # hold up the points behind it.
                self._queue.rotate(-1)
            if not self._trouble:
                say(f"{self._server} does not answer ({trouble}); going on, and trying again")
            self._trouble = trouble
            was_closing = self._closing
            self._changed.wait_for(
                lambda: self._abandoned or self._closing != was_closing, self._wait_s
            )
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
            if self._closing != was_closing:
                self._wait_s = _FIRST_WAIT_S

    def _point(self, values: Mapping[str, float], step: int | None, now: int) -> _Point:
        measured = {key: float(value) for key, value in values.items() if key != "step"}
        finite = {key: value for key, value in measured.items() if math.isfinite(value)}
        self._num_not_finite += len(measured) - len(finite)
        return _Point(tuple(Measurement(key, value, step, now) for key, value in finite.items()))

    def _missing(self) -> str:
        """Return what did not arrive, in words; "" if nothing."""
        steps = [
            one.step
            for delivery in self._queue
            if isinstance(delivery, _Point)
            for one in delivery.measurements[:1]
            if one.step is not None
        ]
        parts = [f"the points of steps {steps[0]} to {steps[-1]}"] if steps else []
        if self._gap is not None:
            parts.append(f"the points from step {self._gap} on")
        parts += [one.label for one in self._queue if isinstance(one, _Errand)]
        if not parts and self._queue:
            parts.append("the last system metrics")
        return ", ".join(parts + self._lost)


def _allowance_s(delivery: "_Point | _Errand[R]") -> float:
    """Return for how much longer than others this one may be without an answer."""
    if isinstance(delivery, _Point):
        return 0.0
    return delivery.work_s + delivery.num_bytes / _SLOWEST_BYTES_PER_S


def say(line: str) -> None:
    """Print a line for people, beside the stage's own output."""
    output.say(line, stream=sys.stderr)
