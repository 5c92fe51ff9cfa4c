"""What a report says of a run, read from its committed results."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ddpm_core.config import RunConfig
from ddpm_core.errors import PipelineError
from ddpm_core.runs import layout, named_data, places, results
from ddpm_core.runs.dataset_names import NamedSet, names_of
from ddpm_core.runs.numbers import Number
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.stages import STAGES
from ddpm_core.runs.weights import Weights
from ddpm_core.shards.index import Index, load_index
from ddpm_core.shards.lineage import made_of
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store

_PICTURE = ".png"
_METRICS, _HISTORY, _FIRST_IMAGES = "metrics", "history", "train-first"
"""roles of files"""


@dataclass(frozen=True)
class Picture:
    """A picture of a stage."""

    role: str
    png: bytes


@dataclass(frozen=True)
class Results:
    """What one stage left."""

    folder: str
    """its URI"""
    numbers: tuple[Number, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What stands in the manifests of a run; what is not there yet is left out."""

    config: RunConfig
    folder: str
    """the run's URI"""
    weights: Weights | None
    stages: Mapping[str, Results]
    """stage -> its result, in the pipeline's order"""
    missing: Mapping[str, str]
    """stage -> why it has no result that can be shown"""
    index: Index | None
    first_images: bytes | None
    """PNG of the first training images"""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """metrics.json of the evaluation"""
    curve: tuple[Mapping[str, float], ...] = ()
    """points of the training so far, each with its step"""
    step: int = 0
    """of the newest checkpoint"""
    named: tuple[NamedSet, ...] = ()
    """the data set by its names, with source and licence"""
    parts: tuple[str, ...] = ()
    """the data sets that it is made of, each with its weight"""


def gather(store: Store, config: RunConfig) -> Facts:
    """Read what a run has; verified, as every file of a manifest.

    Args:
        store: the root.
        config: of the run; `sample`, `evaluate` and `study` say which results are meant.

    Raises:
        StorageError: the storage does not answer.
    """
    found: dict[str, Results] = {}
    missing: dict[str, str] = {}
    manifests: dict[str, Manifest] = {}
    for stage in STAGES.values():
        if config.role not in stage.roles:
            continue
        try:
            result = stage.result(store, config)
            if result is None:
                continue
            numbers = tuple(stage.numbers.read(store, result))
            found[stage.name] = Results(
                store.uri_of(result.folder), numbers, tuple(_pictures(store, result))
            )
            manifests[stage.name] = result
        except PipelineError as error:
            missing[stage.name] = str(error)
    index, first = _dataset(store, config)
    newest = manifests.get("train") or next(places.committed(store, config.name), None)
    return Facts(
        config=config,
        folder=store.uri_of(layout.run_folder(config.name)),
        weights=_weights(store, config),
        stages=found,
        missing=missing,
        index=index,
        first_images=first,
        metrics=_json(store, manifests.get("evaluate"), _METRICS),
        curve=_curve(store, newest),
        step=0 if newest is None else int(newest.body["step"]),
        named=() if index is None else tuple(names_of(store, index.fingerprint)),
        parts=() if index is None else tuple(_parts(store, index)),
    )


def _pictures(store: Store, result: Manifest) -> Iterator[Picture]:
    if result.folder.startswith("datasets/"):
        return  # the data set's stands with its card
    for role, record in sorted(result.files.items()):
        if record.name.endswith(_PICTURE):
            yield Picture(role, result.read(store, role))


def _dataset(store: Store, config: RunConfig) -> tuple[Index | None, bytes | None]:
    try:
        pointer = results.dataset_pointer(store, config.name)
        if pointer is None:
            return None, None
        index = load_index(store, pointer.folder, pointer.fingerprint)
        first = index.manifest.files.get(_FIRST_IMAGES)
        return index, None if first is None else index.manifest.read(store, _FIRST_IMAGES)
    except PipelineError:
        return None, None


def _parts(store: Store, index: Index) -> Iterator[str]:
    for one in made_of(index.manifest):
        called = named_data.called(store, DatasetPointer(one.folder, one.fingerprint))
        yield called if one.weight is None else f"{called}, weight {one.weight}"


def _weights(store: Store, config: RunConfig) -> Weights | None:
    try:
        return results.weights_of(store, config)
    except PipelineError:
        return None


def _json(store: Store, result: Manifest | None, role: str) -> dict[str, Any]:
    if result is None or role not in result.files:
        return {}
    values: dict[str, Any] = json.loads(result.read(store, role))
    return values


def _curve(store: Store, checkpoint: Manifest | None) -> tuple[Mapping[str, float], ...]:
    if checkpoint is None or _HISTORY not in checkpoint.files:
        return ()
    try:
        lines = checkpoint.read(store, _HISTORY).splitlines()
    except PipelineError:
        return ()
    return tuple(json.loads(line) for line in lines)
