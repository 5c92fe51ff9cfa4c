"""What is to be found out, in units: ranges of images, each looked at in one way.

    study/<fingerprint>/
      sweep-ddim-20-000000-<digest>.safetensors    what the unit found: named arrays
      sweep-ddim-20-000000.json                    its manifest: it is finished
      manifest.json                                numbers, figures and sheets made of all units

What a unit finds follows from its name and the configuration, so it does not matter who works on
it, or how often.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.errors import RunConflictError
from ddpm_core.store import manifest
from ddpm_core.store.manifest import DamagedError, Expected, Manifest
from ddpm_core.store.storage import Store
from ddpm_core.study.settings import flow_refusal, swept

ARRAYS_ROLE = "arrays"
Found = dict[str, Tensor]
"""What a unit finds: arrays by their names, on the CPU."""

Kind = Literal[
    "bound",
    "ode",
    "sweep",
    "progress",
    "features",
    "neighbours",
    "decoding",
    "latents",
    "mixes",
    "depths",
    "round-trip",
]
"""bound: bits/dim by every term; ode: bits/dim by the probability flow; sweep: samples of one
sampler at one cost; progress: x_0_hat over the reverse steps; features: of real images;
neighbours: of samples among the training images; the rest: pictures."""

_FEATURE_IMAGES = 2500  # in a unit of real images: reading them is dearer than looking at them


@dataclass(frozen=True)
class Unit:
    """The images start ... stop - 1, looked at in one way."""

    kind: Kind
    part: str
    """which split, sampler, solver or space"""
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What its files begin with."""
        return f"{self.kind}-{self.part}-{self.start:06d}"

    @property
    def manifest_name(self) -> str:
        return f"{self.name}.json"


def units_of(
    config: RunConfig, num_train: int, num_test: int, *, has_features: bool = True
) -> list[Unit]:
    """Return all units, those that take longest first, so that workers end at the same time.

    Args:
        config: the run's.
        num_train: training images there are.
        num_test: held-out images there are.
        has_features: whether there is a feature network; without one nothing is looked for in
            feature space.
    """
    study = config.study
    of_features = (
        Unit("neighbours", "features", 0, min(study.num_images, config.sample.num_images)),
        *_cut("features", "train", num_train, _FEATURE_IMAGES),
        *_cut("features", "test", num_test, _FEATURE_IMAGES),
    )
    bound = {
        "train": min(study.num_likelihood_images, num_train),
        "test": min(study.num_likelihood_images, num_test),
    }
    shown = min(study.num_shown, num_test)
    has_flow = flow_refusal(config) is None
    num_ode = min(study.num_ode_images, num_test) if has_flow else 0
    return [
        *_cut("ode", "adaptive", num_ode, study.batch_size),
        *_cut("ode", "heun", num_ode, study.batch_size),
        *_cut("progress", "ancestral", study.num_images, study.batch_size),
        *(unit for split, total in bound.items()
          for unit in _cut("bound", split, total, study.batch_size)),
        *(unit for setting in sorted(swept(config)[0], key=lambda one: -one.num_steps)
          for unit in _cut("sweep", setting.name, study.num_images, study.batch_size)),
        Unit("latents", "quarters", 0, study.num_shown),
        *([Unit("mixes", "pairs", 0, shown), Unit("depths", "pair", 0, 2)] if num_test > 1 else []),
        *([Unit("round-trip", "ddim", 0, shown)] if has_flow else []),
        Unit("decoding", "test", 0, shown),
        Unit("neighbours", "pixels", 0, min(study.num_images, config.sample.num_images)),
        *(of_features if has_features else ()),
    ]  # fmt: skip


def _cut(kind: Kind, part: str, total: int, size: int) -> Iterator[Unit]:
    for start in range(0, total, size):
        yield Unit(kind, part, start, min(start + size, total))


def publish(store: Store, folder: str, unit: Unit, found: Found) -> None:
    """Write what a unit found and commit it.

    If it stands there already with other bytes (found on another kind of device, which rounds
    otherwise), that one counts, unless it is damaged.
    """
    data = safetensors.torch.save({name: array.contiguous() for name, array in found.items()})
    record = manifest.write_file(store, folder, unit.name, ".safetensors", data)
    body = _expected(folder, unit).body
    try:
        manifest.commit(store, folder, {ARRAYS_ROLE: record}, body, name=unit.manifest_name)
    except RunConflictError:
        if intact(store, folder, unit) is None:
            manifest.commit(store, folder, {ARRAYS_ROLE: record}, body, name=unit.manifest_name)


def intact(store: Store, folder: str, unit: Unit) -> Manifest | None:
    """Return the manifest of a finished unit whose file is whole, or None.

    A damaged one, and one of another study, is quarantined, which is logged: working on it again
    replaces it.
    """
    return manifest.intact(store, folder, _expected(folder, unit), name=unit.manifest_name)


def _expected(folder: str, unit: Unit) -> Expected:
    """Return what the manifest of a unit says of itself: what was looked at, for which study."""
    return Expected(
        {
            "study": folder.rpartition("/")[2],
            "kind": unit.kind,
            "part": unit.part,
            "start": unit.start,
            "stop": unit.stop,
        }
    )


def missing(store: Store, folder: str, units: Sequence[Unit]) -> list[Unit]:
    """Return the units that nobody has finished, in their order; every file is read."""
    present = set(store.names(folder))
    return [
        unit
        for unit in units
        if unit.manifest_name not in present or intact(store, folder, unit) is None
    ]


def read(store: Store, folder: str, unit: Unit) -> Found:
    """Return what a finished unit found, verified.

    Raises:
        DamagedError: it is not there, or not as it was committed.
    """
    committed = manifest.load(store, folder, _expected(folder, unit), name=unit.manifest_name)
    where = store.uri_of(f"{folder}/{unit.manifest_name}")
    if committed is None:
        raise DamagedError(f"{where} is gone; run the study stage again")
    try:
        found: Found = safetensors.torch.load(committed.read(store, ARRAYS_ROLE))
    except SafetensorError as error:
        raise DamagedError(f"the arrays of {where} cannot be read ({error})") from None
    return found
