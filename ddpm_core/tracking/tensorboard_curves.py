"""Curves as TensorBoard's event files. The only file that imports TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ddpm_core.tracking.receiver import Measurement, Unreachable


class TensorBoardCurves:
    """The receiver of a folder of event files; what they hold already is known when it begins."""

    def __init__(self, folder: Path) -> None:
        """Read what is there, and begin a file of our own.

        Raises:
            Unreachable: the folder cannot be used.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._steps = _last_steps(str(folder))
            self._writer = EventFileWriter(str(folder))
        except OSError as error:
            raise Unreachable(f"{folder}: {error.strerror or error}") from error

    def last_steps(self) -> dict[str, int]:
        """Return the highest step of each key."""
        return self._steps

    def step_at(self, timestamp_ms: int) -> int:
        """Return seconds; nothing measured by the clock is sent here."""
        return timestamp_ms // 1000

    def send(self, measurements: Sequence[Measurement]) -> None:
        """Append, and flush: a training that is killed keeps what it sent.

        Raises:
            Unreachable: the disk does not take it.
        """
        try:
            for one in measurements:
                value = Summary.Value(tag=one.key, simple_value=one.value)
                event = Event(
                    wall_time=one.timestamp_ms / 1000,
                    step=one.step,
                    summary=Summary(value=[value]),
                )
                self._writer.add_event(event)
                self._steps[one.key] = one.step or 0
            self._writer.flush()
        except OSError as error:
            raise Unreachable(error.strerror or str(error)) from error


def _last_steps(folder: str) -> dict[str, int]:
    found = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    return {tag: max(one.step for one in found.Scalars(tag)) for tag in found.Tags()["scalars"]}
