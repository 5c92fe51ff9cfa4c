"""Deliveries to a server that may be slow, away or dead: one bounded queue and one thread.

The caller never waits. No point is sent twice: before each batch the thread asks the server for the
last step of every key and skips what is at or below it, also where another process sent it. Points
leave in the order of their steps, so what the server has of a key is always a beginning of its
curve, and sending the whole curve again adds just what is missing. Of a file the queue holds a
function that reads it.

Closing has no limit but the server's silence: one that goes on answering gets everything, however
slowly, and a line now and then says what is on its way.
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
from ddpm_core.progress import UNSENT, WARNING
from ddpm_core.tracking.receiver import Measurement, Receiver, Refused, Unreachable, Watch

MAX_POINTS = 20_000
"""Deliveries that wait at most; the longest recipe has 8,000 points."""
SILENCE_S = 5.0
"""Seconds that closing waits for an answer of a server that gives none."""
SLOW_S = 60.0
"""Seconds that it waits for another answer of one that gave one: on busy cores a request may take
long, above all where each checks a password."""
_BATCH = 1000  # measurements in one request: the limit of MLflow
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_SAY_EVERY_S = 10.0


R = TypeVar("R", bound=Receiver)


@dataclass(frozen=True, slots=True)
class _Point:
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class _Errand(Generic[R]):
    label: str
    action: Callable[[R], None]


class Outbox(Generic[R]):
    """The queue and its thread.

    When the queue is full, new points are left out, and so is all of the curve behind the first
    one that was: the server keeps a beginning without a gap, and handing in the curve again from
    there fills it up.
    """

    def __init__(
        self,
        connect: Callable[[Watch], R],
        *,
        server: str,
        remedy: str,
        silence_s: float = SILENCE_S,
        max_points: int = MAX_POINTS,
    ) -> None:
        """Start the thread.

        Args:
            connect: finds the receiver, in the thread; raises Unreachable. Called with the watch
                to which the receiver reports.
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
        self._answer_due = math.inf  # when the server should have answered
        self._heard_at = -math.inf  # when it last did
        self._failing_since = math.inf  # when a delivery failed, and none arrived since
        self._is_waiting = False  # to try again
        self._sending = ""  # what is being delivered
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

    def put_errand(self, label: str, action: Callable[[R], None]) -> None:
        """Queue something to do with the receiver; it may be done twice, so that must be harmless.

        After an outage it may be done later than what was queued behind it: what it delivers has
        to be looked up when it is done, so that nothing old overwrites something new.

        Args:
            label: what it delivers, for what is printed.
            action: raises Unreachable or Refused.
        """
        with self._changed:
            if len(self._queue) >= self._max_points:
                self._lost.append(label)
                return
            self._queue.append(_Errand(label, action))
            self._changed.notify_all()

    def close(self, timeout_s: float | None = None) -> bool:
        """Deliver what waits and end the thread; print a line if something is missing.

        A server that is away or silent is given up after `silence_s`; one that answered shortly
        before, after SLOW_S.

        Args:
            timeout_s: how long at most, also while the server answers; None: as long as it does.

        Returns:
            Whether everything arrived.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        try:
            self._wait_for_end(math.inf if timeout_s is None else timeout_s)
        finally:  # also when a user no longer wants to wait
            missing = self._abandon()
        return not missing and not self._refused

    def heard(self) -> None:
        """Note an answer of the server; see `Watch`."""
        self._heard_at = time.monotonic()
        self.allow(0.0)

    def allow(self, more_s: float) -> None:
        """Allow the next answer so much longer than others; see `Watch`."""
        self._answer_due = time.monotonic() + self._silence_s + more_s

    def _wait_for_end(self, timeout_s: float) -> None:
        begin = said_at = time.monotonic()
        while self._thread.is_alive():
            now = time.monotonic()
            quiet_until = max(begin + self._silence_s, self._heard_at + SLOW_S)
            # A server that answers may fail again and again too.
            quiet_until = min(quiet_until, max(begin, self._failing_since) + SLOW_S)
            is_silent = self._is_waiting or now > self._answer_due
            if now > begin + timeout_s or (now > quiet_until and is_silent):
                self._trouble = self._trouble or ("no answer" if is_silent else "too slow")
                return
            if self._sending and now > said_at + _SAY_EVERY_S:
                said_at = now
                say(f"{self._server}: sending {self._sending}, {now - begin:.0f} s so far")
            self._thread.join(0.05)

    def _abandon(self) -> str:
        """Give up what waits; return, and say, what that is, and how to send it."""
        with self._changed:
            self._abandoned = True
            missing = self._missing()
            self._changed.notify_all()
        if self._num_not_finite:
            say(f"{self._server}: {self._num_not_finite} values were not finite, not logged")
        if missing:
            trouble = f" ({self._trouble})" if self._trouble else ""
            say(f"{WARNING}{self._server}{UNSENT}{missing}{trouble}; {self._remedy}")
        return missing

    def _run(self) -> None:
        while head := self._wait_for_work():
            self._sending = _label(head[0])
            self.allow(0.0)
            try:
                self._deliver(head)
            except Unreachable as error:
                self._back_off(head, str(error))
                continue
            except Refused as error:
                if self._sending not in self._refused:
                    say(f"{WARNING}{self._server}{UNSENT}{self._sending}: it refused, {error}")
                    self._refused.append(self._sending)
            finally:
                self._answer_due = math.inf
            self._done(head)

    def _deliver(self, head: Sequence[_Point | _Errand[R]]) -> None:
        if self._receiver is None:
            self._receiver = self._connect(self)
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
                self._queue.popleft()
            self._wait_s, self._failing_since = _FIRST_WAIT_S, math.inf
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
            self._trouble, self._is_waiting = trouble, True
            self._failing_since = min(self._failing_since, time.monotonic())
            was_closing = self._closing
            self._changed.wait_for(
                lambda: self._abandoned or self._closing != was_closing, self._wait_s
            )
            self._is_waiting = False
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


def _label(delivery: "_Point | _Errand[R]") -> str:
    return delivery.label if isinstance(delivery, _Errand) else "points"


def say(line: str) -> None:
    """Print a line for people, beside the stage's own output."""
    output.say(line, stream=sys.stderr)
