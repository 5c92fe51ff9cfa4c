"""Checkpoints: what they hold, which one to continue from, and when one may be made.

    step_00001000/state-<sha256>.safetensors    weights, Adam, the curves' running sums
                  ema-<sha256>.safetensors      the moving average that images are drawn from
                  history-<sha256>.jsonl        the curves since step 0
                  manifest.json                 last; without it the rest does not exist

A training of more than one network has a file for each of the others and for what moves and
averages them, see `Trainee.parts`; its manifest says `format` 2. No file is ever in memory as a
whole beside the tensors that it is of: it is written and read tensor by tensor, by the rank that
holds them.

A damaged checkpoint is set aside loudly and the next older one is taken; if there were some and
none is left, that is an error and never a fresh start.
"""

import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.config.model_ref import EMA
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.tensor_file import TensorFile, fill_tensors
from ddpm_core.inference.weights import (
    NEWEST_FORMAT,
    STATE,
    part_origin,
    quarantined_if_damaged,
    require_readable,
)
from ddpm_core.runs import layout, places, refusals, results
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit as commit_files
from ddpm_core.store.commit import unretire, write_file
from ddpm_core.store.manifest import DamagedError, FileRecord, Manifest
from ddpm_core.store.storage import Store

_log = logging.getLogger(__name__)

_HISTORY = "history"
Curve = list[dict[str, float]]
"""The points of the curves since step 0, each with its `step`."""


@dataclass(frozen=True)
class Origin:
    """Experiment and data set of a checkpoint; one of other origin is never continued from."""

    experiment: str
    """fingerprint of what determines the weights: see `places.experiment`"""
    dataset: str
    """fingerprint of the data set"""
    before: Mapping[str, int] = field(default_factory=dict)
    """fingerprints that the experiment had while the run was shorter -> up to which step"""

    def experiment_of(self, found: Manifest) -> str:
        """Return the fingerprint that this checkpoint must have."""
        said, step = str(found.body.get("experiment")), int(found.body["step"])
        return said if self.before.get(said, -1) >= step else self.experiment


Parts = Mapping[str, Mapping[str, Tensor]]
"""tensors by name, by the role of their file"""
Fetch = Callable[[str, str], Tensor]
"""from role and name of a tensor that another rank holds to its numbers"""
Written = Mapping[str, FileRecord]
"""files that are written, by their role"""


@dataclass(frozen=True)
class Begun:
    """The state to resume from; its tensors are loaded already."""

    step: int
    """completed steps"""
    history: Curve


# -- writing -----------------------------------------------------------------------------------


def write_parts(
    store: Store, run: str, step: int, parts: Parts, *, fetch: Fetch | None = None
) -> Written:
    """Store parts of the checkpoint after `step` steps, which counts once all are published.

    Any rank writes those that it holds.

    Args:
        store: where.
        run: name of the run.
        step: completed optimiser steps.
        parts: tensors by name, by role; they must not change meanwhile.
        fetch: returns the numbers of one that is on the device `meta`.

    Raises:
        StorageError: the storage refuses or does not answer.
    """
    folder = layout.checkpoint_folder(run, step)
    return {
        role: write_file(store, folder, role, ".safetensors", file_of(role, tensors, fetch))
        for role, tensors in parts.items()
    }


def file_of(role: str, tensors: Mapping[str, Tensor], fetch: Fetch | None) -> TensorFile:
    """Return the file of a part; `fetch` as of `write_parts`."""
    return TensorFile(tensors, fetch=None if fetch is None else partial(fetch, role))


def commit(
    store: Store,
    run: str,
    origin: Origin,
    *,
    step: int,
    images_seen: int,
    written: Written,
    history: Curve,
    imported: Mapping[str, str] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Manifest:
    """Publish the checkpoint after `step` steps; the same bytes for the same state.

    Args:
        store: where.
        run: name of the run.
        origin: what it belongs to.
        step: completed optimiser steps.
        images_seen: images in them.
        written: all of its parts, as `write_parts` of this rank and of others returned them.
        history: the curves up to here.
        imported: for weights from outside, their format and the digests of their files: such a
            checkpoint says so in its manifest.
        base: for the weights that a run begins from, what they were, see `Base.record`.

    Raises:
        RunConflictError: another one of this step stands there.
        StorageError: the storage refuses or does not answer.
    """
    folder = layout.checkpoint_folder(run, step)
    lines = "".join(json.dumps(point, sort_keys=True) + "\n" for point in history)
    files = {
        **written,
        _HISTORY: write_file(store, folder, _HISTORY, ".jsonl", lines.encode()),
    }
    body: dict[str, Any] = {
        "step": step,
        "images_seen": images_seen,
        "experiment": origin.experiment,
        "dataset": origin.dataset,
    }
    if imported is not None:
        body["imported"] = dict(imported)
    if base is not None:
        body["base"] = dict(base)
    # Of the two parts of old it says nothing: an earlier version of this program, whose workers
    # may live on while this one begins, writes the same bytes, and so may be gone back to.
    if not files.keys() <= {STATE, EMA, _HISTORY}:
        body["format"] = NEWEST_FORMAT
    return commit_files(store, folder, files, body)


def to_text(written: Written) -> str:
    """Return the files that one rank has written, as JSON for the rank that publishes them."""
    return json.dumps({role: asdict(record) for role, record in written.items()})


def from_texts(texts: Sequence[str]) -> Written:
    """Return the files that all ranks have written, from `to_text` of each."""
    return {
        role: FileRecord(**record) for text in texts for role, record in json.loads(text).items()
    }


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
        unretire(store, folder)
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


# -- reading -----------------------------------------------------------------------------------


def resume(store: Store, run: str, origin: Origin, into: Parts) -> Begun | None:
    """Read the newest checkpoint that is whole, or return None if the run has none at all.

    Every file is verified. A damaged checkpoint, and one that lies under another step's name, is
    quarantined, and the one before it written over what of it was read.

    Args:
        store: where.
        run: name of the run.
        origin: what it must belong to.
        into: the tensors that are written to.

    Raises:
        CheckpointError: there were checkpoints and none is usable; or the newest belongs to
            another experiment or data set, or has other tensors.
        StorageError: the storage does not answer; that is not "none".
    """
    steps = layout.committed_steps(store, run)
    for step in steps:
        folder = layout.checkpoint_folder(run, step)
        try:
            found = manifest.load(store, folder, places.checkpoint_expected(step))
            if found is not None:
                refusals.require_origin(
                    store, found, experiment=origin.experiment_of(found), dataset=origin.dataset
                )
                return _read(store, found, into)
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


def resume_at(store: Store, run: str, step: int, into: Parts) -> Begun:
    """Read the checkpoint of that step, which another rank has chosen.

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
    return _read(store, found, into)


def _read(store: Store, found: Manifest, into: Parts) -> Begun:
    require_readable(store, found)
    if wrong := sorted({*into, _HISTORY} ^ found.files.keys()):
        raise CheckpointError(
            f"{store.uri_of(found.folder)} and this training differ in the parts "
            f"{', '.join(wrong)}; it was saved by another kind of training or another version"
        )
    for role, tensors in into.items():
        origin = part_origin(store, found, role)
        size = found.files[role].size
        fill = partial(fill_tensors, num_bytes=size, tensors=tensors, origin=origin)
        found.read_through(store, role, fill)
    lines = found.read(store, _HISTORY).decode().splitlines()
    return Begun(int(found.body["step"]), [json.loads(line) for line in lines])


def load_history(store: Store, found: Manifest) -> Curve:
    """Return the curves of a checkpoint; a damaged one is quarantined, as by `load_average`.

    Raises:
        DamagedError: if the file is not what was committed.
    """
    with quarantined_if_damaged(store, found):
        lines = found.read(store, _HISTORY).decode().splitlines()
    return [json.loads(line) for line in lines]
