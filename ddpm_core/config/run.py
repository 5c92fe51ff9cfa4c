"""RunConfig: every knob of the pipeline, declared once.

The same object is the form in Prefect, the file `run.json`, and the parameters in MLflow.
Sections are frozen and refuse unknown keys: a typo must not train for a day.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ddpm_core.canonical import parse_json
from ddpm_core.config import agreement, limits
from ddpm_core.config.changes import changed
from ddpm_core.config.compute import ComputeConfig
from ddpm_core.config.data import DataConfig
from ddpm_core.config.diffusion import ChainConfig, DiffusionConfig
from ddpm_core.config.explain import explain
from ddpm_core.config.kinds import Kinds, kinds_of, shared_keys, with_kinds
from ddpm_core.config.measure import EvaluateConfig, StudyConfig
from ddpm_core.config.model import ModelConfig, UNetConfig
from ddpm_core.config.model.network import AUGMENT_NUMBERS, Role
from ddpm_core.config.sample import SampleConfig
from ddpm_core.config.section import RUN_NAME_PATTERN, Section, Uncounted
from ddpm_core.config.train import TrainConfig
from ddpm_core.diffusion.choices import is_learned
from ddpm_core.errors import ConfigError


class RunConfig(Section):
    """One run of the pipeline."""

    format_version: Literal[1] = 1
    """of the file run.json"""
    name: str = Field("run", pattern=RUN_NAME_PATTERN)
    """name of the run: at most 63 of a-z, 0-9, dot, dash and underscore, the first a letter or a
    digit"""
    data: DataConfig = DataConfig(num_test_images=297)
    model: ModelConfig = UNetConfig()
    diffusion: DiffusionConfig = ChainConfig()
    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    study: StudyConfig = StudyConfig()
    compute: ComputeConfig = ComputeConfig()

    @field_validator("name")
    @classmethod
    def _name_is_no_path(cls, name: str) -> str:
        if name.endswith(".") or ".." in name:
            raise ValueError(f"name={name!r} may not end in a dot or contain two in a row")
        return name

    @property
    def out_channels(self) -> int:
        """Channels of the network's output: twice the images', if it predicts the variance too."""
        return self.data.channels * (2 if is_learned(self.diffusion.variance) else 1)

    @property
    def num_parameters(self) -> int:
        """Parameters of the network, as torch builds it."""
        # Beside its classes a network that is given one has a row for none.
        rows = 0 if self.num_classes is None else self.num_classes + (self.role == "denoiser")
        of_augment = AUGMENT_NUMBERS * self.model.time_features if self.train.augment else 0
        return (
            of_augment
            + rows * self.model.row_size
            + self.model.num_parameters(
                in_channels=self.data.channels,
                out_channels=self.out_channels,
                height=self.data.height,
                width=self.data.width,
            )
        )

    @property
    def role(self) -> Role:
        """What the network says of x_t, on which it depends which stages the run has."""
        return self.model.role

    @property
    def num_classes(self) -> int | None:
        """Classes whose label the network is given, or says; None: neither."""
        if not self.model.uses_labels:
            return None
        return self.model.num_classes or self.data.num_classes

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        for rule in (*agreement.RULES, *limits.RULES):
            rule(self)
        return self

    # -- reading -----------------------------------------------------------------------------

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str = "run.json") -> Self:
        """Read a run.json, refusing duplicate keys, NaN, and anything large or deep.

        Raises:
            ConfigError: naming `origin`, and every key that is wrong.
        """
        return cls.from_dict(parse_json(text, origin=origin), origin=origin)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str = "configuration") -> Self:
        """Validate nested values; the error lists every wrong key at once.

        Raises:
            ConfigError: naming key, value, rule and remedy.
        """
        try:
            # By way of JSON, so that strict mode reads lists as the tuples they are written from.
            return cls.model_validate_json(json.dumps(with_kinds(values, cls.sections())))
        except ValidationError as error:
            lines = "\n".join(f"  {line}" for line in explain(cls, error))
            raise ConfigError(f"{origin} is not valid:\n{lines}") from None

    def replaced(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with `{"section.key": value}` changed, validated as a whole.

        A section whose kind is changed begins with the defaults of that kind. It, and a section
        that is given whole, keeps the keys that mean the same in every kind. A whole section comes
        before single keys of it.

        Raises:
            ConfigError: naming key, value, rule and remedy.
        """
        values = changed(self.model_dump(mode="json"), changes, self.sections())
        return type(self).from_dict(values, origin="the configuration with these changes")

    # -- comparing ---------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the text of run.json: indented, keys in the order they are declared."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def flat(self) -> dict[str, Any]:
        """Return `{"section.key": value}` of all sections."""
        return dict(_flatten(self.model_dump(mode="json")))

    def differences(self, other: "RunConfig") -> list[str]:
        """Return a line `key: ours -> theirs` for each key that makes another run.

        Keys that change no result may differ: see `Uncounted`.
        """
        free, ours, theirs = self.uncounted_keys(), self.flat(), other.flat()
        # What only one of two kinds has says no more than that they are two.
        return [
            f"{key}: {json.dumps(ours[key])} -> {json.dumps(theirs[key])}"
            for key in ours
            if key not in free and key in theirs and ours[key] != theirs[key]
        ]

    def housekeeping(self) -> dict[str, Any]:
        """Return `{"section.key": value}` of the keys whose change is allowed, and said."""
        flat, marks = self.flat(), self.uncounted_keys()
        return {key: flat[key] for key, mark in marks.items() if mark.is_said and key in flat}

    def defaults(self) -> dict[str, Any]:
        """Return `{"section.key": default}` of all sections, each of the kind that it has here."""
        # Not validated: a section of defaults alone need not be one that can be.
        sections = {name: type(getattr(self, name)).model_construct() for name in self.sections()}
        values = {name: section.model_dump(mode="json") for name, section in sections.items()}
        return dict(_flatten(values))

    @classmethod
    def keys(cls) -> list[str]:
        """Return every key that can be set, of all kinds of a section, as `flat` calls them."""
        sections = cls.sections()
        found: list[str] = []
        for name in cls.model_fields:
            kinds = sections.get(name, {}).values()
            found += [f"{name}.{key}" for one in kinds for key in one.model_fields] or [name]
        return list(dict.fromkeys(found))

    @classmethod
    def uncounted_keys(cls) -> dict[str, Uncounted]:
        """Return `{"section.key": mark}` of all keys that change no result."""
        return {
            f"{name}.{key}": mark
            for name, kinds in cls.sections().items()
            for section in kinds.values()
            for key, mark in section.uncounted().items()
        }

    @classmethod
    def shared_keys(cls) -> set[str]:
        """Return the keys that a section keeps when its kind is changed, as `flat` calls them."""
        sections = cls.sections().items()
        return {f"{name}.{key}" for name, kinds in sections for key in shared_keys(kinds)}

    @classmethod
    def sections(cls) -> dict[str, Kinds]:
        """Return `{"section": the kinds that it may have}`."""
        found = {name: kinds_of(field.annotation) for name, field in cls.model_fields.items()}
        return {name: kinds for name, kinds in found.items() if kinds}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
