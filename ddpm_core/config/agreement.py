"""What sections of a configuration must agree on: each rule raises ValueError, with a remedy."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ddpm_core.config.diffusion import BinomialConfig, ContinuousConfig
from ddpm_core.config.labels import (
    OF_IMAGES,
    guide_is_another,
    guides_draw_nothing,
    labels_are_there,
    prompts_are_read,
)
from ddpm_core.config.low import low_resolutions_fit
from ddpm_core.config.measure import EvaluateConfig
from ddpm_core.config.model.bumps import BumpsConfig
from ddpm_core.diffusion.choices import (
    is_of_one_step,
    require_possible,
    require_samplable,
)
from ddpm_core.errors import ConfigError

if TYPE_CHECKING:
    from ddpm_core.config.run import RunConfig

_NEIGHBOURS = 6
"""images of which each has a fifth nearest other"""


def _bits_go_together(config: "RunConfig") -> None:
    if not isinstance(config.diffusion, BinomialConfig):
        return
    data, train, sample = config.data, config.train, config.sample
    wrong = (
        (not data.is_binary, f"data.name={data.name}", "images of two levels: heartbeat"),
        (train.loss != "vlb", f"train.loss={train.loss}", "the bound, train.loss=vlb"),
        (config.model.known, "model.known=true", "no known part: leave model.known out"),
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
            for key in OF_IMAGES
        ),
    )
    for is_wrong, given, needed in wrong:
        if is_wrong:
            raise ValueError(
                f"{given} does not go with diffusion.kind=binomial, a chain of bits: it takes "
                f"{needed}"
            )


def _bumps_are_of_steps(config: "RunConfig") -> None:
    model, kind = config.model, config.diffusion.kind
    is_continuous = isinstance(config.diffusion, ContinuousConfig)
    if is_continuous and isinstance(model, BumpsConfig):
        raise ValueError(
            f"model.kind={model.kind} is read out by bumps over the steps of a chain, and networks "
            f"of diffusion.kind={kind} are given no step: set model.kind=unet, adm or dit, or "
            "diffusion.kind=chain or binomial"
        )


def _augmented_are_images(config: "RunConfig") -> None:
    given, data = f"train.augment={config.train.augment}", config.data
    if not config.train.augment:
        return
    if not config.model.time_features or config.diffusion.kind == "binomial":
        raise ValueError(
            f"{given} turns and moves images and tells the network so, for which there are "
            "model.kind=unet, adm and dit on Gaussian noise, not model.kind="
            f"{config.model.kind} with diffusion.kind={config.diffusion.kind}; leave "
            "train.augment out"
        )
    if min(data.height, data.width) < 2:
        raise ValueError(
            f"{given} continues images by reflection, and with data.height={data.height}, "
            f"data.width={data.width} there is none; leave train.augment out"
        )


def _fourier_features_are_of_sigma(config: "RunConfig") -> None:
    kind, embedding = config.diffusion.kind, getattr(config.model, "time_embedding", None)
    if embedding == "fourier" and kind not in ("ve", "edm"):
        raise ValueError(
            "model.time_embedding=fourier is of networks that are given log sigma, and with "
            f"diffusion.kind={kind} it is a time of up to 1000: leave it out, or set "
            "diffusion.kind=ve or edm"
        )


def _flow_is_measured_in_continuous_time(config: "RunConfig") -> None:
    steps, default = config.evaluate.ode_steps, EvaluateConfig.model_fields["ode_steps"].default
    if steps != default and not isinstance(config.diffusion, ContinuousConfig):
        raise ValueError(
            f"evaluate.ode_steps={steps} is of processes in continuous time, and "
            f"diffusion.kind={config.diffusion.kind} is none: leave it out; the study measures "
            "the flow of a chain, with study.ode_steps"
        )


def _objective_is_possible(config: "RunConfig") -> None:
    diffusion, train = config.diffusion, config.train
    try:
        require_possible(diffusion.prediction, diffusion.variance, train.loss, train.weighting)
    except ConfigError as error:
        raise ValueError(f"diffusion and train do not go together: {error}") from None


def _sampler_is_possible(config: "RunConfig") -> None:
    diffusion, sample = config.diffusion, config.sample
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


def _ddim_is_possible(config: "RunConfig") -> None:
    diffusion = config.diffusion
    for num_steps in config.study.ddim_steps:
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


def _previews_are_possible(config: "RunConfig") -> None:
    every = config.train.preview_every
    if every is not None and config.diffusion.kind == "binomial":
        raise ValueError(
            f"train.preview_every={every}: previews are of images, and diffusion.kind=binomial "
            "is a chain of bits; leave it out"
        )
    if every is not None and is_of_one_step(config.diffusion.prediction):
        raise ValueError(
            f"train.preview_every={every}: previews take few steps of the chain, and "
            f"diffusion.prediction={config.diffusion.prediction} can draw with all of them "
            "alone; leave it out"
        )


def _state_is_divided_among_several(config: "RunConfig") -> None:
    if not config.compute.divide_state:
        return
    if config.compute.num_workers == 1:
        raise ValueError(
            "compute.divide_state=true divides the state of a training among its workers, and "
            "compute.num_workers is 1; give more, or leave divide_state out"
        )
    if config.train.preview_every is not None:
        raise ValueError(
            f"train.preview_every={config.train.preview_every}: previews are drawn by one worker "
            "from an average, of which none has the whole with compute.divide_state=true; leave "
            "out one of the two"
        )


def _images_and_workers_fit(config: "RunConfig") -> None:
    workers = config.compute.num_workers
    config.model.require_images(height=config.data.height, width=config.data.width)
    if config.train.global_batch_size % workers:
        raise ValueError(
            f"train.global_batch_size={config.train.global_batch_size} is not a multiple of "
            f"compute.num_workers={workers}; change one of them"
        )


def _frozen_text_is_read_already(config: "RunConfig") -> None:
    if not getattr(config.model, "text_frozen", False):
        return
    if config.train.start_from is None:
        raise ValueError(
            "model.text_frozen=true leaves the encoder of captions as it begins, and without "
            "train.start_from it begins with random weights: name a run of model.kind=text, as in "
            "train.start_from=words@1000, or leave model.text_frozen out"
        )
    if config.compute.divide_state:
        raise ValueError(
            "compute.divide_state=true divides what is trained among the workers, and with "
            "model.text_frozen=true there are weights that are not: leave compute.divide_state out"
        )


def _captions_are_told_apart(config: "RunConfig") -> None:
    compute, size = config.compute, config.train.global_batch_size
    if config.role != "clip":
        return
    if size < 2:
        raise ValueError(
            f"train.global_batch_size={size}: model.kind=clip learns to tell the captions of a "
            "batch apart; give at least 2, and rather hundreds"
        )
    if compute.micro_batch_size is not None:
        raise ValueError(
            f"compute.micro_batch_size={compute.micro_batch_size} shows the network few images "
            "after the other, and model.kind=clip holds the captions of the whole batch at once "
            "against each image: leave it out; compute.checkpoint_activations=true saves memory, "
            "and so do more workers"
        )
    if compute.cuda_graphs and compute.num_workers > 1:
        raise ValueError(
            "compute.cuda_graphs=true records what a step of one worker computes, and with "
            f"compute.num_workers={compute.num_workers} model.kind=clip looks at what several "
            "workers computed in the middle of it: leave compute.cuda_graphs out"
        )


def _memory_is_saved(config: "RunConfig") -> None:
    compute, size = config.compute, config.train.global_batch_size
    share = size // compute.num_workers
    if compute.micro_batch_size is not None and compute.micro_batch_size > share:
        raise ValueError(
            f"compute.micro_batch_size={compute.micro_batch_size} is more than the {share} images "
            f"of a worker (train.global_batch_size={size}, compute.num_workers="
            f"{compute.num_workers}), which are in memory at once without it: leave it out, or "
            "give fewer"
        )
    if compute.checkpoint_activations and isinstance(config.model, BumpsConfig):
        raise ValueError(
            "compute.checkpoint_activations=true computes blocks of a network twice, and model.kind"
            f"={config.model.kind} has none: leave it out; compute.micro_batch_size saves memory "
            "too"
        )
    # What the masks of dropout are drawn from is set back for the second time, which a graph cannot
    # hold (pytorch#162504), and which compiled code does by ways of its own (pytorch#190758).
    for key in ("cuda_graphs", "compile"):
        if compute.checkpoint_activations and getattr(compute, key):
            raise ValueError(
                f"compute.checkpoint_activations=true does not go with compute.{key}=true, under "
                "which torch cannot compute activations twice with the same dropout: leave one of "
                "the two out; compute.micro_batch_size saves memory with either"
            )


def _neighbours_are_there(config: "RunConfig") -> None:
    named = {"precision_recall", "density_coverage"} & set(config.evaluate.metrics)
    if named and config.sample.num_images < _NEIGHBOURS:
        raise ValueError(
            f"evaluate.metrics has {', '.join(sorted(named))}, and sample.num_images="
            f"{config.sample.num_images}: neighbours are those of at least {_NEIGHBOURS} images, "
            "and mean something of a thousand; draw more, or leave it out"
        )


RULES: tuple[Callable[["RunConfig"], None], ...] = (
    labels_are_there,
    low_resolutions_fit,
    prompts_are_read,
    _bits_go_together,
    _bumps_are_of_steps,
    _augmented_are_images,
    _fourier_features_are_of_sigma,
    _flow_is_measured_in_continuous_time,
    guides_draw_nothing,
    _objective_is_possible,
    _sampler_is_possible,
    _ddim_is_possible,
    _previews_are_possible,
    guide_is_another,
    _images_and_workers_fit,
    _captions_are_told_apart,
    _frozen_text_is_read_already,
    _memory_is_saved,
    _state_is_divided_among_several,
    _neighbours_are_there,
)
"""in the order in which they are tried; the first that does not hold is said"""
