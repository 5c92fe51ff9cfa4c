"""Units that measure a range of images in one way; their results are named arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ddpm_core.store.commit import write_file
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.units.units import Units, manifest_name

ARRAYS_ROLE = "arrays"
Arrays = dict[str, Tensor]
"""The result of a unit: arrays by name, on the CPU."""

K = TypeVar("K", bound=str)


@dataclass(frozen=True)
class Range(Generic[K]):
    """The images start ... stop - 1, measured in one way."""

    kind: K
    part: str
    """which split, sampler, solver or space"""
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What its files begin with."""
        return f"{self.kind}-{self.part}-{self.start:06d}"

    @property
    def body(self) -> dict[str, Any]:
        """What its manifest says of it."""
        return {"kind": self.kind, "part": self.part, "start": self.start, "stop": self.stop}

    @classmethod
    def cut(cls, kind: K, part: str, total: int, size: int) -> Iterator[Self]:
        """Yield units of `size` images, the last perhaps smaller, of the first `total`."""
        for start in range(0, total, size):
            yield cls(kind, part, start, min(start + size, total))


def publish(units: Units[Range[K]], unit: Range[K], found: Arrays) -> Manifest:
    """Write the result of a unit and commit it, as `Units.publish`."""
    data = safetensors.torch.save({name: array.contiguous() for name, array in found.items()})
    record = write_file(units.store, units.folder, unit.name, ".safetensors", data)
    return units.publish(unit, {ARRAYS_ROLE: record})


def read(units: Units[Range[K]], unit: Range[K]) -> Arrays:
    """Return the result of a finished unit, verified.

    Raises:
        DamagedError: as `Units.read`.
    """
    try:
        found: Arrays = safetensors.torch.load(units.read(unit, ARRAYS_ROLE))
    except SafetensorError as error:
        where = units.store.uri_of(f"{units.folder}/{manifest_name(unit)}")
        reason = f"the arrays of {where} cannot be read ({error}); the stage makes it again"
        units.set_aside(unit, reason)
        raise DamagedError(reason) from None
    return found


@dataclass(frozen=True)
class Findings(Generic[K]):
    """Results of finished units, in the order of their images; read on access."""

    published: Units[Range[K]]
    units: Sequence[Range[K]]

    def has(self, kind: K, part: str) -> bool:
        """Return whether there are such units."""
        return any((unit.kind, unit.part) == (kind, part) for unit in self.units)

    def each(self, kind: K, part: str) -> Iterator[Arrays]:
        """Yield the results of the units of a part, one in memory at a time."""
        chosen = [unit for unit in self.units if (unit.kind, unit.part) == (kind, part)]
        for unit in sorted(chosen, key=lambda one: one.start):
            yield read(self.published, unit)

    def num_images(self, kind: K, part: str) -> int:
        """Return how many images the units of a part are of."""
        chosen = [unit for unit in self.units if (unit.kind, unit.part) == (kind, part)]
        return sum(unit.stop - unit.start for unit in chosen)

    def one(self, kind: K, part: str) -> Arrays:
        """Return the result of the one unit of a part."""
        (found,) = self.each(kind, part)
        return found

    def rows(self, kind: K, part: str, name: str) -> Tensor:
        """Return an array of all units of a part, one below the other."""
        return torch.cat([found[name] for found in self.each(kind, part)])
