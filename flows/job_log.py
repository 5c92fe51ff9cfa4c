"""Follow a job's log in a thread, line by line, reconnecting when a connection is lost."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator

_RECONNECT_S = 2.0


class JobLog:
    """The lines of a stream that always begins at the start of the log.

    The thread leaves the main thread free to be interrupted: asyncio would swallow the exception
    by which Prefect ends a flow.

    Args:
        connect: opens the stream of text, which ends when the job has ended.
        errors: exceptions that mean a lost connection; reconnects and skips what was delivered.
    """

    def __init__(
        self,
        connect: Callable[[], AsyncGenerator[str, None]],
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._connect, self._errors = connect, errors
        self._chunks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._num_characters = 0
        self._partial = ""
        self._is_over = self._is_complete = False
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="job-log", daemon=True)
        self._thread.start()

    def lines(self, timeout_s: float) -> Iterator[str]:
        """Yield the lines that arrive until `timeout_s` from now, or until the stream is over."""
        deadline = time.monotonic() + timeout_s
        while not self._is_over and (left := deadline - time.monotonic()) > 0:
            try:
                chunk = self._chunks.get(timeout=left)
            except queue.Empty:
                return
            if chunk is None:
                self._is_over = True
                return
            yield from self._whole_lines(chunk)

    def rest(self, whole: str | None = None) -> Iterator[str]:
        """Yield what is left at the end; `whole` is the complete log, if the stream fell short."""
        if whole is not None:
            yield from self._whole_lines(whole[self._num_characters :])
        if self._partial:
            yield self._partial
        self._partial = ""

    @property
    def is_over(self) -> bool:
        """Whether no more will come."""
        return self._is_over

    @property
    def is_complete(self) -> bool:
        """Whether all has come: the stream ended as it does when the job has ended."""
        return self._is_over and self._is_complete

    def close(self) -> None:
        """End the thread."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(timeout=5)

    def _whole_lines(self, chunk: str) -> Iterator[str]:
        self._num_characters += len(chunk)
        *lines, self._partial = (self._partial + chunk).split("\n")
        for line in lines:
            yield line.rstrip("\r")

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._task = self._loop.create_task(self._follow())
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
                self._is_complete = True
        finally:
            self._chunks.put(None)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _follow(self) -> None:
        delivered = 0
        while True:
            position = 0
            try:
                async with contextlib.aclosing(self._connect()) as chunks:
                    async for chunk in chunks:
                        fresh = chunk[max(0, delivered - position) :]
                        position += len(chunk)
                        delivered = max(delivered, position)
                        if fresh:
                            self._chunks.put(fresh)
            except self._errors:
                await asyncio.sleep(_RECONNECT_S)
            else:
                return
