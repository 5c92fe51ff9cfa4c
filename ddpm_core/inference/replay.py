"""Work that a GPU does at one launch: recorded as a CUDA graph, and replayed. Nothing else of ours
knows graphs.

A graph repeats what was launched while it was recorded: the same kernels, with the same numbers
from Python, on the same addresses. What differs from call to call must lie in the values of tensors
that stay where they are, or in torch's generator, whose state a graph reads before each replay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

from ddpm_core.errors import ConfigError

T = TypeVar("T")

NUM_WARM_UP = 3
"""Calls before the recording, which do the work: kernels are chosen in them, and tables filled."""

Record = Callable[[Callable[[], T]], tuple[Callable[[], object], T]]
"""Records a call of work and returns what repeats it, and what the call returned; its tensors are
computed by the first repetition, and overwritten by each that follows."""


class Replay(Generic[T]):
    """Work that is done as it is, or recorded after a few calls and repeated from then on.

    Args:
        work: computes on tensors that stay where they are.
        record: records it; None: it is never recorded.
    """

    def __init__(self, work: Callable[[], T], record: Record[T] | None) -> None:
        self._work, self._record = work, record
        self._num_calls = 0
        self._recorded: tuple[Callable[[], object], T] | None = None

    def __call__(self) -> T:
        """Do the work; what is returned may be overwritten by the next call.

        Raises:
            ConfigError: as of `record`.
        """
        if self._record is None or self._num_calls < NUM_WARM_UP:
            self._num_calls += 1
            return self._work()
        if self._recorded is None:
            self._recorded = self._record(self._work)
        repeat, result = self._recorded
        repeat()
        return result


def recorder(device: torch.device, *, wanted: bool) -> Record[T] | None:
    """Return what records on `device`: nothing on a CPU, which launches no kernels."""
    return record_graph if wanted and device.type == "cuda" else None


def record_graph(work: Callable[[], T]) -> tuple[Callable[[], object], T]:
    """Record a call of work as a CUDA graph; as of `Record`.

    Raises:
        ConfigError: it does what a graph cannot hold, such as waiting for the GPU.
        torch.OutOfMemoryError: a graph holds the memory of all that it computes.
    """
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    own = None if current == torch.cuda.default_stream() else current
    try:
        # Of this thread alone: those of the loader pin memory meanwhile.
        with torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
            result = work()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConfigError(
            f"what a step computes could not be recorded as a CUDA graph "
            f"({' '.join(str(error).split())[:300]}); go on without, by --set "
            "compute.cuda_graphs=false"
        ) from error
    return graph.replay, result


@contextmanager
def off_the_default_stream(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """Within the block this thread launches on a stream of its own, if it is going to record.

    The default stream cannot be recorded, and what a gradient is computed by keeps to the stream
    that it was made on: this surrounds a training from the making of its network on.
    """
    if recorder(device, wanted=wanted) is None:
        yield
        return
    before, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    own.wait_stream(before)
    with torch.cuda.stream(own):
        yield
    before.wait_stream(own)
