"""Results of a run that exist, checked against the identity of their place. Knows no torch.

A stage is done when the manifest at its place is committed, says of itself what the place
promises, and every file of it is there in its full length: what these functions return. Bytes are
verified by the stages that use them, and all of them by `python -m ddpm_core verify`.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig, identity
from ddpm_core.config.model_ref import NEWEST, ModelRef, sigma_rel_in
from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.runs import layout, places
from ddpm_core.runs.lower import Lower, lower_of
from ddpm_core.runs.places import Place, checkpoint_expected
from ddpm_core.runs.reference import (
    Key,
    given,
    is_made,
    ref_of,
    require_average,
    require_pinned,
    step_of_made,
    trained_by,
)
from ddpm_core.runs.refusals import absence, mended_by, require_origin
from ddpm_core.runs.weights import Weights
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import KeyMissingError, Store

_DATASET_FOLDER = re.compile(r"datasets/[A-Za-z0-9_][A-Za-z0-9._+=-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_POINTER_BYTES = 4096
PROMPTS_ROLE = "prompts"
"""of samples of texts: the prompts that they are of, in turn"""
_MEASURED = {"evaluate": places.evaluation, "study": places.study}
"""stage -> the place of what it measures of weights on a data set"""


@dataclass(frozen=True)
class DatasetPointer:
    """Which data set a run uses."""

    folder: str
    fingerprint: str

    @property
    def is_consistent(self) -> bool:
        """Whether the folder's name is of this fingerprint."""
        return (
            _DATASET_FOLDER.fullmatch(self.folder) is not None
            and _SHA256.fullmatch(self.fingerprint) is not None
            and self.folder.endswith(f"-{self.fingerprint[: layout.SHORT]}")
        )

    def to_json(self) -> bytes:
        """Return the bytes of the run's dataset.json."""
        return canonical_json({"dataset": self.folder, "fingerprint": self.fingerprint})


class DatasetDamagedError(DataError, DamagedError):
    """A data set, or a run's pointer to it, is damaged or another's; the shard stage mends it."""


def dataset_pointer(store: Store, run: str) -> DatasetPointer | None:
    """Return what the run's dataset.json says, or None before sharding.

    Raises:
        DatasetDamagedError: the file is there and is no pointer, or its two fields do not name
            one data set.
    """
    key = layout.dataset_pointer_key(run)
    try:
        data = store.read(key, at_most=MAX_POINTER_BYTES)
    except KeyMissingError:
        return None
    try:
        values: Any = json.loads(data)
        if set(values) == {"dataset", "fingerprint"}:
            pointer = DatasetPointer(str(values["dataset"]), str(values["fingerprint"]))
            if pointer.is_consistent:
                return pointer
    except (ValueError, TypeError, RecursionError):
        pass
    raise DatasetDamagedError(
        f"{store.uri_of(key)} does not name a data set: it must hold 'dataset', a folder "
        "datasets/NAME-FINGERPRINT, and 'fingerprint', 64 digits that begin like the folder's name "
        f"ends; found {data[:200]!r}. The shard stage passes it over and makes it anew: "
        f"{layout.stage_command(store, run, 'shard')}"
    )


def index_expected(pointer: DatasetPointer) -> Expected:
    """Return the identity of the index in the folder of `pointer`."""
    return Expected({"fingerprint": pointer.fingerprint})


def dataset_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the index of the run's data set, or None while it is not complete.

    Raises:
        DatasetDamagedError: the pointer, the index or a shard is damaged, missing or another's,
            or the data set is not the one that this configuration describes.
    """
    pointer = dataset_pointer(store, config.name)
    if pointer is None:
        return None
    try:
        expected = index_expected(pointer)
        found = manifest.load(store, pointer.folder, expected, name=layout.DATASET_INDEX)
        if found is not None:
            found.require_sizes(store)
    except DamagedError as error:
        raise DatasetDamagedError(
            f"{error}: {layout.stage_command(store, config.name, 'shard')}"
        ) from None
    if found is not None:
        require_data(store, config, found)
    return found


def require_data(store: Store, config: RunConfig, index: Manifest) -> None:
    """Refuse a data set that is not made as `config.data` says.

    How many images are held out is of an append's own where a data set grew, and not of the whole.

    Raises:
        DatasetDamagedError: with each key that differs.
    """
    wanted, body = identity.data(config.data), index.body
    if config.data.append_to is not None and isinstance(body.get("data"), dict):
        theirs = {"num_test_images": wanted["num_test_images"]}
        body = {**body, "data": {**body["data"], **theirs}}
    refusal = Expected({"data": wanted}).refusal(body)
    if refusal is not None:
        raise DatasetDamagedError(
            f"{store.uri_of(layout.dataset_pointer_key(config.name))} names the data set "
            f"{store.uri_of(index.folder)}, which is not the one of this run: {refusal}. The shard "
            "stage passes the pointer over and makes it anew: "
            f"{layout.stage_command(store, config.name, 'shard')}"
        )


def final_checkpoint(store: Store, config: RunConfig) -> Manifest | None:
    """Return the checkpoint after the last step of the training, or None before it is there.

    Raises:
        DamagedError, CheckpointError: as `checkpoint_of`.
    """
    return checkpoint_of(store, config, config.train.num_steps)


def checkpoint_of(
    store: Store, config: RunConfig, step: int, *, or_retired: bool = False
) -> Manifest | None:
    """Return the checkpoint after this step of the training, or None if it is not there.

    Its files are there in their full lengths; their bytes are verified when they are read.

    Args:
        store: where the run lies.
        config: the run's.
        step: completed optimiser steps.
        or_retired: whether the manifest of one whose files retention deleted will do.

    Raises:
        DamagedError: it is damaged, or that of another step; the train stage mends it.
        CheckpointError: it belongs to another experiment, or was trained on another data set than
            the run's.
    """
    with mended_by(store, config, "train"):
        folder, expected = layout.checkpoint_folder(config.name, step), checkpoint_expected(step)
        found = manifest.load(store, folder, expected)
        try:
            if found is not None:
                found.require_sizes(store)
        except DamagedError:
            if not manifest.is_retired(store, folder):
                raise
            found = None  # retention deleted its files since
        if found is None and or_retired and manifest.is_retired(store, folder):
            found = manifest.load_marked(store, folder, expected)
    if found is None:
        return None
    require_origin(store, found, experiment=places.experiment(store, config, found))
    if not is_imported(found) and (pointer := dataset_pointer(store, config.name)) is not None:
        require_origin(store, found, dataset=pointer.fingerprint)
    return found


def weights_of(store: Store, config: RunConfig) -> Weights | None:
    """Return the weights that `sample.model` names, with those that guide them if there are any.

    None if there is no checkpoint of the first.

    Raises:
        ConfigError: as `named_weights`.
        DamagedError, CheckpointError: as `named_weights`; or there are none to guide by.
    """
    found = named_weights(store, config, "model")
    if found is not None and config.model.low_size is not None:
        found = replace(found, lower=_lower(store, config))
    if found is None or config.sample.guidance_by is None:
        return found
    weaker = named_weights(store, config, "guidance_by")
    if weaker is None:
        raise CheckpointError(absence(store, config, "guidance_by"))
    return replace(found, weaker=weaker)


def _lower(store: Store, config: RunConfig) -> Lower:
    """Return what samples of a run enlarge.

    Raises:
        CheckpointError: samples of a run whose weights are not there.
        ConfigError, DamagedError: as `lower_of` and `weights_of`.
    """
    lower = lower_of(store, config)
    if lower is None:
        pointer = dataset_pointer(store, config.name)
        fingerprint = None if pointer is None else pointer.fingerprint
        return Lower({"held_out": fingerprint}, "held-out images made small")
    weights = weights_of(store, lower)
    if weights is None:
        raise CheckpointError(
            f"sample.low_from={config.sample.low_from!r}: {absence(store, lower)}"
        )
    drawn = layout.sample_set_fingerprint(lower, weights.sha256, weights.guide)
    # Of weights of another run no reference says that they draw as this one does.
    pinned = weights.pinned if weights.trained.name == lower.name else None
    return Lower({"samples": drawn}, f"samples of {weights.said}", pinned)


def named_weights(store: Store, config: RunConfig, key: Key) -> Weights | None:
    """Return the weights that one reference of `sample` names; None if there is no checkpoint.

    Raises:
        ConfigError: it names another run that is not there, or that does not fit.
        DamagedError, CheckpointError: as `checkpoint_of`; or it has no such average, or other bytes
            than a pinned reference names.
    """
    ref, trained = ref_of(config, key), trained_by(store, config, key)
    if is_made(trained, ref.average):
        if (made := _made_average(store, trained, ref)) is None:
            return None
        weights = Weights(made, trained, ref.average)
        require_pinned(store, config, weights, key)
        return weights
    step = trained.train.num_steps if ref.step is None else ref.step
    if step == NEWEST:
        newest = next(places.committed(store, trained.name), None)
        if newest is None:
            return None
        step = int(newest.body["step"])
    is_named = given(config, key) is not None
    found = checkpoint_of(store, trained, step, or_retired=is_named)
    if found is None:
        return None
    is_retired = is_named and manifest.is_retired(store, found.folder)
    if is_retired and (kept := _snapshot(store, trained, step, ref.average)) is not None:
        found, is_retired = kept, False
    weights = Weights(found, trained, ref.average, is_retired)
    require_average(store, weights)
    require_pinned(store, config, weights, key)
    return weights


def _made_average(store: Store, trained: RunConfig, ref: ModelRef) -> Manifest | None:
    """Return the manifest of an average that was made of snapshots, or None if it was not.

    Raises:
        DamagedError: it is damaged; the command that makes it mends it.
        CheckpointError: it belongs to another experiment or data set.
    """
    run, step = trained.name, step_of_made(store, trained, ref)
    folder = layout.average_folder(run, ref.average, step)
    try:
        found = manifest.load(store, folder, checkpoint_expected(step))
        if found is not None:
            found.require_sizes(store)
    except DamagedError as error:
        command = layout.average_command(store, run, step, sigma_rel_in(ref.average) or 0.0)
        raise DamagedError(f"{error}: {command}") from None
    if found is None:
        return None
    require_origin(store, found, experiment=places.experiment(store, trained, found))
    if (pointer := dataset_pointer(store, run)) is not None:
        require_origin(store, found, dataset=pointer.fingerprint)
    return found


def _snapshot(store: Store, trained: RunConfig, step: int, average: str) -> Manifest | None:
    """Return the snapshot that keeps this average of a step, or None if there is no whole one."""
    folder = layout.snapshot_folder(trained.name, step)
    try:
        found = manifest.load(store, folder, checkpoint_expected(step))
        if found is None or average not in found.files:
            return None
        found.require_sizes(store)
    except DamagedError:
        return None
    require_origin(store, found, experiment=places.experiment(store, trained, found))
    if (pointer := dataset_pointer(store, trained.name)) is not None:
        require_origin(store, found, dataset=pointer.fingerprint)
    return found


def is_imported(checkpoint: Manifest) -> bool:
    """Say whether these are weights from outside, which no data set of ours belongs to."""
    return "imported" in checkpoint.body


def samples_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the run's samples, or None while they are not complete.

    Raises:
        DamagedError: they are damaged or others; the sample stage mends them.
        ConfigError, CheckpointError: as `weights_of`.
    """
    weights = weights_of(store, config)
    if weights is None:
        return None
    return _result(store, config, "sample", places.samples(store, config, weights))


def prompts_of(store: Store, config: RunConfig) -> list[str]:
    """Return the prompts that the run's samples are of, in turn; [] of none, or without samples.

    Raises:
        DamagedError, ConfigError, CheckpointError: as `samples_of`.
    """
    samples = samples_of(store, config)
    if samples is None or PROMPTS_ROLE not in samples.files:
        return []
    found: list[str] = json.loads(samples.read(store, PROMPTS_ROLE))
    return found


def evaluation_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the run's evaluation, or None while it is not complete.

    Raises:
        DamagedError: it is damaged or another's; the evaluate stage mends it.
        ConfigError, CheckpointError: as `weights_of`.
    """
    return _measured(store, config, "evaluate")


def has_foreign_network(store: Store, config: RunConfig) -> bool:
    """Say whether a feature network from outside is kept beside the run's data set already."""
    if config.evaluate.features == "trained":
        return False
    try:
        pointer = dataset_pointer(store, config.name)
    except DatasetDamagedError:
        return False
    if pointer is None:
        return False
    values = identity.foreign_features(config.evaluate)
    return store.exists(f"{layout.features_folder(pointer.folder, values)}/manifest.json")


def study_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the run's study, or None while it is not complete.

    Raises:
        DamagedError: it is damaged or another's; the study stage mends it.
        ConfigError, CheckpointError: as `weights_of`.
    """
    return _measured(store, config, "study")


def is_begun(store: Store, config: RunConfig, weights: Weights, stage: str) -> bool:
    """Say whether anything lies where a stage keeps what it makes of these weights."""
    pointer = dataset_pointer(store, config.name)
    if stage == "sample":
        place = places.samples(store, config, weights)
    elif stage in _MEASURED and pointer is not None:
        place = _MEASURED[stage](store, config, weights, pointer.fingerprint)
    else:
        return False
    return bool(store.names(place.folder))


def ablations_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the table of the run's ablations, or None while it is not complete.

    Raises:
        DamagedError: it is damaged or another's; the ablations stage mends it.
    """
    return _result(store, config, "ablations", places.ablations(store, config))


def _measured(store: Store, config: RunConfig, stage: str) -> Manifest | None:
    weights, pointer = weights_of(store, config), dataset_pointer(store, config.name)
    if weights is None or pointer is None:
        return None
    place = _MEASURED[stage](store, config, weights, pointer.fingerprint)
    return _result(store, config, stage, place)


def _result(store: Store, config: RunConfig, stage: str, place: Place) -> Manifest | None:
    with mended_by(store, config, stage):
        found = manifest.load(store, place.folder, place.expected, name=place.name)
        if found is not None:
            found.require_sizes(store)
    return found
