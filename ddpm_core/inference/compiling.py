"""Networks whose kernels torch's compiler fuses. Nothing else of ours knows the compiler.

Only a network is ever compiled: compiled code rounds otherwise than what it was made of, and not
alike in two processes, so that nothing goes through it on which ranks or resumed runs must agree to
the bit (random numbers, the clipping of the gradient, the optimiser, the averages).
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

from ddpm_core.errors import ConfigError
from ddpm_core.loading.cache import FOLDER_VARIABLE, chosen_folder
from ddpm_core.store.cache_folder import own_folder

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_THREADS = "TORCHINDUCTOR_COMPILE_THREADS"
# Of each network that a process calls, for each size of its batches: more than torch's own 8.
_MOST_VARIANTS = 64
_WAY_OUT = "go on without, by --set compute.compile=false"

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, *, num_threads: int, backend: str = "inductor") -> Function:
    """Return `function` compiled: when it is first called, and again for every other shape.

    Args:
        function: of tensors, of one graph: nothing in it depends on a value of theirs.
        num_threads: that compile.
        backend: of torch's compiler; tests take one that writes no code.

    Raises:
        ConfigError: the folder for what is compiled can be written by others.
    """
    _prepare(num_threads)
    torch._dynamo.config.recompile_limit = _MOST_VARIANTS
    # Timing of candidates, which this leaves out, would choose others in each process.
    options: dict[str, Any] | None = {"deterministic": True} if backend == "inductor" else None
    made = torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options)
    return cast(Function, made)


@contextmanager
def said_of_compiling() -> Iterator[None]:
    """Name the switch in errors of the block, in which something is compiled.

    Raises:
        ConfigError: with what went wrong.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, OSError, ImportError) as error:
        raise ConfigError(
            f"the network could not be compiled ({' '.join(str(error).split())[:300]}); {_WAY_OUT}"
        ) from error


def _prepare(num_threads: int) -> None:
    """Tell the compiler where to keep what it makes, and how many processes to start.

    What it keeps is code that is run: torch's own folder has a name that anybody can make first.
    """
    # Not imported before it is needed: a second of every process.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    os.environ[_THREADS] = str(num_threads)
    # Parts of torch set the variable to its default, when they are first used.
    if os.environ.get(_FOLDER) not in (None, "", default_cache_dir()):
        return
    folder = own_folder(chosen_folder(), "compiled")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError as error:
        raise ConfigError(
            f"compute.compile keeps what it makes in {folder}, which cannot be used "
            f"({error.strerror}); point {FOLDER_VARIABLE} to another folder, or {_WAY_OUT}"
        ) from None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"compute.compile runs what lies in {folder}, and others can write there; remove it "
            f"or take their rights (chmod 700), or {_WAY_OUT}"
        )
    os.environ[_FOLDER] = str(folder)
