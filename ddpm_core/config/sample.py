"""The section `sample`: how images are drawn."""

import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ddpm_core.config.model_ref import ModelRef
from ddpm_core.config.prompts import Prompts, checked_prompts
from ddpm_core.config.section import HOUSEKEEPING, PLACE, Count, Few, Section
from ddpm_core.diffusion.choices import OdeSolver, Sampler, Spacing

_MAX_LABELS = 2**16
MAX_UNITS = 500_000
"""The manifest of a set of samples takes some 300 bytes for each: 150 MB at the bound."""


class SampleConfig(Section):
    """How images are drawn, how many, and from which noise."""

    sampler: Sampler = "ancestral"
    """how: the paper's reverse process (ancestral), the same as Langevin dynamics (langevin), with
    a corrector (predictor_corrector), DDIM (ddim), the reverse differential equation with noise
    (sde), the probability flow (ode), EDM's (heun), DPM-Solver++ 2M without noise (dpm_solver) or
    with it (sde_dpm_solver), or UniPC (unipc)"""
    num_steps: int | None = Field(None, ge=2, le=10**6)
    """steps of the chain that are taken; None: all of them. Calls of the network: one for each, but
    for heun and ode (by ode_method) up to 4"""
    spacing: Spacing = "trailing"
    """which steps, where not all are taken; karras: noise levels of EDM's, for ode, heun,
    dpm_solver, sde_dpm_solver and unipc"""
    eta: float = Field(0.0, ge=0, le=1)
    """of ddim: noise of its steps, from 0 (none) to 1 (as much as the posterior has)"""
    ode_method: OdeSolver = "heun"
    """of ode: solver of order 1, 2 or 4, or one that chooses the steps of each image (adaptive)"""
    ode_tolerance: float = Field(1e-5, gt=0, lt=1)
    """of ode_method=adaptive: allowed error of a step, absolute and relative"""
    churn: float = Field(0.0, ge=0)
    """of heun: noise that is put back, in steps' worth all in all"""
    corrector_snr: float = Field(0.16, gt=0)
    """of predictor_corrector: how far a correction moves, as a share of the noise that it adds"""
    clip_x_0: bool = True
    """clip the predicted image to [-1, 1] at every step; langevin cannot"""
    state: Literal["float32", "float64"] = "float32"
    """arithmetic between the calls of the network"""

    labels: Literal["balanced", "training"] | tuple[int | str, ...] = "balanced"
    """of model.conditioning=label, or guidance by a classifier, what the images are of: each class
    in turn (balanced); classes as often as among the training images (training); or these in turn,
    by number or name, as in [3] or ["cat", "dog"]"""
    prompts: Prompts = "held_out"
    """of model.conditioning=text, what the images are of: the captions of the first 16,384 held-out
    images in turn (held_out), or training images (training), each image's first; or, also of
    guidance by CLIP (guidance_by): a text; several in turn, as in ["a red seven", "a blue two"]; or
    a file of them, one a line, as in @prompts.txt or @s3://bucket/prompts.txt, which is read once:
    its texts become the setting"""
    guidance_scale: float = Field(1.0, ge=0, le=1000)
    """how far the prediction is followed beyond that of a reference, which is the network without
    the label or with the empty text (model.conditioning), or other weights (guidance_by); 1: no
    guidance, 0: as without either, both at half the calls of the network. Of a classifier: how many
    times the gradient of log p(class | x_t) is followed, 1 as it is; of CLIP: of how well x_t fits
    the prompt"""
    guidance_by: Annotated[str | None, PLACE] = None
    """other weights that guide, as RUN@STEP:AVERAGE (@200, small@newest): a weaker model given the
    same labels, if any, as the reference (a smaller network, an earlier step); or a classifier of
    noised images (a run of model.kind=classifier), which also makes images of classes of a network
    that takes no labels; or CLIP (a run of model.kind=clip), which makes images of prompts of one
    that takes no texts; with guidance_scale"""
    guidance_interval: tuple[float, float | None] | None = None
    """noise levels sigma = noise / signal in (low, high] at which there is guidance, as in [0.3, 3]
    or, without an end, [0.3, null]; null or []: all. Elsewhere the network is called once"""
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    """phi: how far the standard deviation of each guided prediction is brought back to that of the
    unguided one; 0: not at all"""
    threshold_percentile: float | None = Field(None, gt=0, le=100)
    """dynamic threshold of the predicted image, after guidance: it is clipped to [-s, s] and
    divided by s, which is this percentile of its absolute values, but at least 1; null: none, and
    clip_x_0 alone. With it clip_x_0 changes nothing"""
    threshold_cap: float | None = Field(None, ge=1)
    """of threshold_percentile: the largest s; null: none"""

    low_from: Annotated[str | None, PLACE] = None
    """of model.low_size: the run whose samples are enlarged, image i of image i, as
    RUN@STEP:AVERAGE; what it lacks of them is drawn first. None: the held-out images of this run's
    data set, made small, in turn"""
    low_level: float = Field(0.0, ge=0, le=1)
    """of model.low_size: how noisy the low resolutions are made before they are enlarged, a share
    of the process's steps within train.low_levels; 0: not at all. Evaluations measure at it too"""

    num_images: Count = 50_000
    """images; more than there are: only the others are drawn"""
    unit_size: int = Field(500, ge=1, le=10**6)
    """images in one unit: what a worker makes, publishes, and makes again if it is lost"""
    batch_size: Count = 250
    """images through the network at once; rounding depends on it, so a last batch is filled up"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of the noise; image i is a function of (seed, i)"""
    num_grid_images: Annotated[Few, HOUSEKEEPING] = 100
    """images shown in the grid; fewer if fewer are drawn"""
    num_strip_images: Annotated[Few, HOUSEKEEPING] = 8
    """images of the first unit whose denoising is shown step by step; fewer if fewer are drawn"""
    model: Annotated[str | None, PLACE] = None
    """which weights, as RUN@STEP:AVERAGE (@400, @newest, :raw, digits@400:ema), for evaluate and
    study too; None: the average of the last step"""

    @property
    def is_adaptive(self) -> bool:
        """Whether the solver takes steps of its own, and `num_steps` says nothing."""
        return self.ode_method == "adaptive"

    @property
    def is_of_all_steps(self) -> bool:
        """Whether every step of the chain is drawn from the Gaussian of that step."""
        return self.sampler == "ancestral" and self.num_steps is None

    @field_validator("model", "guidance_by", "low_from")
    @classmethod
    def _models_are_references(cls, model: str | None) -> str | None:
        if model is not None:
            ModelRef.parse(model)
        return model

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _interval_is_two_sigmas(cls, value: Any) -> Any:  # noqa: ANN401 - not checked yet
        pair = list(value) if isinstance(value, list | tuple) else [value]
        if pair in ([], [None], [0, None]):
            return None
        is_pair = len(pair) == 2 and type(pair[0]) in (int, float)
        is_pair = is_pair and (pair[1] is None or type(pair[1]) in (int, float))
        if not (is_pair and 0 <= pair[0] < (math.inf if pair[1] is None else pair[1])):
            raise ValueError(
                f"guidance_interval={json.dumps(value, default=str)[:100]} must be two noise "
                "levels sigma, 0 <= low < high, e.g. [0.3, 3] or, without an end, [0.3, null]"
            )
        return tuple(pair)

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_numbers_and_names(cls, value: Any) -> Any:  # noqa: ANN401 - not checked yet
        if isinstance(value, str):
            given = value in ("balanced", "training")
        else:
            given = isinstance(value, list | tuple) and 0 < len(value) <= _MAX_LABELS
            given = given and all(type(one) in (int, str) for one in value)
        if not given:
            raise ValueError(
                f"labels={json.dumps(value, default=str)[:100]} must be balanced, training, or a "
                f'list of 1 to {_MAX_LABELS} numbers and names of classes, e.g. [3] or ["cat"]'
            )
        return tuple(value) if isinstance(value, list) else value

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts_are_texts(cls, value: Any) -> Any:  # noqa: ANN401 - not checked yet
        return checked_prompts(value)

    @model_validator(mode="after")
    def _knobs_belong_to_the_sampler(self) -> Self:
        knobs = {
            "eta": "ddim",
            "ode_method": "ode",
            "churn": "heun",
            "corrector_snr": "predictor_corrector",
        }
        self.refuse_unused("sampler", knobs)
        self.refuse_unused("ode_method", {"ode_tolerance": "adaptive"})
        if self.is_adaptive and self.num_steps is not None:
            raise ValueError(
                f"num_steps={self.num_steps} is not for ode_method=adaptive, which chooses its "
                "steps; leave num_steps out, and set ode_tolerance"
            )
        if self.sampler == "langevin" and self.clip_x_0:
            raise ValueError(
                "clip_x_0=true is not possible with sampler=langevin, in which no predicted image "
                "appears; set clip_x_0=false"
            )
        return self

    @model_validator(mode="after")
    def _guidance_matters(self) -> Self:
        # With other weights that are a classifier scale 1 is guidance; see `runs.reference`.
        is_none = self.guidance_scale == 1 and self.guidance_by is None
        for key in ("guidance_interval", "guidance_rescale"):
            value = getattr(self, key)
            if is_none and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key}={value} is a setting of guidance, and with guidance_scale=1 there is "
                    f"none; leave {key} out, or give guidance_scale=2, say"
                )
        if self.guidance_by is not None and self.guidance_scale == 0:
            raise ValueError(
                f"guidance_scale=0 with guidance_by={self.guidance_by} would draw from the weaker "
                "model alone, and with a classifier without it; give those weights as model, "
                "another guidance_scale, or leave guidance_by out"
            )
        return self

    @model_validator(mode="after")
    def _threshold_matters(self) -> Self:
        if self.threshold_percentile is None and self.threshold_cap is not None:
            raise ValueError(
                f"threshold_cap={self.threshold_cap} is a setting of threshold_percentile, which "
                "is not given; give both, or leave threshold_cap out"
            )
        if self.threshold_percentile is not None and self.sampler == "langevin":
            raise ValueError(
                "threshold_percentile is not possible with sampler=langevin, in which no predicted "
                "image appears; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _batches_fill_units(self) -> Self:
        if self.unit_size % self.batch_size:
            raise ValueError(
                f"unit_size={self.unit_size} is not a multiple of batch_size={self.batch_size}; "
                "change one of them"
            )
        if self.num_images > MAX_UNITS * self.unit_size:
            raise ValueError(
                f"num_images={self.num_images} in units of unit_size={self.unit_size} are over "
                f"{MAX_UNITS} units, and one manifest lists them all; raise unit_size"
            )
        if self.num_strip_images > self.unit_size:
            raise ValueError(
                f"num_strip_images={self.num_strip_images} is more than unit_size="
                f"{self.unit_size}, and the strip is drawn with the first unit; change one of them"
            )
        return self
