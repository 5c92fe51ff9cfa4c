"""What image i is of: a function of the configuration, the data set's classes and captions, and i.

No worker, unit or batch shows in it, nor how many images there are: the first of more are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning, LowRes
from ddpm_core.config import RunConfig
from ddpm_core.config.prompts import cut_text, lacking
from ddpm_core.errors import ConfigError
from ddpm_core.runs.lower import lower_of, require_no_labels
from ddpm_core.runs.reference import scored_by
from ddpm_core.sampling.captions import captions_named
from ddpm_core.sampling.held_out import held_out_plan
from ddpm_core.shards.classes import (
    Classes,
    classes_text,
    known_classes,
    label_numbers,
    labelled_classes,
    require_labels,
)
from ddpm_core.store.storage import Store
from ddpm_core.text.tokens import encode


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
    prompts: tuple[str, ...] = ()
    """the texts of images 0, 1, ... and again from the first; empty: the network is given none"""
    text_length: int = 0
    """tokens of a text, where there are prompts"""

    @classmethod
    def of_payload(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan whose fields went through JSON."""
        return cls(
            tuple(values["in_turn"]),
            tuple(values["counts"]),
            tuple(values["names"]),
            values["seed"],
            tuple(values["prompts"]),
            values["text_length"],
        )

    @property
    def has_classes(self) -> bool:
        """Whether the images are of classes."""
        return bool(self.in_turn or self.counts)

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

    def conditioning(self, positions: Tensor, *, low: LowRes | None = None) -> Conditioning:
        """Return what is said of the images at these positions, (b,) int64.

        A text of which the network reads the beginning alone is cut.

        Args:
            positions: of the images.
            low: the low resolution of each; None: they have none.
        """
        labels, text = self.labels(positions), None
        if self.prompts:
            texts = [self.prompt(index) for index in positions.tolist()]
            text = encode([one or "" for one in texts], self.text_length)
        given = Conditioning(label=labels, text=text, low=low)
        return given.to(positions.device) if given.parts else NOTHING

    def prompt(self, index: int) -> str | None:
        """Return the text of image `index`, whole; None where the network is given none."""
        return self.prompts[index % len(self.prompts)] if self.prompts else None

    @property
    def cut(self) -> str | None:
        """What to say of prompts that the network reads the beginning of; None: it reads all."""
        return cut_text(self.prompts, self.text_length)

    def name(self, label: int) -> str:
        """Return the name of a class; its number if it has none."""
        return self.names[label] if self.names else str(label)

    def about(self, index: int) -> dict[str, Any]:
        """Return what is written beside image `index`, as JSON values."""
        labels, said = self.labels(torch.tensor([index])), {}
        if labels is not None:
            label = int(labels)
            said = {"label": label, **({"class": self.names[label]} if self.names else {})}
        return said if not self.prompts else {**said, "prompt": self.prompt(index)}


def plan_of(
    config: RunConfig,
    classes: Classes | None,
    captions: Sequence[str] | None = None,
    *,
    score: RunConfig | None = None,
    may_lack_prompts: bool = False,
) -> Plan:
    """Return what the samples of a run are of.

    Args:
        config: the run's.
        classes: that the labels of its samples stand for, see `labelled_classes`; None: there are
            none, or not known, as of imported weights.
        captions: that `sample.prompts` names by a word; None: they are not known.
        score: the network whose gradient guides; None: there is none.
        may_lack_prompts: whether they may come with each request, where none are known.

    Raises:
        ConfigError: `sample.labels` needs a data set, or names no class of it; `sample.prompts`
            needs captions.
    """
    plan = plan_of_classes(config, classes)
    reader = config if config.model.uses_text else score
    if reader is None or not reader.model.uses_text:
        return plan
    prompts = config.sample.prompts
    if isinstance(prompts, str):
        if not captions and not may_lack_prompts:
            raise lacking(prompts)
        prompts = tuple(captions or ())
    return replace(plan, prompts=prompts, text_length=reader.model.text_length)


def plan_of_classes(config: RunConfig, classes: Classes | None) -> Plan:
    """As `plan_of`, and says nothing of prompts."""
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


def _require_names(store: Store, config: RunConfig, plan: Plan) -> None:
    """Refuse labels of what is enlarged that stand for other classes here."""
    own = None if config.num_classes is None else known_classes(store, config)
    if own is not None and plan.names and plan.names != own.names:
        raise ConfigError(
            f"sample.low_from={config.sample.low_from!r}: its labels stand for other classes: "
            f"{classes_text(own.names)} here and {classes_text(plan.names)} there; name a run of "
            "these classes"
        )


def load_plan(store: Store, config: RunConfig, *, may_lack_prompts: bool = False) -> Plan:
    """Return what the samples of a run are of, by the classes that its weights were trained with.

    Those that a run of `model.low_size` enlarges say it: the samples of another run, or held-out
    images.
    Arguments as of `plan_of`.

    Raises:
        ConfigError: as `plan_of`, `labelled_classes`, `lower_of` and `require_no_labels`.
        DataError: as `labelled_classes` and `held_out_plan`.
    """
    if config.model.low_size is None:
        classes, score = labelled_classes(store, config), scored_by(store, config)
        captions = captions_named(store, config)
        return plan_of(config, classes, captions, score=score, may_lack_prompts=may_lack_prompts)
    require_no_labels(config)
    lower = lower_of(store, config)
    if lower is not None:
        plan = load_plan(store, lower, may_lack_prompts=may_lack_prompts)
        _require_names(store, config, plan)
    else:
        labels, names, captions = held_out_plan(store, config)
        plan = Plan(in_turn=labels, names=names, prompts=captions)
    # Texts of the stage before are read as this network reads them.
    return replace(plan, text_length=config.model.text_length) if config.model.uses_text else plan
