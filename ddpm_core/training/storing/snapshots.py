"""Snapshots of the averages of power functions, of which an average of any width can be made.

    snapshots/step_00001000/power_05-<sha256>.safetensors    an average and nothing else
                            power_1-<sha256>.safetensors
                            manifest.json

Retention deletes checkpoints and keeps these: 4 bytes for each parameter and average, of a
checkpoint's 16 and more. One is committed before the checkpoint of its step, so that a training
which is killed in between makes it again; of two that differ by rounding the first counts.
"""

from ddpm_core.runs import layout
from ddpm_core.store.commit import commit_first, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.storage import Store
from ddpm_core.training.storing.checkpoint import Fetch, Origin, Parts, file_of


def keep(
    store: Store,
    run: str,
    origin: Origin,
    step: int,
    averages: Parts,
    *,
    fetch: Fetch | None = None,
) -> None:
    """Commit the snapshot after `step` steps.

    Args:
        store: where.
        run: name of the run.
        origin: what it belongs to.
        step: completed optimiser steps.
        averages: the averages of power functions, by the names that a checkpoint has for them.
        fetch: as of `checkpoint.write_parts`.

    Raises:
        StorageError: the storage refuses or does not answer.
    """
    folder = layout.snapshot_folder(run, step)
    body = {"step": step, "experiment": origin.experiment, "dataset": origin.dataset}
    files = {
        role: write_file(store, folder, role, ".safetensors", file_of(role, tensors, fetch))
        for role, tensors in averages.items()
    }
    commit_first(store, folder, files, body, Expected(body))
