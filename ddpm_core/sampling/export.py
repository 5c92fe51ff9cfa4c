"""Samples as PNG files, 00000000.png and so on: what other programs read. Labels and
prompts are tables.
"""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError, RunConflictError, StorageError
from ddpm_core.images.names import bytes_of
from ddpm_core.progress import Progress
from ddpm_core.runs import layout, results
from ddpm_core.runs.stages import require_denoiser
from ddpm_core.sampling.plan import Plan, load_plan
from ddpm_core.sampling.units import read_pictures, units_of
from ddpm_core.store.storage import Store


def export_samples(store: Store, config: RunConfig, folder: Path) -> int:
    """Write every sample of a run into `folder`, and return how many there are.

    The bytes are those in the run's shards, verified. A file that is there with the same bytes is
    left; so the same command continues an export that was killed. Of a network of labels,
    labels.csv says the label of each image, and the name of the class where that is known; of one
    of texts, prompts.csv says the text of each.

    Args:
        store: the root.
        config: of the run; `sample` says which samples are meant.
        folder: on this machine; made if it is not there.

    Raises:
        DataError: there are no such samples, or they are damaged.
        RunConflictError: another file of that name stands in the folder.
        StorageError: the folder cannot be written.
    """
    require_denoiser(config, "export-samples")
    samples = results.samples_of(store, config)
    if samples is None:
        raise DataError(
            f"run {config.name!r} has no complete samples of these settings below "
            f"{store.uri_of(layout.run_folder(config.name))}; run the sample stage first"
        )
    total, plan = config.sample.num_images, load_plan(store, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for unit in units_of(config.sample):
            for name, content in read_pictures(store, samples, unit):
                _put(folder / name, content)
            Progress("sample", unit.stop, total, "images", "exported").show()
        if (labels := plan.labels(torch.arange(total))) is not None:
            _put_table(folder / "labels.csv", _table(plan, labels.tolist()))
        if plan.prompts:
            rows = ((index, plan.prompt(index)) for index in range(total))
            _put_table(folder / "prompts.csv", _csv(("index", "prompt"), rows))
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    return total


def _table(plan: Plan, labels: Sequence[int]) -> bytes:
    """Return the table of labels."""
    rows = (
        (index, label, plan.names[label] if plan.names else "")
        for index, label in enumerate(labels)
    )
    return _csv(("index", "label", "class"), rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a table with a row for each image; that of fewer images is its beginning."""
    table = io.StringIO(newline="")
    written = csv.writer(table, lineterminator="\n")
    written.writerow(head)
    written.writerows(rows)
    return bytes_of(table.getvalue())


def _put_table(path: Path, content: bytes) -> None:
    """Write the table, over one of fewer images; one of more is left."""
    found = path.read_bytes() if path.exists() else b""
    if found.startswith(content):
        return
    if content.startswith(found):
        path.unlink(missing_ok=True)
    _put(path, content)


def _put(path: Path, content: bytes) -> None:
    if path.exists():
        if path.read_bytes() != content:
            raise RunConflictError(
                f"{path} is another file; it was left as it is: give an empty folder"
            )
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
