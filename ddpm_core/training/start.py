"""What a run begins from is copied, once, as its checkpoint of step 0.

From then on every start of the training reads that checkpoint, as it would any other: what it was
copied from may be trained on, or deleted.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.config.model_ref import RAW
from ddpm_core.config.start import STATE as WHOLE_STATE
from ddpm_core.errors import CheckpointError
from ddpm_core.exchange.folder import exact_float32, read_folder
from ddpm_core.exchange.networks import from_diffusers
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.weights import (
    MODEL,
    STATE,
    load_average,
    quarantined_if_damaged,
    read_tensors,
)
from ddpm_core.models.byte_model import encoder_weights
from ddpm_core.models.fit import fit
from ddpm_core.progress import Progress
from ddpm_core.runs import base, layout, places, results
from ddpm_core.runs.base import Base
from ddpm_core.runs.weights import is_average
from ddpm_core.shards.classes import classes_text, known_classes
from ddpm_core.store import manifest
from ddpm_core.store.storage import Store
from ddpm_core.training.loop import Training
from ddpm_core.training.stepping.kinds import training_of
from ddpm_core.training.stepping.parallel import Parallel
from ddpm_core.training.stepping.trainee import ADAM
from ddpm_core.training.storing import checkpoint

_ALONE = cluster.Place(rank=0, world_size=1, device=torch.device("cpu"))
_MOMENTS = ("exp_avg", "exp_avg_sq")


def copy_base(
    store: Store,
    config: RunConfig,
    kind: Callable[[RunConfig, Parallel], Training] | None = None,
) -> None:
    """Copy what the run begins from, if it begins from anything and has not begun.

    Killed in between, it is done again: the same bytes.

    Raises:
        ConfigError, CheckpointError: as `base.base_of`; or the weights are not those of this
            network.
        DamagedError: a file of them is not what was committed.
        StorageError: the storage refuses or does not answer.
    """
    if config.train.start is None or _has_checkpoints(store, config.name):
        return
    found = base.base_of(store, config)
    training = (kind or training_of)(config, Parallel(_ALONE))
    parts = training.trainee.parts()
    _fill(store, config, found, parts)
    training.trainee.settle()
    pointer = results.dataset_pointer(store, config.name)
    origin = checkpoint.Origin(
        places.experiment(store, config), pointer.fingerprint if pointer is not None else ""
    )
    checkpoint.commit(
        store,
        config.name,
        origin,
        step=0,
        images_seen=0,
        written=checkpoint.write_parts(store, config.name, 0, parts),
        history=[],
        base=found.record,
    )
    note = f"begins from {found.start}"
    Progress("train", 0, config.train.num_steps, "steps", note).show()


def _has_checkpoints(store: Store, run: str) -> bool:
    """Say whether there is a checkpoint to go on from; one of step 0 alone must be whole."""
    steps = [
        step
        for step in layout.committed_steps(store, run)
        if store.exists(f"{layout.checkpoint_folder(run, step)}/manifest.json")
    ]
    if any(steps):
        return True
    folder = layout.checkpoint_folder(run, 0)
    return bool(steps) and manifest.intact(store, folder, places.checkpoint_expected(0)) is not None


@torch.no_grad()
def _fill(
    store: Store, config: RunConfig, found: Base, parts: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write what the run begins from into the parts of its state."""
    state = parts[STATE]
    network = {
        name.removeprefix(f"{MODEL}."): tensor
        for name, tensor in state.items()
        if name.startswith(f"{MODEL}.")
    }
    rows = class_rows(store, config, found)
    average = found.start.model.average
    if found.trained.role == "text" and config.role == "denoiser":
        # The rest is as it was drawn.
        weights = encoder_weights(_weights(store, found, average))
        for tensors in (network, *(parts[role] for role in filter(is_average, parts))):
            _copy(weights, tensors)
        return
    weights = fit(_weights(store, found, average), network, rows=rows)
    _copy(weights, network)
    for role in filter(is_average, parts):
        if average == WHOLE_STATE:
            weights = fit(_weights(store, found, role), network, rows=rows)
        _copy({name: weights[name] for name in parts[role]}, parts[role])
    if config.train.start_optimiser == "kept" and found.checkpoint is not None:
        with quarantined_if_damaged(store, found.checkpoint):
            theirs = read_tensors(store, found.checkpoint, STATE)
        params = {
            name: tensor for name, tensor in network.items() if f"{ADAM}.exp_avg.{name}" in state
        }
        for moment in _MOMENTS:
            own = f"{ADAM}.{moment}."
            moments = {k.removeprefix(own): one for k, one in theirs.items() if k.startswith(own)}
            moments = fit(moments, params, rows=rows, are_moments=True)
            _copy({f"{own}{name}": one for name, one in moments.items()}, state)
        state[f"{ADAM}.step"].copy_(theirs[f"{ADAM}.step"])


def _weights(store: Store, found: Base, average: str) -> dict[str, Tensor]:
    if found.checkpoint is None:
        return _of_folder(found)
    return load_average(store, found.checkpoint, average=RAW if average == WHOLE_STATE else average)


def _of_folder(found: Base) -> dict[str, Tensor]:
    """Return the weights in a folder of diffusers by our names, if they are those of its digest.

    Raises:
        CheckpointError: they are others by now, or not those of the network that lies beside them.
    """
    folder = read_folder(str(found.start.folder))
    digest, pinned = folder.digests["weights_sha256"], str(found.start.sha256)
    if not digest.startswith(pinned):
        raise CheckpointError(
            f"train.start_from={str(found.start)!r} is pinned to weights with SHA-256 {pinned}..., "
            f"and the folder holds {digest[: len(pinned)]}...: it was written anew; give this run "
            "another name (--run NAME) to begin from them"
        )
    with torch.device("meta"):
        like = build_network(found.trained).state_dict()
    weights = exact_float32(folder.weights, origin=str(found.start.folder))
    return from_diffusers(found.trained, weights, like)


def _copy(values: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        tensors[name].copy_(value)


def class_rows(store: Store, config: RunConfig, found: Base) -> Sequence[int | None] | None:
    """Return for each class of the run the class of what it begins from, None for a new one.

    Classes go by their names. Where what it begins from has none, as weights from outside, they go
    by their numbers: None is returned.

    Raises:
        CheckpointError: the names of the classes of a run that was trained cannot be read.
        DataError: an index cannot be read.
    """
    if found.trained.num_classes is None:
        return None
    if not found.has_names:
        return None
    theirs, ours = (known_classes(store, one) for one in (found.trained, config))
    if theirs is None:
        raise CheckpointError(
            f"train.start_from={found.start.name!r}: run {found.trained.name!r} has labels, and no "
            "data set any more that says what they stand for; give it back its dataset.json"
        )
    if ours is None:
        return None
    if config.role == "classifier" and theirs.names != ours.names:
        raise CheckpointError(
            f"train.start_from={found.start.name!r}: run {found.trained.name!r} tells "
            f"{classes_text(theirs.names)} apart, and these images have the classes "
            f"{classes_text(ours.names)}; begin from random weights"
        )
    return [theirs.names.index(name) if name in theirs.names else None for name in ours.names]
