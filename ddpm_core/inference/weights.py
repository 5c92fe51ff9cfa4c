"""The weights in a checkpoint, verified: for sampling, measuring and exporting."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase

from torch import Tensor

from ddpm_core.config.model_ref import EMA, RAW
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.tensor_file import load_tensors
from ddpm_core.runs import layout
from ddpm_core.store import manifest
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

MODEL, STATE = "model", "state"
"""what the one network, and the part with it and its optimiser, have always been called"""
NEWEST_FORMAT = 2
"""of what lies in a checkpoint: 1 is `state` and `ema`, and not said; 2 names more parts, and is"""


def average_role(module: str = MODEL, average: str = EMA) -> str:
    """Return what a checkpoint's manifest calls an average of a module, or the module itself."""
    if average == RAW:
        return STATE if module == MODEL else f"module.{module}"
    return average if module == MODEL else f"{average}.{module}"


def load_average(
    store: Store, found: Manifest, *, module: str = MODEL, average: str = EMA
) -> dict[str, Tensor]:
    """Return averaged weights of a module of a checkpoint, by the names of its parameters.

    The average `raw` is none: the weights as they were trained.

    A damaged checkpoint is quarantined: a second start, which looks at lengths alone, then finds
    that the training is not complete.

    Raises:
        DamagedError: if the file is not what was committed.
        CheckpointError: if there is no such average, or a newer program wrote the checkpoint.
    """
    require_readable(store, found)
    role = average_role(module, average)
    if role not in found.files:
        raise CheckpointError(
            f"{store.uri_of(found.folder)} has no average {average!r} of a module {module!r}; it "
            f"has {', '.join(found.files)}"
        )
    with quarantined_if_damaged(store, found):
        tensors = read_tensors(store, found, role)
    if average != RAW:
        return tensors
    own = f"{module}."
    return {key.removeprefix(own): one for key, one in tensors.items() if key.startswith(own)}


def require_readable(store: Store, found: Manifest) -> None:
    """Refuse a checkpoint of a format that came after this program.

    Raises:
        CheckpointError: with both formats.
    """
    version = found.body.get("format", 1)
    if not isinstance(version, int) or version > NEWEST_FORMAT:
        raise CheckpointError(
            f"{store.uri_of(found.folder)} is a checkpoint of format {version!r}; this program "
            f"reads up to {NEWEST_FORMAT}: use the version of the program that wrote it"
        )


@contextmanager
def quarantined_if_damaged(store: Store, found: Manifest) -> Iterator[None]:
    """Quarantine a checkpoint that turns out to be damaged, and name the command that mends it.

    Raises:
        CheckpointError: it is not damaged: retention has deleted its files meanwhile.
    """
    try:
        yield
    except DamagedError as error:
        if manifest.is_retired(store, found.folder):
            raise CheckpointError(
                f"the weights in {store.uri_of(found.folder)} were deleted while they were to be "
                "read, by the train.keep_checkpoints of a training; what was made of them is kept. "
                "Name a newer step, or have the training keep more"
            ) from None
        manifest.quarantine(store, found.folder, str(error))
        run = found.folder.removeprefix("runs/").partition("/")[0]
        command = layout.stage_command(store, run, "train")
        if found.folder.startswith(f"{layout.snapshots_folder(run)}/"):
            raise DamagedError(f"{error}; without that file, name another step") from None
        if made := found.body.get("made"):
            step, sigma_rel = found.body["step"], made["sigma_rel"]
            command = layout.average_command(store, run, step, sigma_rel)
        raise DamagedError(f"{error}: {command}") from None


def read_tensors(store: Store, found: Manifest, role: str) -> dict[str, Tensor]:
    """Return the tensors of a part of a checkpoint, on the CPU.

    Raises:
        DamagedError: if the file is not what was committed.
        CheckpointError: if what was committed is no safetensors file.
    """
    tensors: dict[str, Tensor] = {}
    origin = part_origin(store, found, role)

    def load(file: BufferedIOBase) -> None:
        tensors.clear()
        tensors.update(load_tensors(file, found.files[role].size, origin=origin))

    found.read_through(store, role, load)
    return tensors


def part_origin(store: Store, found: Manifest, role: str) -> str:
    """Return what a part of a checkpoint is, for people."""
    return f"the part {role!r} of the checkpoint {store.uri_of(found.folder)}"
