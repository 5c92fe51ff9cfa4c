"""Samples are made, published and read in units: fixed ranges of consecutive indices.

    samples/<fingerprint>/
      000007-<digest>.tar    00000700.png, 00000700.json ({"index": 700, "seed": 0}), 00000701.png
      000007.json            manifest of the unit: it is finished
      000008-50.json         manifest of the first 50 images of a unit
      first-850.json         the first 850 images: all their units, in order, with how they were
                             made; and pictures for people

Of a network that takes labels the JSON of an image has its `label` and its `class` besides; of one
that takes texts its `prompt`.

What a unit holds follows from its number, so it does not matter who makes it, or how often. More
images are more units, beside those that there are. Of the last unit only as many images are drawn
as are asked for, and in the same batches: they are the same images as in the whole unit, which is
drawn when more are wanted.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from webdataset import TarWriter

from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import SampleConfig
from ddpm_core.errors import DataError
from ddpm_core.images import png
from ddpm_core.images.pixels import eight_bits
from ddpm_core.runs import layout
from ddpm_core.shards.tar import members
from ddpm_core.store import manifest
from ddpm_core.store.commit import write_file
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store
from ddpm_core.units.units import Units

_EXTENSIONS = ("png", "json")
IMAGES_ROLE = "images"
STRIP_ROLE = "strip"


@dataclass(frozen=True)
class Unit:
    """The images start ... stop - 1."""

    number: int
    start: int
    stop: int
    is_part: bool = False
    """whether there may be more of it, in a unit of its own"""

    @property
    def name(self) -> str:
        """What its files begin with."""
        return f"{self.number:06d}" + (f"-{self.stop - self.start}" if self.is_part else "")

    @property
    def body(self) -> dict[str, int]:
        """What its manifest says of it."""
        return {"number": self.number, "start": self.start, "stop": self.stop}

    @property
    def role(self) -> str:
        """What the folder's manifest calls its images."""
        return f"unit-{self.number:06d}"


def units_of(sample: SampleConfig, *, grows: bool = False) -> list[Unit]:
    """Return the units in order; only the last may be smaller than `unit_size`.

    Args:
        sample: how many images, and how they are cut.
        grows: whether such a last one is a part, as it is where the set may grow.
    """
    total, size = sample.num_images, sample.unit_size
    return [
        Unit(number, start, min(start + size, total), is_part=grows and start + size > total)
        for number, start in enumerate(range(0, total, size))
    ]


def bytes_of(samples: Manifest, sample: SampleConfig, start: int, stop: int) -> dict[str, str]:
    """Return what a result made of the images `start` to `stop` - 1 says of them: which bytes.

    Units that are drawn again on another kind of device are other bytes of the same samples.
    """
    units = [unit for unit in units_of(sample) if unit.start < stop and start < unit.stop]
    return {
        "samples_sha256": fingerprint(
            {"units": [samples.files[unit.role].sha256 for unit in units]}
        )
    }


def publish(
    store: Store,
    folder: str,
    unit: Unit,
    images: NDArray[Any],
    *,
    seed: int,
    about: Callable[[int], Mapping[str, Any]] = lambda _index: {},
    strip_png: bytes | None = None,
) -> Manifest:
    """Write the images (n, h, w, c) of a unit, uint8 or uint16, and commit its manifest.

    `about` returns what is written beside the image of an index, besides index and seed.
    """
    data = _tar(unit, images, lambda index: {**about(index), "index": index, "seed": seed})
    files = {IMAGES_ROLE: write_file(store, folder, unit.name, ".tar", data)}
    if strip_png is not None:
        files[STRIP_ROLE] = write_file(store, folder, STRIP_ROLE, ".png", strip_png)
    return Units[Unit](store, folder).publish(unit, files, {"seed": seed})


def finished(
    store: Store, folder: str, units: Sequence[Unit], *, unit_size: int | None = None
) -> dict[str, Manifest]:
    """Return name -> manifest of the units that are there, in the full lengths of their files.

    The bytes of the images are verified when they are read.

    Args:
        store: where.
        folder: of the samples.
        units: which; a part is there, too, if all of its unit is, or a longer part.
        unit_size: images of a whole unit; None if there are no parts.
    """
    part = units[-1] if units and units[-1].is_part else None  # only the last may be one
    longer = _longer(store.names(folder), part, unit_size) if part and unit_size else []
    published = Units[Unit](store, folder)
    found = published.finished([*units, *longer], by_length=True, read=(STRIP_ROLE,))
    kept = {unit.name: found[unit.name] for unit in units if unit.name in found}
    for one in longer:
        if part is not None and one.name in found:
            kept[part.name] = found[one.name]
    return kept


def _longer(names: Sequence[str], unit: Unit, unit_size: int) -> list[Unit]:
    """Return what else may hold the images of a part: longer parts that are there, and its unit."""
    manifests = (re.fullmatch(rf"{unit.number:06d}-([0-9]+)\.json", name) for name in names)
    stops = (unit.start + int(found[1]) for found in manifests if found is not None)
    end = unit.start + unit_size
    parts = [Unit(unit.number, unit.start, stop, True) for stop in stops if unit.stop < stop < end]
    return [*parts, Unit(unit.number, unit.start, end)]


def set_aside(store: Store, samples: Manifest, unit: Unit, reason: str) -> None:
    """Quarantine a unit, and all wholes of its folder: the sample stage draws it again.

    The stage compares lengths; changed bytes are found when the images are read. A whole without
    this unit is published again by the stage without any work.
    """
    folder = samples.folder
    drawn_as = samples.files[unit.role].name.rpartition("-")[0]
    wholes = filter(layout.is_whole, store.names(folder))
    for name in (f"{drawn_as}.json", *wholes):
        manifest.quarantine(store, folder, reason, name=name)


def read_unit(
    store: Store, samples: Manifest, unit: Unit, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return the images (n, h, w, c) of a unit of complete samples, verified; of 16 bits 8.

    A damaged unit is set aside: see `set_aside`.

    Args:
        store: where.
        samples: the manifest of the whole folder.
        unit: which.
        shape: (channels, height, width) of one image.

    Raises:
        DamagedError: the file is not the one that was committed.
        DataError: it does not hold the unit's images.
    """
    with _set_aside_if_damaged(store, samples, unit):
        return check_archive(store, samples, unit, shape)


def read_pictures(store: Store, samples: Manifest, unit: Unit) -> list[tuple[str, bytes]]:
    """Return name and bytes of the PNG file of each image of a unit; raises as `read_unit`."""
    with _set_aside_if_damaged(store, samples, unit):
        return _pictures(store, samples, unit)


def check_archive(
    store: Store,
    samples: Manifest,
    unit: Unit,
    shape: tuple[int, int, int],
    dtype: DTypeLike | None = None,
) -> NDArray[np.uint8]:
    """Return the images of a unit as `read_unit`, and change nothing where they are damaged.

    `dtype` is what the files must hold; None: either of `png.DEPTHS`. Raises as `read_unit`.
    """
    depths = png.DEPTHS if dtype is None else (np.dtype(dtype),)
    channels, height, width = shape
    origin = store.uri_of(f"{samples.folder}/{samples.files[unit.role].name}")
    images = [
        png.decode(content, (height, width, channels), origin=f"{origin}: {name}", depths=depths)
        for name, content in _pictures(store, samples, unit)
    ]
    return eight_bits(np.stack(images))


@contextmanager
def _set_aside_if_damaged(store: Store, samples: Manifest, unit: Unit) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        set_aside(store, samples, unit, str(error))
        raise


def _pictures(store: Store, samples: Manifest, unit: Unit) -> list[tuple[str, bytes]]:
    """Return name and bytes of the PNG file of each image."""
    archive = samples.read(store, unit.role)
    origin = store.uri_of(f"{samples.folder}/{samples.files[unit.role].name}")
    found = members(archive, origin=origin)
    # Of a set that has grown the file may hold more of the unit than these images.
    count = max(unit.stop - unit.start, len(found) // len(_EXTENSIONS))
    expected = [
        f"{index:08d}.{extension}"
        for index in range(unit.start, unit.start + count)
        for extension in _EXTENSIONS
    ]
    if [member.name for member in found] != expected:
        raise DataError(
            f"{origin} holds {len(found)} files that are not {expected[0]} to {expected[-1]}; it "
            "is no unit of these samples. Sample again under another run name"
        )
    return [
        (member.name, archive[member.offset : member.offset + member.size])
        for member in found[:: len(_EXTENSIONS)][: unit.stop - unit.start]
    ]


def first_images(
    store: Store, samples: Manifest, sample: SampleConfig, shape: tuple[int, int, int], count: int
) -> NDArray[np.uint8]:
    """Return the first `count` images (n, h, w, c), fewer if there are fewer.

    Raises:
        DamagedError, DataError: as `read_unit`.
    """
    wanted = [unit for unit in units_of(sample) if unit.start < count]
    read = [read_unit(store, samples, unit, shape) for unit in wanted]
    return np.concatenate(read)[:count]


def _tar(unit: Unit, images: NDArray[Any], about: Callable[[int], Mapping[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    with TarWriter(buffer, user="ddpm", group="ddpm", mtime=0, encoder=False) as writer:
        for index, image in zip(range(unit.start, unit.stop), images, strict=True):
            contents = png.encode(image), canonical_json(about(index))
            for extension, content in zip(_EXTENSIONS, contents, strict=True):
                # One by one: given both at once it sorts them.
                writer.write({"__key__": f"{index:08d}", extension: content})
    return buffer.getvalue()
