"""Processes that decode images of shards, as a loader sees them: `decode_child` is their side."""

import contextlib
import errno
import mmap
import os
import queue
import select
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import psutil
from numpy.typing import NDArray

import ddpm_core
from ddpm_core.errors import ClusterError
from ddpm_core.images.decode import decode_exact
from ddpm_core.images.shaped import NUM_NUMBERS, Cut, Unusable, shape_files
from ddpm_core.loading.decode_child import HEADER, MAX_PACKET_BYTES
from ddpm_core.loading.shard_files import Places

# Two channels for each process: while a thread empties the one, the process fills the other.
_NUM_CHANNELS = 2
_MAX_TASK_IMAGES = 128  # so many shards at most, and Linux passes 253 descriptors at a time
_MAX_KNOWN = 256  # shards open in a process for each channel: of 1024 files that it may have
_TASK_BYTES = 8 * 2**20  # pixels of a task, unless one image has more
STUCK_AFTER_S = 300.0
"""seconds without any computing after which a process that decodes is given up"""
_LOOK_EVERY_S = 10.0
_PROGRESS_S = 0.1
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    # Freed memory is kept for the next image, not given back to the kernel: that saves a tenth of
    # the time of one of 256x256 pixels.
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**24),
}


@final
class DecodePool:
    """Processes that decode; any number of threads may ask at a time.

    Args:
        num_processes: at least 1.
        shape: (height, width, channels) of every image.
        cut: how files of any size become of that one; None: all are of it.
        unusable: counts those of which nothing can be made; None: among what is read here.
        num_known: shards that a process keeps open for each of its two channels; as many at least
            as a call of `decode` is given.
    """

    def __init__(
        self,
        num_processes: int,
        shape: tuple[int, int, int],
        cut: Cut | None = None,
        unusable: Unusable | None = None,
        num_known: int = _MAX_KNOWN,
    ) -> None:
        self._shape, self._cut, self._unusable = shape, cut, unusable or Unusable()
        image_bytes = shape[0] * shape[1] * shape[2]
        self._task_images = min(_MAX_TASK_IMAGES, max(1, _TASK_BYTES // image_bytes))
        self._idle: queue.SimpleQueue[_Channel] = queue.SimpleQueue()
        self._children = [
            _Child(self._task_images * image_bytes, num_known) for _ in range(num_processes)
        ]
        for channel in range(_NUM_CHANNELS):
            for child in self._children:
                self._idle.put(child.channels[channel])

    def decode(
        self, places: Places, out: NDArray[np.uint8], *, origin: Callable[[int], str]
    ) -> None:
        """Fill `out` (n, height, width, channels) with the images at n places.

        Args:
            places: n of them.
            out: any memory of this shape.
            origin: what to call an image in an error, by its number here.

        Raises:
            DataError: if one is damaged or of another shape; with `cut`, if too many are.
            ClusterError: if a process has ended, e.g. killed for its memory.
        """
        busy: list[_Task] = []
        try:
            for start in range(0, len(places), self._task_images):
                own = places.part(start, start + self._task_images)
                channel = self._free_channel(busy)
                try:
                    channel.ask(own, self._shape, self._cut)
                except BaseException:
                    self._idle.put(channel)
                    raise
                part = out[start : start + len(own)]
                busy.append(_Task(channel, own, part, start, origin))
            while busy:
                self._finish(busy.pop(0))
        finally:
            for task in busy:
                task.channel.abandon()
                self._idle.put(task.channel)

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.close()

    def _free_channel(self, busy: "list[_Task]") -> "_Channel":
        """Return a channel. A thread must empty its own channels before it waits for another."""
        while True:
            try:
                return self._idle.get_nowait()
            except queue.Empty:
                if not busy:
                    return self._idle.get()
                self._finish(busy.pop(0))

    def _finish(self, task: "_Task") -> None:
        try:
            decoded = task.channel.take(task.out)
        except BaseException:
            task.channel.close()  # its answer may still come, and belongs to nothing
            raise
        finally:
            self._idle.put(task.channel)
        if self._cut is not None:
            self._replace(task, np.flatnonzero(~decoded).tolist(), self._cut)
            return
        for number in np.flatnonzero(~decoded).tolist():
            content = task.places.read(number)
            name = task.origin(task.start + number)
            task.out[number] = decode_exact(content, self._shape, origin=name)

    def _replace(self, task: "_Task", numbers: list[int], cut: Cut) -> None:
        """Fill in what is put in the place of images of which nothing can be made."""
        # Read again: the process may have had no memory for them.
        files = [task.places.read(number) for number in numbers]
        pixels = np.empty((len(files), *self._shape), np.uint8)
        found = shape_files(files, pixels, cut)
        task.out[numbers] = pixels
        problems = {numbers[at]: reason for at, reason in found.items()}
        self._unusable.note(
            len(task.places), problems, lambda number: task.origin(task.start + number)
        )


@dataclass(frozen=True)
class _Task:
    """Images requested on a channel."""

    channel: "_Channel"
    places: Places
    out: NDArray[np.uint8]
    start: int
    """number of the first among those requested"""
    origin: Callable[[int], str]


@final
class _Child:
    """A process, and our ends of its channels."""

    def __init__(self, num_bytes: int, num_known: int = _MAX_KNOWN) -> None:
        pairs = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(_NUM_CHANNELS)
        ]
        # Not in /dev/shm, which containers often make tiny.
        memory = os.memfd_create("ddpm-pixels")
        try:
            os.ftruncate(memory, num_bytes * _NUM_CHANNELS)
            theirs = [other.fileno() for _, other in pairs]
            arguments = [str(number) for number in (memory, num_bytes, *theirs)]
            package = Path(ddpm_core.__file__).parent.parent
            paths = [str(package), os.environ.get("PYTHONPATH", "")]
            self.process = subprocess.Popen(  # noqa: S603 - this Python, a module of ours, numbers
                [sys.executable, "-m", "ddpm_core.loading.decode_child", *arguments],
                pass_fds=(memory, *theirs),
                stdin=subprocess.DEVNULL,
                env={
                    **os.environ,
                    **_ENVIRONMENT,
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                },
            )
            self._used_s = 0.0
            mapped = mmap.mmap(memory, num_bytes * _NUM_CHANNELS)
        finally:
            os.close(memory)
            for _, other in pairs:
                other.close()
        parts = [
            np.frombuffer(mapped, np.uint8, num_bytes, number * num_bytes)
            for number in range(_NUM_CHANNELS)
        ]
        self.channels = [
            _Channel(self, own, part, num_known)
            for (own, _), part in zip(pairs, parts, strict=True)
        ]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it is in the middle of a large image
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # not from a dead file system
                self.process.wait(timeout=5)

    def used_s(self) -> float:
        """Return how much CPU time it has used; the last known value if it has ended."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.process.pid).cpu_times()
            self._used_s = float(times.user + times.system)
        return self._used_s

    def lost(self) -> ClusterError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        return ClusterError(
            f"a process that decodes images has ended with code {self.process.returncode}; a "
            "negative one is the signal, and -9 mostly a lack of memory. Run again"
        )


def _is_ready(connection: socket.socket, timeout_s: float) -> bool:
    if connection.fileno() < 0:
        return True  # closed: reading from it raises the error
    poll = select.poll()  # not select(), which cannot take descriptors above 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


@final
class _Channel:
    """One conversation with a process: one request at a time, and its answer."""

    def __init__(
        self,
        child: _Child,
        connection: socket.socket,
        part: NDArray[np.uint8],
        num_known: int,
    ) -> None:
        self._child, self._connection, self._part = weakref.ref(child), connection, part
        self._num_known = num_known
        # Names of the shards that the process has open; the one used last stands last.
        self._known: dict[int, None] = {}

    def ask(self, places: Places, shape: tuple[int, int, int], cut: Cut | None = None) -> None:
        """Send a request for images of this shape."""
        files = {file.name: file for file in places.files}
        names = np.array([file.name for file in places.files], np.int64)[places.which]
        used = np.unique(names).tolist()
        new = [name for name in used if name not in self._known]
        for name in used:
            self._known.pop(name, None)
            self._known[name] = None
        old = list(self._known)[: max(0, len(self._known) - self._num_known)]
        for name in old:
            del self._known[name]
        words = [0] * (1 + NUM_NUMBERS) if cut is None else [1, *cut.numbers()]
        header = [*shape, len(new), len(old), len(places), *words]
        rows = np.empty((len(places), 3), np.int64)
        rows[:, 0], rows[:, 1], rows[:, 2] = names, places.offsets, places.sizes
        packet = np.array([*header, *new, *old], np.int64).tobytes() + rows.tobytes()
        assert len(packet) <= MAX_PACKET_BYTES and len(header) == HEADER  # noqa: PT018, S101
        descriptors = [files[name].descriptor for name in new]
        while True:
            try:
                socket.send_fds(self._connection, [packet], descriptors)
            except OSError as error:
                child = self._child()
                waits = error.errno == errno.ETOOMANYREFS and child and child.process.poll() is None
                if not waits:
                    raise self._lost() from None
                # Of one user only so many descriptors may be under way: until others are received.
                time.sleep(0.01)
            else:
                return

    def take(self, out: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Fill `out`; say which of its images are there."""
        self._wait()
        try:
            answer = self._connection.recv(len(out))
        except OSError:
            answer = b""
        if len(answer) != len(out):
            raise self._lost()
        out[:] = self._part[: out.size].reshape(out.shape)
        return np.frombuffer(answer, np.bool_)

    def _wait(self) -> None:
        """Wait for an answer, as long as the process gets on.

        Raises:
            ClusterError: it has computed nothing for `STUCK_AFTER_S`, and was killed.
        """
        child, used, since = self._child(), -1.0, time.monotonic()
        while child is not None and not _is_ready(self._connection, _LOOK_EVERY_S):
            now_used = child.used_s()
            if abs(now_used - used) >= _PROGRESS_S:
                used, since = now_used, time.monotonic()
            elif time.monotonic() - since > STUCK_AFTER_S:
                child.process.kill()
                raise ClusterError(
                    f"a process that decodes images computed nothing for {STUCK_AFTER_S:g} s: "
                    "does the file system of the shards answer? Run again"
                )

    def abandon(self) -> None:
        """Wait for an answer and discard it."""
        with contextlib.suppress(OSError, ClusterError):
            self._wait()
            self._connection.recv(MAX_PACKET_BYTES)

    def close(self) -> None:
        self._connection.close()

    def _lost(self) -> ClusterError:
        child = self._child()
        return child.lost() if child else ClusterError("the loader was closed while it was used")
