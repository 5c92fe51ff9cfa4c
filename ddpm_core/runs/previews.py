"""Previews of a run: a few images and a figure of each of some steps. Knows no torch.

    runs/<run>/previews/step_00000400.json           manifest
                        step_00000400-<sha256>.png   the images, on one sheet

A preview is of the weights in the middle of a training, of which there need be no checkpoint. So it
is made while they are there, or not at all, and nothing rests on it.
"""

import re
from collections.abc import Callable

from ddpm_core.runs import layout
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store

SHEET = "sheet"
"""what the manifest calls the picture"""
_NAME = re.compile(r"(step_[0-9]{8,10})\.json")


def stem_of(step: int) -> str:
    """Return what the files of the preview after `step` steps begin with."""
    return f"step_{step:08d}"


def name_of(step: int) -> str:
    """Return the file name of the manifest of the preview after `step` steps."""
    return f"{stem_of(step)}.json"


def expected(step: int, experiment: str | None = None) -> Expected:
    """Return the identity of the preview of `step`; of this experiment, if it is given."""
    return Expected({"step": step, **({} if experiment is None else {"experiment": experiment})})


def steps(store: Store, run: str) -> list[int]:
    """Return the steps whose preview has a manifest, in order; it may be quarantined.

    Raises:
        StorageError: the storage does not answer.
    """
    names = map(_NAME.fullmatch, store.names(layout.previews_folder(run)))
    return sorted(int(found[1].removeprefix("step_")) for found in names if found is not None)


def intact(
    store: Store, run: str, experiment_of: Callable[[Manifest], str], *, since: int
) -> set[int]:
    """Return the steps from `since` on whose preview is there, whole and of its experiment.

    Others are quarantined, and so made again.

    Args:
        store: where.
        run: name of the run.
        experiment_of: returns the fingerprint that a preview must have.
        since: a step.

    Raises:
        StorageError: the storage does not answer.
    """
    folder, found = layout.previews_folder(run), set()
    for step in steps(store, run):
        if step < since:
            continue
        there = manifest.intact(store, folder, expected(step), name=name_of(step))
        if there is None:
            continue
        wanted = expected(step, experiment_of(there))
        if manifest.intact(store, folder, wanted, name=name_of(step), check=Manifest.require_sizes):
            found.add(step)
    return found


def load(store: Store, run: str, step: int) -> Manifest | None:
    """Return the preview after `step` steps, or None if there is none or it is quarantined.

    Raises:
        DamagedError: its manifest is not the one that was committed, or of another step.
        StorageError: the storage does not answer.
    """
    return manifest.load(store, layout.previews_folder(run), expected(step), name=name_of(step))


def figures(preview: Manifest) -> dict[str, float]:
    """Return what was measured, by its name in MLflow; those of two kinds of weights differ."""
    loss = preview.body.get("loss")
    return {} if loss is None else {f"preview/loss_{preview.body['average']}": float(loss)}
