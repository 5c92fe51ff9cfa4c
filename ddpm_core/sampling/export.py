"""Samples as PNG files, 00000000.png and so on: what other programs read."""

import os
from collections.abc import Iterator
from pathlib import Path

from ddpm_core import layout, results
from ddpm_core.config import RunConfig
from ddpm_core.data.tar import members
from ddpm_core.errors import DataError, RunConflictError, StorageError
from ddpm_core.manifest import Manifest
from ddpm_core.progress import Progress
from ddpm_core.sampling.units import units_of
from ddpm_core.storage import Store


def export_samples(store: Store, config: RunConfig, folder: Path) -> int:
    """Write every sample of a run into `folder`, and return how many there are.

    The bytes are those in the run's shards, verified. A file that is there with the same bytes is
    left; so the same command continues an export that was killed.

    Args:
        store: the root.
        config: of the run; `sample` says which samples are meant.
        folder: on this machine; made if it is not there.

    Raises:
        DataError: there are no such samples, or they are damaged.
        RunConflictError: another file of that name stands in the folder.
        StorageError: the folder cannot be written.
    """
    samples = results.samples_of(store, config)
    if samples is None:
        raise DataError(
            f"run {config.name!r} has no complete samples of these settings below "
            f"{store.uri_of(layout.run_folder(config.name))}; run the sample stage first"
        )
    total, done = config.sample.num_images, 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in _pictures(store, config, samples):
            _put(folder / name, content)
            done += 1
            if done % 1000 == 0 or done == total:
                Progress("sample", done, total, "images", "exported").show()
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    return done


def _pictures(store: Store, config: RunConfig, samples: Manifest) -> Iterator[tuple[str, bytes]]:
    for unit in units_of(config.sample):
        archive = samples.read(store, unit.role)
        origin = store.uri_of(f"{samples.folder}/{samples.files[unit.role].name}")
        found = [one for one in members(archive, origin=origin) if one.name.endswith(".png")]
        expected = [f"{index:08d}.png" for index in range(unit.start, unit.stop)]
        if [one.name for one in found] != expected:
            raise DataError(
                f"{origin} does not hold {expected[0]} to {expected[-1]}; it is no unit of these "
                "samples. Sample again under another run name"
            )
        for one in found:
            yield one.name, archive[one.offset : one.offset + one.size]


def _put(path: Path, content: bytes) -> None:
    if path.exists():
        if path.read_bytes() != content:
            raise RunConflictError(
                f"{path} is another picture; it was left as it is: give an empty folder"
            )
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
