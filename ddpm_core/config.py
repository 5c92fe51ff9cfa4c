"""RunConfig: every knob of the pipeline, declared once.

The same object is the form in Prefect, the file `run.json`, and the parameters in MLflow.
Sections are frozen and refuse unknown keys: a typo must not train for a day.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ddpm_core.canonical import parse_json
from ddpm_core.diffusion.choices import (
    BetaSchedule,
    Loss,
    OdeMethod,
    Prediction,
    Sampler,
    Spacing,
    Variance,
    Weighting,
    is_learned,
    require_end_known,
    require_possible,
    require_samplable,
)
from ddpm_core.errors import ConfigError
from ddpm_core.explain import did_you_mean, explain

RUN_NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
# What a data set is by itself: channels, and height and width before padding.
_NATIVE_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_NUM_DIGITS = 1797
_NUM_TEST_IMAGES = {"mnist": 10_000, "cifar10": 10_000}
"""the canonical test splits; the training splits are never touched"""

PositiveInt = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def _refuse_unused(self, choice: str, knobs: Mapping[str, str]) -> None:
        """Refuse a knob that the value of `choice` has no use for: nobody would read it.

        Args:
            choice: key of the section.
            knobs: key -> the one value of `choice` that uses it.
        """
        chosen = getattr(self, choice)
        for key, owner in knobs.items():
            value, default = getattr(self, key), type(self).model_fields[key].default
            if chosen != owner and value != default:
                raise ValueError(
                    f"{key}={value} is a setting of {choice}={owner} and {choice}={chosen} has no "
                    f"use for it; leave {key} out, or choose that {choice}"
                )


class DataConfig(_Section):
    """The images, and how they are cut into shards."""

    name: Literal["digits", "mnist", "cifar10"] = "digits"
    """data set: scikit-learn's bundled digits, MNIST, or CIFAR-10"""
    source: str = "default"
    """where the raw data lie: a folder, or 'default' (bundled, else the canonical download);
    does not change what is made of them, so it is in no fingerprint"""
    height: PositiveInt = 8
    """rows of an image, in pixels; smaller originals are padded with black around the centre"""
    width: PositiveInt = 8
    """columns of an image, in pixels; smaller originals are padded with black around the centre"""
    num_test_images: PositiveInt | None = None
    """images held out of training; null keeps the data set's own split (digits has none)"""
    images_per_shard: PositiveInt = 1000
    """images in one tar"""

    @property
    def channels(self) -> int:
        return _NATIVE_SHAPES[self.name][0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (self.channels, self.height, self.width)

    @property
    def max_test_images(self) -> int:
        """Images held out, at most: a folder may hold less than the published files."""
        if self.num_test_images is not None:
            return self.num_test_images
        return _NUM_TEST_IMAGES[self.name]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _, height, width = _NATIVE_SHAPES[self.name]
        if self.height < height or self.width < width:
            raise ValueError(
                f"height={self.height}, width={self.width} is smaller than {self.name}'s own "
                f"{height}x{width}; images are padded, never cropped: give at least that"
            )
        return self

    @model_validator(mode="after")
    def _held_out_images_exist(self) -> Self:
        wanted = self.num_test_images
        if self.name != "digits":
            available = _NUM_TEST_IMAGES[self.name]
            if wanted is not None and wanted > available:
                raise ValueError(
                    f"num_test_images={wanted}, but {self.name} holds out images of its test "
                    f"split only, which has {available}; give at most that, or null for all of "
                    "them"
                )
        elif wanted is None:
            raise ValueError(
                "num_test_images=null, but digits has no split of its own; give a number, e.g. 297"
            )
        elif wanted >= _NUM_DIGITS:
            raise ValueError(
                f"num_test_images={wanted} leaves nothing to train on: digits has {_NUM_DIGITS} "
                "images; hold out fewer"
            )
        return self

    @model_validator(mode="after")
    def _bundled_data_have_no_source(self) -> Self:
        if self.name == "digits" and self.source != "default":
            raise ValueError(
                f"source={self.source!r}, but digits is bundled with scikit-learn; give "
                "'default', or leave it out"
            )
        return self


class ModelConfig(_Section):
    """The U-Net of the paper (appendix B)."""

    base_channels: PositiveInt = 128
    """channels at full resolution"""
    channel_mults: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2, 2)
    """channels at each resolution, in multiples of base_channels; each halves height and width"""
    num_res_blocks: PositiveInt = 2
    """residual blocks at each resolution on the way down; one more on the way up"""
    attention_resolutions: tuple[PositiveInt, ...] = (16,)
    """heights, in pixels, of the feature maps that get self-attention after each block"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """probability of dropping a feature inside a residual block"""
    num_groups: PositiveInt = 32
    """groups of every group normalisation"""

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        for mult in self.channel_mults:
            if (self.base_channels * mult) % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide base_channels*{mult}="
                    f"{self.base_channels * mult}; change base_channels or num_groups"
                )
        return self


class DiffusionConfig(_Section):
    """The forward process and what the network predicts (sections 2 and 3 of the paper)."""

    num_timesteps: int = Field(1000, ge=2)
    """T, steps of the chain"""
    beta_schedule: BetaSchedule = "linear"
    """how the variance of the forward steps grows"""
    beta_start: float = Field(1e-4, gt=0, lt=1)
    """variance of the first step of a chain of 1000; scaled by 1000/T otherwise; not used by
    const, jsd and cosine"""
    beta_end: float = Field(0.02, gt=0, lt=1)
    """variance of the last step of a chain of 1000; scaled by 1000/T otherwise; not used by jsd
    and cosine"""
    zero_terminal_snr: bool = False
    """rescale the schedule so that it ends in pure noise; needs another prediction than eps"""
    prediction: Prediction = "eps"
    """what the network predicts: the noise, the image, the mean of x_{t-1}, or v"""
    variance: Variance = "fixed_large"
    """variance of the reverse steps: posterior variance (fixed_small), beta (fixed_large), or
    predicted by the network: its logarithm (learned), or where between those two (learned_range)"""

    @property
    def ends_in_pure_noise(self) -> bool:
        """Whether the last signal-to-noise ratio is 0."""
        return self.zero_terminal_snr or self.beta_schedule == "jsd"

    @model_validator(mode="after")
    def _betas_are_variances(self) -> Self:
        uses_end = self.beta_schedule not in ("jsd", "cosine")
        uses_start = uses_end and self.beta_schedule != "const"
        if uses_start and self.beta_start > self.beta_end:
            raise ValueError(
                f"beta_start={self.beta_start} is above beta_end={self.beta_end}; swap them"
            )
        if uses_end and self.beta_end * 1000 / self.num_timesteps >= 1:
            raise ValueError(
                f"num_timesteps={self.num_timesteps} is too few: beta_end={self.beta_end} scaled "
                f"by 1000/T is {self.beta_end * 1000 / self.num_timesteps:.3g}, which must stay "
                f"below 1; give at least {math.floor(self.beta_end * 1000) + 1} timesteps"
            )
        require_end_known(self.prediction, ends_in_pure_noise=self.ends_in_pure_noise)
        return self


class TrainConfig(_Section):
    """The optimisation (appendix B of the paper)."""

    num_steps: PositiveInt = 800_000
    """optimiser steps"""
    loss: Loss = "simple"
    """L_simple (simple), a term of the variational bound (vlb), or L_simple and the bound for a
    learned variance (hybrid)"""
    weighting: Weighting = "none"
    """weight of L_simple by the signal-to-noise ratio of the timestep"""
    min_snr_gamma: float = Field(5.0, gt=0)
    """signal-to-noise ratio above which min_snr weighs a timestep down"""
    p2_gamma: float = Field(1.0, ge=0)
    """exponent of p2's weight 1 / (p2_k + snr)**p2_gamma"""
    p2_k: float = Field(1.0, gt=0)
    """signal-to-noise ratio around which p2's weight begins to fall"""
    global_batch_size: PositiveInt = 128
    """images per step, all workers together"""
    learning_rate: float = Field(2e-4, gt=0)
    """Adam's step size after warm-up"""
    warmup_steps: int = Field(5000, ge=0)
    """steps over which the learning rate grows from 0; 0 for none"""
    grad_clip: float = Field(1.0, gt=0)
    """largest allowed norm of the gradient of all parameters together"""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """decay per step of the moving average of the weights, which samples are drawn from"""
    random_flip: bool = True
    """mirror each image with probability 1/2"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of weights, data order, timesteps, noise and flips"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """arithmetic of the network; auto is bfloat16 on GPUs that have it, else float32"""
    log_every: PositiveInt = 100
    """steps between two points of the curves"""
    checkpoint_every: PositiveInt = 5000
    """steps between two checkpoints; the last step is always saved"""
    keep_checkpoints: int = Field(3, ge=2)
    """newest checkpoints whose files are kept"""

    @model_validator(mode="after")
    def _knobs_belong_to_the_weighting(self) -> Self:
        knobs = {"min_snr_gamma": "min_snr", "p2_gamma": "p2", "p2_k": "p2"}
        self._refuse_unused("weighting", knobs)
        return self


class SampleConfig(_Section):
    """How images are drawn, how many, and from which noise."""

    sampler: Sampler = "ancestral"
    """how: the paper's reverse process (ancestral), the same as Langevin dynamics (langevin), with
    a corrector (predictor_corrector), DDIM (ddim), the reverse differential equation with noise
    (sde), the probability flow (ode), EDM's (heun), DPM-Solver++ 2M without noise (dpm_solver) or
    with it (sde_dpm_solver), or UniPC (unipc)"""
    num_steps: int | None = Field(None, ge=2)
    """steps of the chain that are taken; None: all of them. Calls of the network: one for each, but
    for heun and ode (by ode_method) up to 4"""
    spacing: Spacing = "trailing"
    """which steps, where not all are taken"""
    eta: float = Field(0.0, ge=0, le=1)
    """of ddim: noise of its steps, from 0 (none) to 1 (as much as the posterior has)"""
    ode_method: OdeMethod = "heun"
    """of ode: solver of order 1, 2 or 4"""
    churn: float = Field(0.0, ge=0)
    """of heun: noise that is put back, in steps' worth all in all"""
    corrector_snr: float = Field(0.16, gt=0)
    """of predictor_corrector: how far a correction moves, as a share of the noise that it adds"""
    clip_x_0: bool = True
    """clip the predicted image to [-1, 1] at every step; langevin cannot"""
    state: Literal["float32", "float64"] = "float32"
    """arithmetic between the calls of the network"""

    num_images: PositiveInt = 50_000
    """images"""
    unit_size: PositiveInt = 500
    """images in one unit: what a worker makes, publishes, and makes again if it is lost"""
    batch_size: PositiveInt = 250
    """images through the network at once; rounding depends on it"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of the noise; image i is a function of (seed, i)"""
    num_grid_images: PositiveInt = 100
    """images shown in the grid; fewer if fewer are drawn"""
    num_strip_images: PositiveInt = 8
    """images of the first unit whose denoising is shown step by step; fewer if fewer are drawn"""

    @model_validator(mode="after")
    def _knobs_belong_to_the_sampler(self) -> Self:
        knobs = {
            "eta": "ddim",
            "ode_method": "ode",
            "churn": "heun",
            "corrector_snr": "predictor_corrector",
        }
        self._refuse_unused("sampler", knobs)
        if self.sampler == "langevin" and self.clip_x_0:
            raise ValueError(
                "clip_x_0=true is not possible with sampler=langevin, in which no predicted image "
                "appears; set clip_x_0=false"
            )
        return self

    @model_validator(mode="after")
    def _batches_fill_units(self) -> Self:
        if self.unit_size % self.batch_size:
            raise ValueError(
                f"unit_size={self.unit_size} is not a multiple of batch_size={self.batch_size}; "
                "change one of them"
            )
        if self.num_strip_images > self.unit_size:
            raise ValueError(
                f"num_strip_images={self.num_strip_images} is more than unit_size="
                f"{self.unit_size}, and the strip is drawn with the first unit; change one of them"
            )
        return self


class EvaluateConfig(_Section):
    """What is measured on the held-out images."""

    num_likelihood_images: PositiveInt = 256
    """held-out images whose bits/dim are computed, each at every timestep; not more than there are
    """
    batch_size: PositiveInt = 256
    """images through a network at once"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of the noise of the bound"""
    features: str = "trained"
    """feature network of the Frechet distance: 'trained' (a small classifier, trained here on the
    labelled training images) or path or https URL of a TorchScript file"""
    features_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the TorchScript file, 64 digits 0-9 and a-f; required with one"""
    feature_steps: PositiveInt = 600
    """optimiser steps of the trained feature network"""

    @model_validator(mode="after")
    def _foreign_network_is_pinned(self) -> Self:
        if "://" in self.features and not self.features.startswith("https://"):
            raise ValueError(
                f"features={self.features!r} must be 'trained', a path or an https URL; download "
                "the file and give its path"
            )
        if self.features == "trained" and self.features_sha256 is not None:
            raise ValueError(
                "features_sha256 is given, but features='trained' is no file; give features too, "
                "or leave both out"
            )
        if self.features != "trained" and self.features_sha256 is None:
            raise ValueError(
                f"features={self.features!r} is a file from outside and features_sha256 is not "
                "given; give the SHA-256 of the file you trust"
            )
        return self


class StudyConfig(_Section):
    """The paper's other claims: what the stages `study` and `ablations` measure and draw."""

    num_images: PositiveInt = 2000
    """images drawn for each point of a plot of quality"""
    swept_steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 20, 50, 100)
    """numbers of steps at which all samplers are compared"""
    num_likelihood_images: PositiveInt = 256
    """images of each split, training and held-out, whose bits/dim are computed"""
    num_ode_images: PositiveInt = 64
    """held-out images whose bits/dim are computed through the probability flow too"""
    ode_steps: PositiveInt = 100
    """steps of the solver of Heun on the probability flow, beside the adaptive one"""
    ode_tolerance: float = Field(1e-4, gt=0)
    """allowed error of a step of the adaptive solver, absolute and relative"""
    mix_depth: float = Field(0.5, gt=0, le=1)
    """how deep the pairs of the paper's fig. 8 are diffused before they are mixed, as a share of
    the chain; images of few pixels have no trace of themselves left at half of it"""
    num_shown: PositiveInt = 8
    """images of a sheet of pictures"""
    batch_size: PositiveInt = 250
    """images through the network at once, which are worked on and kept together"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of all noise of the study"""
    ablation_steps: PositiveInt | None = None
    """optimiser steps of each of the six ablations; null: as many as the run itself"""

    @model_validator(mode="after")
    def _steps_are_numbers_of_steps(self) -> Self:
        steps = self.swept_steps
        if min(steps) < 2 or len(set(steps)) < len(steps):
            raise ValueError(
                f"swept_steps={list(steps)} must be different numbers, each at least 2"
            )
        return self


class ComputeConfig(_Section):
    """Where and how wide it runs. Changes the speed, not the experiment: in no fingerprint."""

    num_workers: PositiveInt = 1
    """workers of every stage"""
    cpus_per_worker: PositiveInt = 1
    """CPU cores, and threads, of one worker"""
    use_gpu: bool | None = None
    """one GPU per worker; null: if the cluster has any"""
    max_failures: int = Field(3, ge=0)
    """how often lost workers are replaced before the stage gives up"""
    collective_timeout_s: PositiveInt = 120
    """seconds after which workers that wait for a lost one give up"""


class RunConfig(_Section):
    """One run of the pipeline."""

    format_version: Literal[1] = 1
    """of the file run.json"""
    name: str = Field("run", pattern=RUN_NAME_PATTERN)
    """name of the run: at most 63 of a-z, 0-9, dot, dash and underscore, the first a letter or a
    digit"""
    data: DataConfig = DataConfig(num_test_images=297)
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
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
            )
        except ConfigError as error:
            raise ValueError(f"diffusion and sample do not go together: {error}") from None
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        data, model, workers = self.data, self.model, self.compute.num_workers
        halvings = len(model.channel_mults) - 1
        for key, pixels in (("height", data.height), ("width", data.width)):
            if pixels % 2**halvings:
                raise ValueError(
                    f"data.{key}={pixels} cannot be halved {halvings} times, as "
                    f"model.channel_mults={list(model.channel_mults)} asks; "
                    f"give a multiple of {2**halvings} or fewer channel_mults"
                )
        heights = [data.height // 2**level for level in range(halvings + 1)]
        for resolution in model.attention_resolutions:
            if resolution not in heights:
                raise ValueError(
                    f"model.attention_resolutions has {resolution}, which never occurs: feature "
                    f"maps are {heights} pixels high; choose among these"
                )
        if self.train.global_batch_size % workers:
            raise ValueError(
                f"train.global_batch_size={self.train.global_batch_size} is not a multiple of "
                f"compute.num_workers={workers}; change one of them"
            )
        if self.evaluate.num_likelihood_images > data.max_test_images:
            raise ValueError(
                f"evaluate.num_likelihood_images={self.evaluate.num_likelihood_images}, but only "
                f"{data.max_test_images} images are held out (data.num_test_images); lower it or "
                "hold out more"
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
            return cls.model_validate_json(json.dumps(values))
        except ValidationError as error:
            lines = "\n".join(f"  {line}" for line in explain(cls, error))
            raise ConfigError(f"{origin} is not valid:\n{lines}") from None

    def replaced(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with `{"section.key": value}` changed, validated as a whole.

        Raises:
            ConfigError: naming key, value, rule and remedy.
        """
        values = self.model_dump(mode="json")
        for dotted, value in changes.items():
            section, _, key = dotted.rpartition(".")
            target = values if not section else values.get(section)
            if not isinstance(target, dict):
                raise ConfigError(f"no section {section!r}{did_you_mean(section, list(values))}")
            if key not in target:
                raise ConfigError(f"no key {dotted!r}{did_you_mean(key, list(target))}")
            target[key] = value
        return type(self).from_dict(values, origin="the configuration with these changes")

    # -- identity ----------------------------------------------------------------------------

    def experiment(self) -> dict[str, Any]:
        """Return what determines the weights: data, model, diffusion, train; no places."""
        return {
            "data": self.data.model_dump(mode="json", exclude={"source"}),
            "model": self.model.model_dump(mode="json"),
            "diffusion": self.diffusion.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
        }

    def to_json(self) -> str:
        """Return the text of run.json: indented, keys in the order they are declared."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def flat(self) -> dict[str, Any]:
        """Return `{"section.key": value}` of all sections."""
        return dict(_flatten(self.model_dump(mode="json")))

    def differences(self, other: "RunConfig") -> list[str]:
        """Return a line `key: ours -> theirs` for each key that makes another run.

        `compute` and `data.source` may differ: they change where and how fast, not what.
        """
        ours, theirs = self.flat(), other.flat()
        return [
            f"{key}: {json.dumps(ours[key])} -> {json.dumps(theirs[key])}"
            for key in ours
            if not key.startswith("compute.") and key != "data.source" and ours[key] != theirs[key]
        ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
