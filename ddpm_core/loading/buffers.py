"""Memory for batches that is used again.

Fresh memory comes from the kernel page by page, each page zeroed when it is first touched: on a
virtual machine that took 600 us for an image of 256x256x3, and copying it 25 us.
"""

import weakref
from collections import deque
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MAX_KEPT = 16


@final
class Buffers:
    """Arrays of one shape; any thread may lease one."""

    def __init__(self) -> None:
        # Of the oldest more than these are freed.
        self._free: deque[NDArray[Any]] = deque(maxlen=_MAX_KEPT)

    def lease(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """Return an array of any content. It is used again when nobody refers to it any more."""
        try:
            base = self._free.pop()
        except IndexError:
            base = np.empty(shape, dtype)
        if base.shape != shape or base.dtype != dtype:
            base = np.empty(shape, dtype)
        # Another object for the same memory, whose end is waited for. All views of views refer to
        # it: numpy passes over arrays in between, and stops at one of memory that is no array.
        leased = np.frombuffer(base.data, dtype)
        weakref.finalize(leased, self._free.append, base)
        return leased.reshape(shape)
