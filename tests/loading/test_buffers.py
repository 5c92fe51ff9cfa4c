import numpy as np
import torch

from ddpm_core.loading.buffers import Buffers


def test_memory_is_used_again_when_nothing_refers_to_it():
    """Catches a batch that is overwritten while its consumer, or a view of it, still reads it."""
    buffers = Buffers()
    views = [
        lambda array: array,
        lambda array: array[1],
        lambda array: array.reshape(-1)[2:][1:],
        lambda array: torch.from_numpy(array).permute(1, 0)[1:],
        lambda array: torch.from_numpy(array[1:]),
    ]
    for view in views:
        array = buffers.lease((3, 4))
        place, kept = array.ctypes.data, view(array)
        del array
        assert buffers.lease((3, 4)).ctypes.data != place
        del kept
        # The one leased in between came back first.
        taken = [buffers.lease((3, 4)) for _ in range(2)]
        assert place in [array.ctypes.data for array in taken]
        del taken


def test_another_shape_is_other_memory():
    """Catches the shape, or the length, of the batch before."""
    buffers = Buffers()
    assert buffers.lease((3, 4)).shape == (3, 4)
    assert buffers.lease((5, 4)).shape == (5, 4)
    assert buffers.lease((2, 2, 2)).dtype == np.uint8


def test_no_more_is_kept_than_bounded():
    """Catches the memory of every batch that was ever held at a time."""
    buffers = Buffers()
    arrays = [buffers.lease((8,)) for _ in range(40)]
    del arrays
    assert len(buffers._free) == 16
