"""The section `train`: the optimisation."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ddpm_core.config.model_ref import NARROWEST, WIDEST, ema_name, power_name
from ddpm_core.config.rates import RateSchedule, Segment
from ddpm_core.config.section import HOUSEKEEPING, Count, Section
from ddpm_core.config.start import STATE, Start
from ddpm_core.diffusion.choices import Loss, Weighting
from ddpm_core.errors import ConfigError

MOST_AVERAGES = 16
_MOST_DIGITS = 14


class TrainConfig(Section):
    """The optimisation (appendix B of the paper)."""

    num_steps: Count = 800_000
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
    global_batch_size: Count = 128
    """images per step, all workers together"""
    learning_rate: float = Field(2e-4, gt=0)
    """Adam's step size after warm-up"""
    learning_rate_schedule: RateSchedule = "constant"
    """what becomes of it after warm-up: it stays (constant), falls to 0 at the last step along a
    line (linear) or half a cosine (cosine), or falls as the square root of warmup_steps / step
    (inverse_sqrt)"""
    earlier: tuple[Segment, ...] = ()
    """written by a run that goes on for more steps: its lengths and rates before, and until when"""
    warmup_steps: int = Field(5000, ge=0, le=10**9)
    """steps over which the learning rate grows from 0; 0 for none"""
    grad_clip: float = Field(1.0, gt=0)
    """largest allowed norm of the gradient of all parameters together"""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """decay per step of the moving average of the weights, which samples are drawn from"""
    ema_decays: Annotated[tuple[float, ...], Field(max_length=MOST_AVERAGES)] = ()
    """decays of more moving averages beside that of ema_decay, which is called ema: 0.999 is named
    as in --model :ema_999; 4 bytes of memory, and of each checkpoint, for every parameter"""
    ema_warmup: bool = False
    """whether the decay of update n is at most (1 + n) / (10 + n), so that an average of a short
    run forgets its first weights; of ema_decay and ema_decays"""
    power_averages: Annotated[tuple[float, ...], Field(max_length=MOST_AVERAGES)] = ()
    """widths sigma_rel of averages that reach back over a share of the run (Karras et al. 2024),
    0.05 and 0.1 in the paper: named as in --model :power_05, and of their snapshots `average` makes
    those of other widths when the training is over"""
    num_snapshots: Annotated[int, HOUSEKEEPING] = Field(32, ge=0, le=1000)
    """of power_averages: checkpoints whose averages are kept for that, spread over the run"""
    random_flip: bool = True
    """mirror each image with probability 1/2"""
    augment: float = Field(0.0, ge=0, le=1)
    """probability of each geometric transform of the training images, for small data sets (Karras
    et al. 2022, appendix F.2: 0.12 of CIFAR-10, 0.15 of larger images); 0: none. The network is
    given which, and draws images without: none of it leaks. It mirrors half of them too, which
    random_flip=true makes images to be drawn"""
    low_levels: tuple[float, float] = (0.0, 1.0)
    """of model.low_size: how noisy the low resolutions are that the network is shown, of each image
    a level drawn between these: shares of the process's steps, as in [0, 0.5]. The network is given
    the level, and [0, 0] shows all as they are (Ho et al. 2022, section 4.2)"""
    label_dropout: float = Field(0.1, gt=0, lt=1)
    """of model.conditioning=label: probability that an image is shown without its label, from which
    guidance learns what images without one are; above 0, or nothing would train the null"""
    text_dropout: float = Field(0.1, gt=0, lt=1)
    """of model.conditioning=text: probability that an image is shown with the empty caption in
    place of its own, from which guidance learns what images of no caption are; above 0 likewise"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of weights, data order, timesteps, noise, flips, and of the labels and captions that are
    left out"""
    start_from: str | None = None
    """what the training begins from (--from), instead of random weights: another run's average
    (RUN@STEP), its weights as they were trained (RUN@STEP:raw), both (RUN@STEP:state), or a folder
    of diffusers (path or s3:// URI); kept with its digest, and copied when the training begins"""
    start_optimiser: Literal["fresh", "kept"] = "fresh"
    """of start_from=RUN@STEP:raw or :state: whether Adam's moments are taken too, or begin at 0"""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """arithmetic of the network; auto is bfloat16 on GPUs that have it, else float32, in which
    torch rounds convolutions on GPUs to TF32; float16, with a scaled loss, is for GPUs without
    bfloat16 (before Ampere); on a CPU with matrix units (AMX, see doctor) bfloat16 trains large
    networks about twice as fast"""
    log_every: Annotated[Count, HOUSEKEEPING] = 100
    """steps between two points of the curves"""
    checkpoint_every: Annotated[Count, HOUSEKEEPING] = 5000
    """steps between two checkpoints; the last step is always saved"""
    keep_checkpoints: Annotated[int, HOUSEKEEPING] = Field(3, ge=2, le=10**9)
    """newest checkpoints whose files are kept"""
    preview_every: Annotated[int | None, HOUSEKEEPING] = Field(None, ge=1, le=10**9)
    """steps between two previews: the same few images drawn while the training goes on, and the
    loss of held-out images, from step 0 to the last; None: no previews"""

    @property
    def start(self) -> Start | None:
        """What the training begins from; None: random weights."""
        return None if self.start_from is None else Start.parse(self.start_from)

    @property
    def averaged_before(self) -> int:
        """Steps of the run whose averages go on; 0: they begin with this one.

        Not those of what that run began from in its turn, by which ema_warmup takes its averages
        to be younger than they are.
        """
        start = self.start
        if start is None or start.model.average != STATE:
            return 0
        return start.model.step if isinstance(start.model.step, int) else 0

    @field_validator("start_from")
    @classmethod
    def _start_is_one(cls, start_from: str | None) -> str | None:
        if start_from is not None:
            Start.parse(start_from)
        return start_from

    @field_validator("low_levels")
    @classmethod
    def _levels_are_shares(cls, levels: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= levels[0] <= levels[1] <= 1:
            raise ValueError(
                f"low_levels={list(levels)} must be two shares of the process, the smaller first, "
                "from 0 to 1, e.g. [0, 0.5]"
            )
        return levels

    @model_validator(mode="after")
    def _root_has_a_step_to_fall_from(self) -> Self:
        before = [one.learning_rate_schedule for one in self.earlier]
        if "inverse_sqrt" in (*before, self.learning_rate_schedule) and not self.warmup_steps:
            raise ValueError(
                "learning_rate_schedule=inverse_sqrt falls as the square root of warmup_steps / "
                "step, and warmup_steps is 0; give at least 1"
            )
        return self

    @model_validator(mode="after")
    def _segments_follow_each_other(self) -> Self:
        ends = [0, *(one.until for one in self.earlier), self.num_steps]
        if ends != sorted(ends) or any(one.until > one.num_steps for one in self.earlier):
            raise ValueError(
                f"earlier has segments until {ends[1:-1]} steps, of num_steps={self.num_steps}: "
                "each must end where the next begins, and none after its own num_steps; set "
                "earlier=[]: a run that goes on writes it"
            )
        return self

    @model_validator(mode="after")
    def _powers_count_from_the_beginning(self) -> Self:
        if self.averaged_before and self.power_averages:
            raise ValueError(
                f"power_averages={list(self.power_averages)} weigh steps by their number since the "
                f"beginning of the run, and start_from={self.start_from} has its averages go on; "
                "leave power_averages out, or begin from an average or from :raw"
            )
        return self

    @model_validator(mode="after")
    def _moments_are_of_the_weights(self) -> Self:
        start = self.start
        if self.start_optimiser == "kept" and (start is None or not start.has_moments):
            given = "it is left out" if start is None else f"it is {start.name}"
            raise ValueError(
                "start_optimiser=kept takes the moments of the weights that were trained, of "
                f"start_from=RUN@STEP:raw or RUN@STEP:state, and {given}; leave start_optimiser "
                "out, or name such weights"
            )
        return self

    @model_validator(mode="after")
    def _knobs_belong_to_the_weighting(self) -> Self:
        knobs = {"min_snr_gamma": "min_snr", "p2_gamma": "p2", "p2_k": "p2"}
        self.refuse_unused("weighting", knobs)
        return self

    @model_validator(mode="after")
    def _averages_have_names(self) -> Self:
        for key, name, require in (
            ("ema_decays", ema_name, require_decay),
            ("power_averages", power_name, require_width),
        ):
            values = getattr(self, key)
            for value in values:
                require(f"{key}={list(values)}", value)
            if len({name(value) for value in values}) < len(values):
                raise ValueError(f"{key}={list(values)} has a number twice; keep one")
        if not self.power_averages:
            default = type(self).model_fields["num_snapshots"].default
            if self.num_snapshots != default:
                raise ValueError(
                    f"num_snapshots={self.num_snapshots} are of power_averages, and there are "
                    "none; leave it out, or give power_averages=[0.05, 0.1]"
                )
        if self.ema_decay in self.ema_decays:
            raise ValueError(
                f"ema_decays={list(self.ema_decays)} has {self.ema_decay}, which is ema_decay: "
                "that average is there, called ema; leave it out"
            )
        return self


def require_decay(where: str, decay: float) -> None:
    """Refuse a decay of an average that is called by its digits; `where` it was given, for people.

    Raises:
        ConfigError: with what it must be.
    """
    if not 0.01 <= decay < 1:
        raise ConfigError(f"{where}: {decay} must be at least 0.01 and less than 1")
    _require_short(where, decay, ema_name(decay))


def require_width(where: str, sigma_rel: float) -> None:
    """Refuse a width of an average that is called by its digits; `where` it was given, for people.

    Raises:
        ConfigError: with what it must be.
    """
    if not NARROWEST <= sigma_rel <= WIDEST:
        raise ConfigError(
            f"{where}: {sigma_rel} must be at least {NARROWEST} and at most {WIDEST}, a little "
            "less than that of the mean of all steps"
        )
    _require_short(where, sigma_rel, power_name(sigma_rel))


def _require_short(where: str, value: float, name: str) -> None:
    digits = len(name.partition("_")[2])
    if digits > _MOST_DIGITS:
        raise ConfigError(
            f"{where}: the digits of {value} name its average, and are {digits}; give "
            f"{_MOST_DIGITS} at most"
        )
