"""A lack of memory is one sentence that names the keys to lower; other errors stay as they are."""

import numpy as np
import pytest
import torch

from ddpm_core.cluster import pool
from ddpm_core.cluster.group import _Threads
from ddpm_core.cluster.memory import POOL_KEYS, TRAIN_KEYS, lack_of_memory
from ddpm_core.errors import ConfigError

CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB.\nSee x"
)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"
)


def too_large():
    """Return what numpy raises for more than there is."""
    try:
        np.empty(2**60, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("error", [CUDA, CPU, MemoryError(), too_large()])
def test_each_kind_of_it_is_recognised(error):
    """Catches torch's error on a device only: numpy and the CPU's allocator raise others."""
    lack = lack_of_memory(error, TRAIN_KEYS)
    assert str(lack).startswith("out of memory: ")
    assert "Lower compute.micro_batch_size" in str(lack)
    assert "\n" not in str(lack)
    assert lack.exit_code == 2, "the same again would end the same"


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), KeyError("x"), OSError()])
def test_other_errors_are_not_it(error):
    """Catches advice about batches for every defect."""
    assert lack_of_memory(error, POOL_KEYS) is None


def raising(error):
    def work(_):
        raise error

    return work


def test_a_rank_says_which_key_to_lower():
    """Catches a traceback of torch's on the way out of a training."""
    with pytest.raises(ConfigError, match=r"Tried to allocate 20.*train\.global_batch_size"):
        _Threads(raising(CUDA), 1)({})
    with pytest.raises(RuntimeError, match="shapes"):
        _Threads(raising(RuntimeError("shapes")), 1)({})


def test_a_worker_of_a_pool_answers_with_it():
    """Catches an actor that dies of it and is replaced, to die of it again."""
    actor = pool._PoolActor(1)
    actor.begin(lambda *_: raising(CUDA), {})
    answer = actor.run("unit")
    assert isinstance(answer, ConfigError)
    assert "sample.batch_size" in str(answer)
    actor.begin(lambda *_: raising(RuntimeError("shapes")), {})
    with pytest.raises(RuntimeError, match="shapes"):
        actor.run("unit")
