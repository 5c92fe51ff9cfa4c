"""What the tests marked `gpu` share."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

# Said once by torch, of a mode that sees `.item()`, copies and `nonzero`: all that is looked for.
quiet = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Make whatever waits for the device an error; a test that uses this is marked `quiet`."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
