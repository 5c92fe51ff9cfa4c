"""The weights in a checkpoint, verified: for sampling, measuring and exporting."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ddpm_core.errors import CheckpointError
from ddpm_core.runs import layout
from ddpm_core.store import manifest
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

EMA_ROLE = "ema"
"""what a checkpoint's manifest calls the moving average of the weights"""


def load_ema(store: Store, found: Manifest) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint by the names of the network's parameters.

    A damaged checkpoint is quarantined: a second start, which looks at lengths alone, then finds
    that the training is not complete.

    Raises:
        DamagedError: if the file is not what was committed.
    """
    with quarantined_if_damaged(store, found):
        return read_tensors(store, found, EMA_ROLE)


@contextmanager
def quarantined_if_damaged(store: Store, found: Manifest) -> Iterator[None]:
    """Quarantine a checkpoint that turns out to be damaged, and name the command that mends it."""
    try:
        yield
    except DamagedError as error:
        manifest.quarantine(store, found.folder, str(error))
        run = found.folder.removeprefix("runs/").partition("/")[0]
        command = layout.stage_command(store, run, "train")
        raise DamagedError(f"{error}: {command}") from None


def read_tensors(store: Store, found: Manifest, role: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of a checkpoint, on the CPU.

    Raises:
        DamagedError: if the file is not what was committed.
        CheckpointError: if what was committed is no safetensors file.
    """
    data = found.read(store, role)
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(
            f"{store.uri_of(found.folder)}: {role} is what was committed and is no safetensors "
            f"file ({error}); it was written by another program"
        ) from None
