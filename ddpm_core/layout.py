"""Where things lie under the root, and whether they are complete. Knows no torch.

    datasets/<data set>-<fingerprint>/   train-000000.tar ... index.json
    runs/<run>/run.json                  the configuration, written once
    runs/<run>/dataset.json              which data set the run uses
    runs/<run>/checkpoints/step_00001000/
    runs/<run>/samples/<fingerprint>/
    runs/<run>/evaluation/<fingerprint>/
    runs/<run>/study/<fingerprint>/
    runs/<run>/ablations/<fingerprint>/

A stage is done when the manifest at its place is committed: what these functions return.
"""

import json
from typing import Any

from ddpm_core import manifest
from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.manifest import Manifest
from ddpm_core.storage import KeyMissingError, Store

DATASET_INDEX = "index.json"
_SHORT = 16  # hex digits of a fingerprint in a folder's name


def run_folder(run: str) -> str:
    """Return the folder of a run."""
    return f"runs/{run}"


def run_json_key(run: str) -> str:
    """Return the key of the run's configuration."""
    return f"{run_folder(run)}/run.json"


def dataset_pointer_key(run: str) -> str:
    """Return the key of the file that names the run's data set."""
    return f"{run_folder(run)}/dataset.json"


def dataset_folder(name: str, data_fingerprint: str) -> str:
    """Return the folder of a data set, shared by all runs that use it."""
    return f"datasets/{name}-{data_fingerprint[:_SHORT]}"


def checkpoints_folder(run: str) -> str:
    """Return the folder of all checkpoints of a run."""
    return f"{run_folder(run)}/checkpoints"


def checkpoint_folder(run: str, step: int) -> str:
    """Return the folder of the checkpoint after `step` optimiser steps."""
    return f"{checkpoints_folder(run)}/step_{step:08d}"


def samples_folder(run: str, sampling_fingerprint: str) -> str:
    """Return the folder of one set of samples."""
    return f"{run_folder(run)}/samples/{sampling_fingerprint[:_SHORT]}"


def evaluation_folder(run: str, protocol_fingerprint: str) -> str:
    """Return the folder of one evaluation."""
    return f"{run_folder(run)}/evaluation/{protocol_fingerprint[:_SHORT]}"


def sample_fingerprint(config: RunConfig, ema_sha256: str) -> str:
    """Return what determines the samples: weights, network, diffusion and `sample`."""
    return fingerprint(
        {
            "ema": ema_sha256,
            "shape": list(config.data.shape),
            "model": config.model.model_dump(mode="json"),
            "diffusion": config.diffusion.model_dump(mode="json"),
            "precision": config.train.precision,
            "sample": config.sample.model_dump(mode="json"),
        }
    )


def evaluation_fingerprint(config: RunConfig, ema_sha256: str, dataset_fingerprint: str) -> str:
    """Return what determines the metrics: samples, data set and `evaluate`.

    A feature network from outside counts by its digest, not by where it lies.
    """
    return fingerprint(
        {
            "samples": sample_fingerprint(config, ema_sha256),
            "dataset": dataset_fingerprint,
            "evaluate": _protocol(config),
        }
    )


def _protocol(config: RunConfig) -> dict[str, Any]:
    protocol = config.evaluate.model_dump(mode="json")
    if config.evaluate.features != "trained":
        del protocol["features"]
    return protocol


def study_folder(run: str, study_fingerprint: str) -> str:
    """Return the folder of one study."""
    return f"{run_folder(run)}/study/{study_fingerprint[:_SHORT]}"


def study_fingerprint(config: RunConfig, ema_sha256: str, dataset_fingerprint: str) -> str:
    """Return what determines a study: what determines the metrics, and `study`."""
    return fingerprint(
        {
            "evaluation": evaluation_fingerprint(config, ema_sha256, dataset_fingerprint),
            "study": config.study.model_dump(mode="json", exclude={"ablation_steps"}),
        }
    )


def ablations_folder(run: str, ablations_fingerprint: str) -> str:
    """Return the folder of the table of a run's ablations."""
    return f"{run_folder(run)}/ablations/{ablations_fingerprint[:_SHORT]}"


def ablations_fingerprint(config: RunConfig) -> str:
    """Return what determines the six ablations and how they are measured."""
    return fingerprint(
        {
            "experiment": config.experiment(),
            "sample": config.sample.model_dump(mode="json"),
            "evaluate": _protocol(config),
            "steps": config.study.ablation_steps,
        }
    )


def dataset_pointer(store: Store, run: str) -> dict[str, str] | None:
    """Return `{"dataset": folder, "fingerprint": sha256}` of the run, or None before sharding.

    Raises:
        DataError: if the file is there and says something else.
    """
    key = dataset_pointer_key(run)
    try:
        pointer: Any = json.loads(store.read(key))
    except KeyMissingError:
        return None
    except ValueError:
        pointer = None
    if not isinstance(pointer, dict) or set(pointer) != {"dataset", "fingerprint"}:
        raise DataError(
            f"{store.uri_of(key)} does not name a data set; it must hold 'dataset' and "
            "'fingerprint'. Delete it and run the shard stage again"
        )
    return pointer


def dataset_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the index of the run's data set, or None while it is not complete."""
    pointer = dataset_pointer(store, config.name)
    if pointer is None:
        return None
    return manifest.load(store, pointer["dataset"], name=DATASET_INDEX)


def committed_steps(store: Store, run: str) -> list[int]:
    """Return the steps that have a checkpoint folder, newest first; committed or not."""
    names = store.names(checkpoints_folder(run))
    steps = [name.removeprefix("step_") for name in names if name.startswith("step_")]
    return sorted((int(step) for step in steps if step.isdigit()), reverse=True)


def newest_checkpoint(store: Store, run: str) -> Manifest | None:
    """Return the newest committed checkpoint that is neither retired nor quarantined, or None.

    Its files are verified when they are read, not here.
    """
    for step in committed_steps(store, run):
        found = manifest.load(store, checkpoint_folder(run, step))
        if found is not None:
            return found
    return None


def final_checkpoint(store: Store, config: RunConfig) -> Manifest | None:
    """Return the checkpoint after the last step of the training, or None before it is there.

    Raises:
        CheckpointError: if it belongs to another experiment.
    """
    found = manifest.load(store, checkpoint_folder(config.name, config.train.num_steps))
    if found is None:
        return None
    expected = fingerprint(config.experiment())
    if found.body.get("experiment") != expected:
        raise CheckpointError(
            f"{store.uri_of(found.folder)} was made by experiment "
            f"{str(found.body.get('experiment'))[:_SHORT]}, this configuration is "
            f"{expected[:_SHORT]}; give this run another name"
        )
    return found


def samples_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the run's samples, or None while they are not complete."""
    checkpoint = final_checkpoint(store, config)
    if checkpoint is None:
        return None
    digest = sample_fingerprint(config, checkpoint.files["ema"].sha256)
    return manifest.load(store, samples_folder(config.name, digest))


def evaluation_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the run's evaluation, or None while it is not complete."""
    checkpoint, pointer = final_checkpoint(store, config), dataset_pointer(store, config.name)
    if checkpoint is None or pointer is None:
        return None
    digest = evaluation_fingerprint(config, checkpoint.files["ema"].sha256, pointer["fingerprint"])
    return manifest.load(store, evaluation_folder(config.name, digest))


def study_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the run's study, or None while it is not complete."""
    checkpoint, pointer = final_checkpoint(store, config), dataset_pointer(store, config.name)
    if checkpoint is None or pointer is None:
        return None
    digest = study_fingerprint(config, checkpoint.files["ema"].sha256, pointer["fingerprint"])
    return manifest.load(store, study_folder(config.name, digest))


def ablations_of(store: Store, config: RunConfig) -> Manifest | None:
    """Return the manifest of the table of the run's ablations, or None while it is not complete."""
    return manifest.load(store, ablations_folder(config.name, ablations_fingerprint(config)))
