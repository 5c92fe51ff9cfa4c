"""Where things lie under the root, and what determines them. Knows no torch.

datasets/<data set>-<fingerprint>/   train-000000.tar ... index.json
datasets/names/<name>/000001.json    which data set has a name, and had it before
runs/<run>/run.json                  the configuration, written once
runs/<run>/dataset.json              which data set the run uses
runs/<run>/birth.json                an id that differs for a later folder of this name
runs/<run>/mlflow/                   what a server of MLflow has of the run
runs/<run>/checkpoints/step_00001000/
runs/<run>/snapshots/step_00001000/  averages of power functions, kept for `average`
runs/<run>/averages/power_12/step_00001000/    one that was made of them
runs/<run>/previews/                 images and figures of some steps, made while it trained
runs/<run>/samples/<fingerprint>/    first-10000.json ...: however many are drawn
runs/<run>/evaluation/<fingerprint>/
runs/<run>/study/<fingerprint>/
runs/<run>/ablations/<fingerprint>/
"""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig, identity
from ddpm_core.config.identity import PRESENT, Rule
from ddpm_core.runs.protocol import protocol_identity
from ddpm_core.store.storage import Store

DATASET_INDEX = "index.json"
DATASET_NAMES = "datasets/names"
_FIRST = re.compile(r"first-[0-9]+\.json")
SHORT = 16  # hex digits of a fingerprint in a folder's name
Guide = Mapping[str, Any]
"""what determines the guidance by other weights, as `Weights.guide` says"""
NO_GUIDE: Guide = {}


def run_folder(run: str) -> str:
    """Return the folder of a run."""
    return f"runs/{run}"


def run_json_key(run: str) -> str:
    """Return the key of the run's configuration."""
    return f"{run_folder(run)}/run.json"


def dataset_pointer_key(run: str) -> str:
    """Return the key of the file that names the run's data set."""
    return f"{run_folder(run)}/dataset.json"


def birth_key(run: str) -> str:
    """Return the key of the file with the id of the run's folder."""
    return f"{run_folder(run)}/birth.json"


def tracking_folder(run: str) -> str:
    """Return the folder of what is known of the run's copy in MLflow."""
    return f"{run_folder(run)}/mlflow"


def dataset_folder(name: str, data_fingerprint: str) -> str:
    """Return the folder of a data set, shared by all runs that use it."""
    return f"datasets/{name}-{data_fingerprint[:SHORT]}"


def dataset_name_folder(name: str) -> str:
    """Return the folder of the entries of a data set's name."""
    return f"{DATASET_NAMES}/{name}"


def checkpoints_folder(run: str) -> str:
    """Return the folder of all checkpoints of a run."""
    return f"{run_folder(run)}/checkpoints"


def checkpoint_folder(run: str, step: int) -> str:
    """Return the folder of the checkpoint after `step` optimiser steps."""
    return f"{checkpoints_folder(run)}/step_{step:08d}"


def snapshots_folder(run: str) -> str:
    """Return the folder of all snapshots of a run's averages."""
    return f"{run_folder(run)}/snapshots"


def snapshot_folder(run: str, step: int) -> str:
    """Return the folder of the snapshot after `step` optimiser steps."""
    return f"{snapshots_folder(run)}/step_{step:08d}"


def averages_folder(run: str) -> str:
    """Return the folder of all averages that were made of snapshots: a folder for each width."""
    return f"{run_folder(run)}/averages"


def average_folder(run: str, average: str, step: int) -> str:
    """Return the folder of an average that was made of snapshots up to `step`."""
    return f"{averages_folder(run)}/{average}/step_{step:08d}"


def previews_folder(run: str) -> str:
    """Return the folder of what was drawn and measured while the run trained."""
    return f"{run_folder(run)}/previews"


def samples_folder(run: str, sampling_fingerprint: str) -> str:
    """Return the folder of one set of samples."""
    return f"{run_folder(run)}/samples/{sampling_fingerprint[:SHORT]}"


def whole_name(num_images: int) -> str:
    """Return the file name of the manifest of the first `num_images` samples of a folder."""
    return f"first-{num_images}.json"


def is_whole(name: str) -> bool:
    """Say whether a file name is that of the manifest of a result, and not of one of its units."""
    return name == "manifest.json" or _FIRST.fullmatch(name) is not None


def evaluations_folder(run: str) -> str:
    """Return the folder of all evaluations of a run."""
    return f"{run_folder(run)}/evaluation"


def evaluation_folder(run: str, protocol_fingerprint: str) -> str:
    """Return the folder of one evaluation."""
    return f"{evaluations_folder(run)}/{protocol_fingerprint[:SHORT]}"


def experiment_fingerprint(config: RunConfig, rule: Rule = PRESENT) -> str:
    """Return what determines the weights: `data`, `model`, `diffusion` and `train`."""
    return fingerprint(identity.experiment(config, rule))


def sample_set_fingerprint(config: RunConfig, sha256: str, guide: Guide = NO_GUIDE) -> str:
    """Return what determines each sample: weights, network, diffusion and how it is drawn.

    Args:
        config: the run's.
        sha256: of the weights.
        guide: `Weights.guide` of them.
    """
    return fingerprint({"ema": sha256, **guide, **identity.sample_set(config)})


def sample_fingerprint(
    config: RunConfig, ema_sha256: str, rule: Rule = PRESENT, guide: Guide = NO_GUIDE
) -> str:
    """Return what determines so many samples: `sample_set_fingerprint`, and their number."""
    return fingerprint({"ema": ema_sha256, **guide, **identity.samples(config, rule)})


def evaluation_fingerprint(
    config: RunConfig,
    ema_sha256: str,
    dataset_fingerprint: str,
    rule: Rule = PRESENT,
    guide: Guide = NO_GUIDE,
) -> str:
    """Return what determines the metrics: samples, data set and `evaluate`."""
    return fingerprint(
        {
            "samples": sample_fingerprint(config, ema_sha256, rule, guide),
            "dataset": dataset_fingerprint,
            "evaluate": identity.evaluation(config, rule),
            **protocol_identity(),
        }
    )


def features_folder(dataset: str, recipe: Mapping[str, Any]) -> str:
    """Return the folder of a feature network, beside the data set it belongs to."""
    return f"{dataset}/features-{fingerprint(recipe)[:SHORT]}"


def statistics_folder(dataset: str, made_of: Mapping[str, Any]) -> str:
    """Return the folder of the statistics of a split's features, beside the data set."""
    return f"{dataset}/statistics-{fingerprint(made_of)[:SHORT]}"


def study_folder(run: str, study_fingerprint: str) -> str:
    """Return the folder of one study."""
    return f"{run_folder(run)}/study/{study_fingerprint[:SHORT]}"


def study_fingerprint(
    config: RunConfig,
    ema_sha256: str,
    dataset_fingerprint: str,
    rule: Rule = PRESENT,
    guide: Guide = NO_GUIDE,
) -> str:
    """Return what determines a study: what determines the metrics, and `study`."""
    measured = evaluation_fingerprint(config, ema_sha256, dataset_fingerprint, rule, guide)
    return fingerprint(
        {
            "evaluation": measured,
            "study": identity.study(config, rule),
        }
    )


def ablations_folder(run: str, ablations_fingerprint: str) -> str:
    """Return the folder of the table of a run's ablations."""
    return f"{run_folder(run)}/ablations/{ablations_fingerprint[:SHORT]}"


def ablations_fingerprint(config: RunConfig, rule: Rule = PRESENT) -> str:
    """Return what determines the six ablations and how they are measured."""
    return fingerprint(
        {
            "experiment": identity.experiment(config, rule),
            "sample": identity.counted("sample", config.sample, rule),
            "evaluate": identity.evaluation(config, rule),
            "steps": config.study.ablation_steps,
            **protocol_identity(),
        }
    )


def stage_command(
    store: Store, run: str, stage: str, changes: Mapping[str, Any] | None = None
) -> str:
    """Return the command that runs a stage of a run again, to be copied into a shell.

    Args:
        store: where the run lies.
        run: its name.
        stage: which.
        changes: `{"section.key": value}` that differ from run.json.
    """
    options = [w for k, v in (changes or {}).items() for w in ("--set", f"{k}={json.dumps(v)}")]
    key = store.uri_of(run_json_key(run))
    return shlex.join(["python", "-m", "ddpm_core", stage, key, *options])


def average_command(store: Store, run: str, step: int, sigma_rel: float) -> str:
    """Return the command that makes an average of a run's snapshots, to be copied into a shell."""
    target = f"{store.uri_of(run_json_key(run))}@{step}"
    words = ["python", "-m", "ddpm_core", "average", target, "--sigma-rel", f"{sigma_rel:g}"]
    return shlex.join(words)


def committed_steps(store: Store, run: str) -> list[int]:
    """Return the steps that have a checkpoint folder, newest first; committed or not."""
    return steps_in(store, checkpoints_folder(run))


def steps_in(store: Store, folder: str) -> list[int]:
    """Return the steps that have a folder in this one, newest first; committed or not."""
    names = store.names(folder)
    steps = [name.removeprefix("step_") for name in names if name.startswith("step_")]
    return sorted((int(step) for step in steps if step.isdigit()), reverse=True)
