"""The train stage: a group of workers carries the run from its newest checkpoint to the end."""

import logging

from ddpm_core import cluster
from ddpm_core.cluster import group
from ddpm_core.cluster.connection import uses_gpu
from ddpm_core.config import RunConfig
from ddpm_core.config.doubts import doubts
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.build import end_warning, require_guidance, require_process
from ddpm_core.machine import multiplies_bfloat16
from ddpm_core.progress import WARNING, Progress
from ddpm_core.runs import base, going_on, layout, lease, results
from ddpm_core.runs.run import require_feature_file
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards.classes import (
    classes_text,
    labelled_classes,
    require_classes,
    require_labels,
)
from ddpm_core.shards.index import load_index
from ddpm_core.shards.one_class import distance_warning
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store
from ddpm_core.tracking import open_tracker
from ddpm_core.training import start
from ddpm_core.training.storing import checkpoint
from ddpm_core.training.worker import deliver_curve, payload_of, train_worker

_log = logging.getLogger(__name__)

_LARGE = 5_000_000
"""parameters from which the products of matrices are most of a step"""


def run_train(store: Store, config: RunConfig) -> None:
    """Train to the last step, unless that checkpoint is there already and whole.

    If it is, what MLflow may have missed of the curves is sent.

    Raises:
        RunConflictError: another process trains this run.
        ConfigError: the cluster cannot hold the workers, or the evaluation would lack its file.
        DataError: the data set cannot be made or used.
        CheckpointError: there are checkpoints and none to continue from, or of something else.
        DivergenceError: the training failed; its last good checkpoint stands.
        StorageError: the storage refuses or does not answer.
        ClusterError: the cluster cannot be reached, or lost the workers too often.
    """
    config, num_steps = base.pinned(store, config), config.train.num_steps
    done = checkpoint.complete(store, config)
    if done is not None:
        with open_tracker(store, config, stage="train") as tracker:
            deliver_curve(tracker, store, done)
        note = f"done already: {store.uri_of(done.folder)}"
        Progress("train", num_steps, num_steps, "steps", note).show()
        return
    checkpoint.refuse_damaged_import(store, config)
    of_base = base.require_fit(store, config)
    if not results.has_foreign_network(store, config):
        require_feature_file(config)  # not after days of training
    require_process(config)
    require_guidance(config)
    for warning in (end_warning(config), of_base, *doubts(config)):
        if warning is not None:
            _log.warning("%s%s", WARNING, warning)
    with lease.held(store, config.name):
        config = going_on.as_on_record(store, config)  # what it goes on from may be newer by now
        going_on.keep(store, config)
        if not _has_dataset(store, config):
            run_shard(store, config)  # so that one command trains, on a cluster too
        if config.num_classes is not None:
            _show_classes(store, config)
        if (warning := distance_warning(store, config)) is not None:
            _log.warning("%s%s", WARNING, warning)
        start.copy_base(store, config)
        payload = payload_of(store, config)
        # The worker of rank 0 logs; if it is killed with the group, its end is noted from here.
        with cluster.connect(config.compute), open_tracker(store, config, stage="train"):
            if (hint := _idle_units(config)) is not None:
                Progress("train", 0, num_steps, "steps", hint).show()
            group.train_group(train_worker, payload, config.compute, name=config.name)
    if results.final_checkpoint(store, config) is None:
        folder = layout.checkpoint_folder(config.name, num_steps)
        raise CheckpointError(
            f"all workers ended, but {store.uri_of(folder)} is not there; all nodes must see the "
            "same storage: use s3:// or a shared folder as root"
        )


def _idle_units(config: RunConfig) -> str | None:
    """Return what to say where a large network is trained beside matrix units that do nothing."""
    precision = config.train.precision
    if precision not in ("auto", "float32") or config.num_parameters < _LARGE:
        return None
    if not multiplies_bfloat16() or uses_gpu(config.compute):
        return None
    return (
        f"this processor multiplies matrices in bfloat16, and train.precision={precision} does not "
        "use that: a run with --set train.precision=bfloat16 trains about twice as fast"
    )


def _show_classes(store: Store, config: RunConfig) -> None:
    """Print the classes that are trained on; refuse others than network and samples have."""
    if (pointer := results.dataset_pointer(store, config.name)) is None:
        return  # damaged a moment ago: the workers refuse it
    index = load_index(store, pointer.folder, pointer.fingerprint)
    require_classes(config, index.label.names)
    labels = labelled_classes(store, config)
    require_labels(config, None if labels is None else labels.names)
    text = classes_text(index.label.names, index.label.counts["train"])
    Progress("train", 0, config.train.num_steps, "steps", f"classes: {text}").show()


def _has_dataset(store: Store, config: RunConfig) -> bool:
    """Say whether the run has its data set; a damaged one the shard stage mends."""
    try:
        return results.dataset_of(store, config) is not None
    except DamagedError:
        return False
