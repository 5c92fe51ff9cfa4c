"""What sections of a configuration must agree on: each rule raises ValueError, with a remedy."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ddpm_core.config.diffusion import BinomialConfig, ContinuousConfig
from ddpm_core.config.measure import EvaluateConfig
from ddpm_core.config.model.bumps import BumpsConfig
from ddpm_core.config.model_ref import EMA, NEWEST, ModelRef
from ddpm_core.diffusion.choices import (
    is_learned,
    is_of_one_step,
    require_possible,
    require_samplable,
)
from ddpm_core.errors import ConfigError

if TYPE_CHECKING:
    from ddpm_core.config.run import RunConfig

_NEIGHBOURS = 6
"""images of which each has a fifth nearest other"""

_OF_IMAGES = (
    "guidance_by",
    "guidance_interval",
    "guidance_rescale",
    "threshold_percentile",
    "threshold_cap",
)
"""keys of `sample` that are stated for images and not for bits"""

_OF_DENOISERS = {
    "train": ("loss", "weighting", "label_dropout", "preview_every"),
    "sample": ("labels", "guidance_scale", "guidance_by", *_OF_IMAGES[1:]),
    "evaluate": (
        *("num_classified_images", "label_worth", "ode_steps", "features", "metrics"),
        "reference",
    ),
}
"""section -> keys that a run of a classifier has no use for"""


def _labels_are_there(config: "RunConfig") -> None:
    data, model = config.data, config.model
    if not model.uses_labels:
        _refuse_knobs_of_labels(config)
        return
    key = "conditioning=label" if model.role == "denoiser" else f"kind={model.kind}"
    if not data.class_folders:
        raise ValueError(
            f"model.{key} goes by the classes of the images, and with "
            "data.class_folders=false there is one for all; leave out one of the two"
        )
    if config.num_classes is None:
        raise ValueError(
            f"model.{key} with data.name={data.name} needs model.num_classes, the "
            f"number of folders that are classes; --dry-run without model.{key.partition('=')[0]} "
            "says which there are"
        )
    if data.num_classes not in (None, config.num_classes):
        raise ValueError(
            f"model.num_classes={model.num_classes}, but {data.name} has {data.num_classes} "
            "classes; set model.num_classes=null"
        )
    for label in config.sample.labels if isinstance(config.sample.labels, tuple) else ():
        if isinstance(label, int) and not 0 <= label < config.num_classes:
            raise ValueError(
                f"sample.labels has {label}, and the {config.num_classes} classes have the "
                f"numbers 0 to {config.num_classes - 1}"
            )


def _refuse_knobs_of_labels(config: "RunConfig") -> None:
    knobs = [("train", "label_dropout")]
    knobs += [("evaluate", "num_classified_images"), ("evaluate", "label_worth")]
    if config.sample.guidance_by is None:
        knobs.append(("sample", "guidance_scale"))
    if config.sample.guidance_by is None or _is_own(config):  # else perhaps by a classifier
        knobs.append(("sample", "labels"))
    for name, key in knobs:
        section = getattr(config, name)
        value = getattr(section, key)
        if value != type(section).model_fields[key].default:
            other = " or sample.guidance_by" if name == "sample" else ""
            raise ValueError(
                f"{name}.{key}={value} is a setting of model.conditioning=label{other}, and "
                f"the network is given no label; leave {name}.{key} out, or set "
                f"model.conditioning=label{other}"
            )


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
            for key in _OF_IMAGES
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
            f"of diffusion.kind={kind} are given no step: set model.kind=unet or dit, or "
            "diffusion.kind=chain or binomial"
        )


def _augmented_are_images(config: "RunConfig") -> None:
    given, data = f"train.augment={config.train.augment}", config.data
    if not config.train.augment:
        return
    if not config.model.time_features or config.diffusion.kind == "binomial":
        raise ValueError(
            f"{given} turns and moves images and tells the network so, for which there are "
            f"model.kind=unet and dit on Gaussian noise, not model.kind={config.model.kind} with "
            f"diffusion.kind={config.diffusion.kind}; leave train.augment out"
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


def _classifiers_only_classify(config: "RunConfig") -> None:
    """Refuse what a run of a classifier has no use for: what it draws, or how it denoises."""
    if config.role != "classifier":
        return
    kind = f"model.kind={config.model.kind}"
    if config.diffusion.kind == "binomial":
        raise ValueError(
            f"{kind} is trained on images with Gaussian noise, and diffusion.kind=binomial is a "
            "chain of bits; set another diffusion.kind"
        )
    for name, keys in _OF_DENOISERS.items():
        section = getattr(config, name)
        for key in keys:
            value, default = getattr(section, key), type(section).model_fields[key].default
            if value != default:
                raise ValueError(
                    f"{name}.{key}={value} is of networks that draw images, and {kind} says which "
                    f"class an image is of; leave {name}.{key} out"
                )
    if is_learned(config.diffusion.variance):
        raise ValueError(
            f"diffusion.variance={config.diffusion.variance} is of networks that predict the "
            f"variance of a step too, and {kind} says which class an image is of; set "
            "diffusion.variance=fixed_small"
        )


def _guide_is_another(config: "RunConfig") -> None:
    sample = config.sample
    if sample.guidance_by is not None and sample.guidance_scale == 1 and _is_own(config):
        raise ValueError(
            f"sample.guidance_by={sample.guidance_by} is a setting of guidance, and with "
            "sample.guidance_scale=1 there is none; leave sample.guidance_by out, or give "
            "sample.guidance_scale=2, say"
        )
    if sample.guidance_by is not None and _meant(config, sample.guidance_by) == _meant(
        config, sample.model or f":{EMA}"
    ):
        raise ValueError(
            f"sample.guidance_by={sample.guidance_by} names the weights that draw, which are not "
            "led away from themselves: name weaker ones, such as an earlier step, or leave it and "
            "its settings out"
        )


def _is_own(config: "RunConfig") -> bool:
    """Say whether the weights that guide are of the run's own training."""
    return ModelRef.parse(config.sample.guidance_by or "").run in (None, config.name)


def _meant(config: "RunConfig", text: str) -> ModelRef:
    """Return a reference with what it leaves out, as it is once the run is trained."""
    ref = ModelRef.parse(text)
    ref = replace(ref, run=ref.run or config.name, sha256=None)
    is_last = ref.run == config.name and ref.step in (None, NEWEST)
    return replace(ref, step=config.train.num_steps) if is_last else ref


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
    _labels_are_there,
    _bits_go_together,
    _bumps_are_of_steps,
    _augmented_are_images,
    _fourier_features_are_of_sigma,
    _flow_is_measured_in_continuous_time,
    _classifiers_only_classify,
    _objective_is_possible,
    _sampler_is_possible,
    _ddim_is_possible,
    _previews_are_possible,
    _guide_is_another,
    _images_and_workers_fit,
    _memory_is_saved,
    _state_is_divided_among_several,
    _neighbours_are_there,
)
"""in the order in which they are tried; the first that does not hold is said"""
