"""Checkpoints: what they hold, which one to continue from, and when one may be made.

    step_00001000/state-<sha256>.safetensors    weights, Adam, the curves' running sums
                  ema-<sha256>.safetensors      the moving average that images are drawn from
                  history-<sha256>.jsonl        the curves since step 0
                  manifest.json                 last; without it the rest does not exist

A damaged checkpoint is set aside loudly and the next older one is taken; if there were some and
none is left, that is an error and never a fresh start.
"""

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.errors import CheckpointError, DivergenceError
from ddpm_core.inference.weights import EMA_ROLE, quarantined_if_damaged, read_tensors
from ddpm_core.runs import layout, places, results
from ddpm_core.store import manifest
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

_log = logging.getLogger(__name__)

_STATE, _HISTORY = "state", "history"
Curve = list[dict[str, float]]
"""The points of the curves since step 0, each with its `step`."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint belongs to; one of other origin is never continued from."""

    experiment: str
    """fingerprint of what determines the weights: see `places.experiment`"""
    dataset: str
    """fingerprint of the data set"""


@dataclass(frozen=True)
class Checkpoint:
    """A committed and verified checkpoint in memory."""

    manifest: Manifest
    state: dict[str, Tensor]
    ema: dict[str, Tensor]
    history: Curve

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return int(self.manifest.body["step"])


# -- writing -----------------------------------------------------------------------------------


def require_finite(tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Refuse a state that no training comes back from.

    Raises:
        DivergenceError: naming the first tensor with a NaN or an infinity.
    """
    flags = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
    if not flags.all():
        name = list(tensors)[int(flags.logical_not().nonzero()[0])]
        raise DivergenceError(
            f"{name} holds a NaN or an infinity after step {step}; no checkpoint is made of it. "
            "Lower train.learning_rate or raise train.warmup_steps, under another run name"
        )


def weights_digest(state: Mapping[str, Tensor]) -> int:
    """Return 64 bits of the SHA-256 of the weights: equal on all ranks, or something is broken."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if name.startswith("model."):
            digest.update(_bytes_of(tensor))
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def require_equal(digests: Sequence[int], *, step: int) -> None:
    """Refuse a state in which the ranks hold different weights.

    Raises:
        DivergenceError: naming the ranks that differ from rank 0.
    """
    others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise DivergenceError(
            f"after step {step} the weights of rank(s) {', '.join(others)} are not those of rank "
            "0; no checkpoint is made of them. Suspect the memory of those machines; run again to "
            "continue from the checkpoint before"
        )


def commit(
    store: Store,
    run: str,
    origin: Origin,
    *,
    step: int,
    images_seen: int,
    state: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    history: Curve,
    imported: Mapping[str, str] | None = None,
) -> Manifest:
    """Store and publish the checkpoint after `step` steps; the same bytes for the same state.

    Args:
        store: where.
        run: name of the run.
        origin: what it belongs to.
        step: completed optimiser steps.
        images_seen: images in them.
        state: what a training goes on from.
        ema: the averaged weights, by the names of the network's parameters.
        history: the curves up to here.
        imported: for weights from outside, their format and the digests of their files: such a
            checkpoint says so in its manifest.

    Raises:
        RunConflictError: another one of this step stands there.
        StorageError: the storage refuses or does not answer.
    """
    folder = layout.checkpoint_folder(run, step)
    lines = "".join(json.dumps(point, sort_keys=True) + "\n" for point in history)
    files = {
        _STATE: manifest.write_file(store, folder, _STATE, ".safetensors", _serialize(state)),
        EMA_ROLE: manifest.write_file(store, folder, EMA_ROLE, ".safetensors", _serialize(ema)),
        _HISTORY: manifest.write_file(store, folder, _HISTORY, ".jsonl", lines.encode()),
    }
    body: dict[str, Any] = {
        "step": step,
        "images_seen": images_seen,
        "experiment": origin.experiment,
        "dataset": origin.dataset,
    }
    if imported is not None:
        body["imported"] = dict(imported)
    return manifest.commit(store, folder, files, body)


def complete(store: Store, config: RunConfig) -> Manifest | None:
    """Return the checkpoint of the last step if it is there, whole in every byte, else None.

    A damaged one is quarantined. A `retired` mark on it, where no later step is, is not of our
    retention, which keeps the newest ones: it is removed.

    Raises:
        CheckpointError: it belongs to another experiment or data set.
        StorageError: the storage does not answer.
    """
    step = config.train.num_steps
    folder = layout.checkpoint_folder(config.name, step)
    if manifest.is_retired(store, folder) and step == max(
        layout.committed_steps(store, config.name)
    ):
        _log.warning("removed the mark `retired` of the last checkpoint %s", store.uri_of(folder))
        manifest.unretire(store, folder)
    if manifest.intact(store, folder, places.checkpoint_expected(step)) is None:
        return None
    return results.final_checkpoint(store, config)


def refuse_damaged_import(store: Store, config: RunConfig) -> None:
    """Refuse to train where imported weights were: they were damaged, and no training made them.

    Raises:
        CheckpointError: with the command that brings them again.
    """
    step = config.train.num_steps
    folder = layout.checkpoint_folder(config.name, step)
    try:
        found = manifest.load_marked(store, folder, places.checkpoint_expected(step))
    except DamagedError:
        return
    if found is not None and results.is_imported(found):
        raise CheckpointError(
            f"{store.uri_of(folder)} held imported weights, and they are damaged; no training "
            "makes them again. Import them again, over what is there: python -m ddpm_core "
            f"import-weights SOURCE RECIPE --run {config.name} --root {shlex.quote(store.uri)}"
        )


def prune(store: Store, run: str, keep: int) -> None:
    """Delete the files of all but the newest `keep` usable checkpoints; their manifests stay."""
    kept = 0
    for step in layout.committed_steps(store, run):
        folder = layout.checkpoint_folder(run, step)
        if kept < keep:
            kept += _is_usable(store, folder, step)
        elif not manifest.is_retired(store, folder):
            manifest.retire(store, folder)
        elif set(store.names(folder)) > {"manifest.json", "retired"}:
            manifest.retire(store, folder)  # a retention that was killed half way
        else:
            return  # what is older was retired before this one


def _is_usable(store: Store, folder: str, step: int) -> bool:
    try:
        return manifest.load(store, folder, places.checkpoint_expected(step)) is not None
    except DamagedError:
        return False


def _serialize(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return flat.numpy().tobytes()


# -- reading -----------------------------------------------------------------------------------


def newest(store: Store, run: str, origin: Origin) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None if the run has none at all.

    Every file is read and verified. A damaged checkpoint, and one that lies under another step's
    name, is quarantined.

    Raises:
        CheckpointError: there were checkpoints and none is usable; or the newest belongs to
            another experiment or data set.
        StorageError: the storage does not answer; that is not "none".
    """
    steps = layout.committed_steps(store, run)
    for step in steps:
        folder = layout.checkpoint_folder(run, step)
        try:
            found = manifest.load(store, folder, places.checkpoint_expected(step))
            if found is not None:
                results.require_origin(
                    store, found, experiment=origin.experiment, dataset=origin.dataset
                )
                return read(store, found)
        except DamagedError as error:
            manifest.quarantine(store, folder, str(error))
    folders = [layout.checkpoint_folder(run, step) for step in steps]
    if any(store.exists(f"{folder}/manifest.json") for folder in folders):
        where = layout.checkpoints_folder(run)
        raise CheckpointError(
            f"{store.uri_of(where)} has checkpoints of {len(folders)} step(s) and none is usable; "
            "the training is not begun anew over them. Restore the files that the messages above "
            "name and delete quarantined.json beside them, or delete that folder to begin anew"
        )
    return None


def of_step(store: Store, run: str, step: int) -> Checkpoint:
    """Return the checkpoint of that step, which another rank has chosen.

    Raises:
        CheckpointError: if it is not there or damaged.
    """
    folder = layout.checkpoint_folder(run, step)
    found = manifest.load(store, folder, places.checkpoint_expected(step))
    if found is None:
        raise CheckpointError(
            f"{store.uri_of(folder)} is there for rank 0 and not for this rank; all nodes must "
            "see the same storage: use s3:// or a shared folder as root"
        )
    return read(store, found)


def read(store: Store, found: Manifest) -> Checkpoint:
    """Read a committed checkpoint, every file verified.

    Raises:
        DamagedError: if a file is not what was committed.
    """
    return Checkpoint(
        manifest=found,
        state=read_tensors(store, found, _STATE),
        ema=read_tensors(store, found, EMA_ROLE),
        history=load_history(store, found),
    )


def load_history(store: Store, found: Manifest) -> Curve:
    """Return the curves of a checkpoint; a damaged one is quarantined, as by `weights.load_ema`.

    Raises:
        DamagedError: if the file is not what was committed.
    """
    with quarantined_if_damaged(store, found):
        lines = found.read(store, _HISTORY).decode().splitlines()
    return [json.loads(line) for line in lines]
