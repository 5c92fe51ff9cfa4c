"""RunConfig: every knob of the pipeline, declared once.

The same object is the form in Prefect, the file `run.json`, and the parameters in MLflow.
Sections are frozen and refuse unknown keys: a typo must not train for a day.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ddpm_core.canonical import parse_json
from ddpm_core.config.changes import changed
from ddpm_core.config.compute import ComputeConfig
from ddpm_core.config.data import DataConfig
from ddpm_core.config.diffusion import (
    BinomialConfig,
    ChainConfig,
    ContinuousConfig,
    DiffusionConfig,
)
from ddpm_core.config.explain import explain
from ddpm_core.config.kinds import Kinds, kinds_of, shared_keys, with_kinds
from ddpm_core.config.measure import EvaluateConfig, StudyConfig
from ddpm_core.config.model import ModelConfig, UNetConfig
from ddpm_core.config.sample import SampleConfig
from ddpm_core.config.section import Section, Uncounted
from ddpm_core.config.train import TrainConfig
from ddpm_core.diffusion.choices import (
    is_learned,
    is_of_one_step,
    require_possible,
    require_samplable,
)
from ddpm_core.errors import ConfigError

_MAX_PARAMETERS = 2 * 10**10
"""Each worker holds the whole network, and 20 bytes for each parameter: 400 GB at the bound. The
largest of the paper has 2.6 * 10**8."""
_MAX_PIXELS = 2**26
_OF_IMAGES = (
    "guidance_by",
    "guidance_interval",
    "guidance_rescale",
    "threshold_percentile",
    "threshold_cap",
)
"""keys of `sample` that are stated for images and not for bits"""
_MAX_BATCH_BYTES = 2**36
MAX_RUN_NAME = 63
"""characters"""
# Digits first: Prefect's command line takes "[a-z...]" in its refusal for a style, and drops it.
RUN_NAME_PATTERN = rf"^[0-9a-z][0-9a-z._-]{{0,{MAX_RUN_NAME - 1}}}$"


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
        rows = 0 if self.num_classes is None else self.num_classes + 1
        return rows * self.model.row_size + self.model.num_parameters(
            in_channels=self.data.channels,
            out_channels=self.out_channels,
            height=self.data.height,
            width=self.data.width,
        )

    @property
    def num_classes(self) -> int | None:
        """Classes whose label the network is given; None: it is given none."""
        if self.model.conditioning == "none":
            return None
        return self.model.num_classes or self.data.num_classes

    @model_validator(mode="after")
    def _labels_are_there(self) -> Self:
        data, model = self.data, self.model
        if model.conditioning == "none":
            self._refuse_knobs_of_labels()
            return self
        if not data.class_folders:
            raise ValueError(
                "model.conditioning=label goes by the classes of the images, and with "
                "data.class_folders=false there is one for all; leave out one of the two"
            )
        if self.num_classes is None:
            raise ValueError(
                f"model.conditioning=label with data.name={data.name} needs model.num_classes, the "
                "number of folders that are classes; --dry-run without model.conditioning says "
                "which there are"
            )
        if data.num_classes not in (None, self.num_classes):
            raise ValueError(
                f"model.num_classes={model.num_classes}, but {data.name} has {data.num_classes} "
                "classes; set model.num_classes=null"
            )
        for label in self.sample.labels if isinstance(self.sample.labels, tuple) else ():
            if isinstance(label, int) and not 0 <= label < self.num_classes:
                raise ValueError(
                    f"sample.labels has {label}, and the {self.num_classes} classes have the "
                    f"numbers 0 to {self.num_classes - 1}"
                )
        return self

    def _refuse_knobs_of_labels(self) -> None:
        knobs = [("train", "label_dropout"), ("sample", "labels")]
        knobs += [("evaluate", "num_classified_images"), ("evaluate", "label_worth")]
        if self.sample.guidance_by is None:  # whose reference needs no label
            knobs.append(("sample", "guidance_scale"))
        for name, key in knobs:
            section = getattr(self, name)
            value = getattr(section, key)
            if value != type(section).model_fields[key].default:
                other = " or sample.guidance_by" if key == "guidance_scale" else ""
                raise ValueError(
                    f"{name}.{key}={value} is a setting of model.conditioning=label{other}, and "
                    f"the network is given no label; leave {name}.{key} out, or set "
                    f"model.conditioning=label{other}"
                )

    @model_validator(mode="after")
    def _bits_go_together(self) -> Self:
        if not isinstance(self.diffusion, BinomialConfig):
            return self
        data, train, sample = self.data, self.train, self.sample
        wrong = (
            (not data.is_binary, f"data.name={data.name}", "images of two levels: heartbeat"),
            (train.loss != "vlb", f"train.loss={train.loss}", "the bound, train.loss=vlb"),
            (
                sample.sampler != "ancestral" or sample.num_steps is not None,
                f"sample.sampler={sample.sampler}, sample.num_steps={sample.num_steps}",
                "all steps of sample.sampler=ancestral, with sample.num_steps=null",
            ),
            (not sample.clip_x_0, "sample.clip_x_0=false", "nothing to clip: leave it out"),
            (
                sample.guidance_scale not in (0, 1),
                f"sample.guidance_scale={sample.guidance_scale}",
                "no guidance: sample.guidance_scale=1",
            ),
            *(
                (
                    getattr(sample, key) != type(sample).model_fields[key].default,
                    f"sample.{key}={getattr(sample, key)}",
                    f"no guidance and no threshold: leave sample.{key} out",
                )
                for key in _OF_IMAGES
            ),
        )
        for is_wrong, given, needed in wrong:
            if is_wrong:
                raise ValueError(
                    f"{given} does not go with diffusion.kind=binomial, a chain of bits: it takes "
                    f"{needed}"
                )
        return self

    @model_validator(mode="after")
    def _fourier_features_are_of_sigma(self) -> Self:
        kind, embedding = self.diffusion.kind, getattr(self.model, "time_embedding", None)
        if embedding == "fourier" and kind not in ("ve", "edm"):
            raise ValueError(
                "model.time_embedding=fourier is of networks that are given log sigma, and with "
                f"diffusion.kind={kind} it is a time of up to 1000: leave it out, or set "
                "diffusion.kind=ve or edm"
            )
        return self

    @model_validator(mode="after")
    def _flow_is_measured_in_continuous_time(self) -> Self:
        steps, default = self.evaluate.ode_steps, EvaluateConfig.model_fields["ode_steps"].default
        if steps != default and not isinstance(self.diffusion, ContinuousConfig):
            raise ValueError(
                f"evaluate.ode_steps={steps} is of processes in continuous time, and "
                f"diffusion.kind={self.diffusion.kind} is none: leave it out; the study measures "
                "the flow of a chain, with study.ode_steps"
            )
        return self

    @model_validator(mode="after")
    def _objective_is_possible(self) -> Self:
        diffusion, train = self.diffusion, self.train
        try:
            require_possible(diffusion.prediction, diffusion.variance, train.loss, train.weighting)
        except ConfigError as error:
            raise ValueError(f"diffusion and train do not go together: {error}") from None
        return self

    @model_validator(mode="after")
    def _sampler_is_possible(self) -> Self:
        diffusion, sample = self.diffusion, self.sample
        try:
            require_samplable(
                sample.sampler,
                diffusion.prediction,
                diffusion.variance,
                num_steps=sample.num_steps,
                num_timesteps=diffusion.num_timesteps,
                ends_in_pure_noise=diffusion.ends_in_pure_noise,
                spacing=sample.spacing,
            )
        except ConfigError as error:
            raise ValueError(f"diffusion and sample do not go together: {error}") from None
        return self

    @model_validator(mode="after")
    def _ddim_is_possible(self) -> Self:
        diffusion = self.diffusion
        for num_steps in self.study.ddim_steps:
            try:
                require_samplable(
                    "ddim",
                    diffusion.prediction,
                    diffusion.variance,
                    num_steps=num_steps,
                    num_timesteps=diffusion.num_timesteps,
                    ends_in_pure_noise=diffusion.ends_in_pure_noise,
                )
            except ConfigError as error:
                raise ValueError(f"study.ddim_steps has {num_steps}: {error}") from None
        return self

    @model_validator(mode="after")
    def _previews_are_possible(self) -> Self:
        every = self.train.preview_every
        if every is not None and self.diffusion.kind == "binomial":
            raise ValueError(
                f"train.preview_every={every}: previews are of images, and diffusion.kind=binomial "
                "is a chain of bits; leave it out"
            )
        if every is not None and is_of_one_step(self.diffusion.prediction):
            raise ValueError(
                f"train.preview_every={every}: previews take few steps of the chain, and "
                f"diffusion.prediction={self.diffusion.prediction} can draw with all of them "
                "alone; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        workers = self.compute.num_workers
        self.model.require_images(height=self.data.height, width=self.data.width)
        if self.train.global_batch_size % workers:
            raise ValueError(
                f"train.global_batch_size={self.train.global_batch_size} is not a multiple of "
                f"compute.num_workers={workers}; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _sizes_are_sane(self) -> Self:
        data, train = self.data, self.train
        if data.height * data.width > _MAX_PIXELS:
            raise ValueError(
                f"data.height={data.height} x data.width={data.width} is over {_MAX_PIXELS} "
                "pixels, more than a network of this kind can be trained on; lower them"
            )
        if self.num_parameters > _MAX_PARAMETERS:
            *first, last = (f"model.{key}" for key in self.model.size_keys)
            raise ValueError(
                f"the network of this model section has {self.num_parameters:.2g} parameters, over "
                f"{_MAX_PARAMETERS:.0e}, and every worker holds all of it; lower "
                f"{', '.join(first)} or {last}"
            )
        batch_bytes = train.global_batch_size * data.channels * data.height * data.width
        if batch_bytes // self.compute.num_workers > _MAX_BATCH_BYTES:
            raise ValueError(
                f"train.global_batch_size={train.global_batch_size} of images of {data.height}x"
                f"{data.width} is {batch_bytes / 2**30:.0f} GiB of pixels, over "
                f"{_MAX_BATCH_BYTES // 2**30} GiB for each of compute.num_workers="
                f"{self.compute.num_workers}; lower it or raise these"
            )
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
