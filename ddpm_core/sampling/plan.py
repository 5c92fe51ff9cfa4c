"""What image i is of: a function of the configuration, the data set's classes, and i alone.

No worker, unit or batch shows in it, nor how many images there are: the first of more are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import RunConfig
from ddpm_core.shards.classes import Classes, label_numbers, labelled_classes, require_labels
from ddpm_core.store.storage import Store


@dataclass(frozen=True)
class Plan:
    """What the images of a set of samples are of; of JSON values."""

    in_turn: tuple[int, ...] = ()
    """the labels of images 0, 1, ... and again from the first; empty: see `counts`"""
    counts: tuple[int, ...] = ()
    """images of each class among which one is drawn for each image; empty and no labels in turn:
    the images are of nothing"""
    names: tuple[str, ...] = ()
    """of the classes, by label; empty: they have none"""
    seed: int = 0
    """of what is drawn"""

    @classmethod
    def of_payload(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan whose fields went through JSON."""
        return cls(
            tuple(values["in_turn"]),
            tuple(values["counts"]),
            tuple(values["names"]),
            values["seed"],
        )

    def labels(self, positions: Tensor) -> Tensor | None:
        """Return the label of the images at these positions, (b,) int64 on their device.

        None where images are of nothing.
        """
        if self.in_turn:
            in_turn = torch.tensor(self.in_turn, device=positions.device)
            return in_turn[positions % len(self.in_turn)]
        if not self.counts:
            return None
        ends = torch.tensor(self.counts, device=positions.device).cumsum(0)
        key = seeding.key(self.seed, "sample_label")
        drawn = seeding.uniform_int(key, 0, positions, sum(self.counts))
        return torch.searchsorted(ends, drawn, right=True)

    def conditioning(self, positions: Tensor) -> Conditioning:
        """Return what the network is given of the images at these positions, (b,) int64."""
        labels = self.labels(positions)
        return NOTHING if labels is None else Conditioning(label=labels)

    def name(self, label: int) -> str:
        """Return the name of a class; its number if it has none."""
        return self.names[label] if self.names else str(label)

    def about(self, index: int) -> dict[str, Any]:
        """Return what is written beside image `index`, as JSON values."""
        labels = self.labels(torch.tensor([index]))
        if labels is None:
            return {}
        label = int(labels)
        return {"label": label, **({"class": self.names[label]} if self.names else {})}


def plan_of(config: RunConfig, classes: Classes | None) -> Plan:
    """Return what the samples of a run are of.

    Args:
        config: the run's.
        classes: that the labels of its samples stand for, see `labelled_classes`; None: there are
            none, or not known, as of imported weights.

    Raises:
        ConfigError: `sample.labels` needs a data set, or names no class of it.
    """
    num_classes, is_guided = config.num_classes, config.sample.guidance_by is not None
    if num_classes is None and is_guided and classes is not None:  # by a classifier, to them
        num_classes = len(classes.names)
    if num_classes is None:
        return Plan()
    names = () if classes is None else classes.names
    require_labels(config, None if classes is None else names)
    match config.sample.labels:
        case "balanced":
            return Plan(in_turn=tuple(range(num_classes)), names=names)
        case "training":
            counts = () if classes is None else classes.counts
            return Plan(counts=counts, names=names, seed=config.sample.seed)
        case _:
            return Plan(in_turn=label_numbers(config, names or None), names=names)


def load_plan(store: Store, config: RunConfig) -> Plan:
    """Return what the samples of a run are of, by the classes that its weights were trained with.

    Raises:
        ConfigError: as `plan_of` and `labelled_classes`.
        DataError: as `labelled_classes`.
    """
    return plan_of(config, labelled_classes(store, config))
