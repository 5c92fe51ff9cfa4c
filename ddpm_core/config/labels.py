"""What sections must agree on where images are of something: labels, prompts, guidance."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from ddpm_core.config.model_ref import EMA, NEWEST, ModelRef
from ddpm_core.config.sample import SampleConfig
from ddpm_core.diffusion.choices import is_learned

if TYPE_CHECKING:
    from ddpm_core.config.run import RunConfig

OF_IMAGES = (
    "guidance_by",
    "guidance_interval",
    "guidance_rescale",
    "threshold_percentile",
    "threshold_cap",
)
"""keys of `sample` that are stated for images and not for bits"""

_OF_DENOISERS = {
    "train": ("loss", "weighting", "label_dropout", "text_dropout", "preview_every"),
    "sample": ("labels", "prompts", "guidance_scale", "guidance_by", *OF_IMAGES[1:]),
    "evaluate": (
        *("num_classified_images", "label_worth", "ode_steps", "features", "metrics"),
        "reference",
    ),
}
"""section -> keys that a run of a network that draws nothing has no use for"""


def labels_are_there(config: "RunConfig") -> None:
    """Refuse a network of labels without classes, and settings of labels without such a network."""
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


def prompts_are_read(config: "RunConfig") -> None:
    """Refuse settings of texts where neither the network nor what guides it is given any."""
    sample, dropout = config.sample, config.train.text_dropout
    if config.model.uses_text:
        return
    if dropout != type(config.train).model_fields["text_dropout"].default:
        raise ValueError(
            f"train.text_dropout={dropout} is a setting of model.conditioning=text, and the "
            "network is given no text; leave train.text_dropout out, or set "
            "model.conditioning=text"
        )
    if sample.prompts == SampleConfig.model_fields["prompts"].default:
        return
    if sample.guidance_by is not None and not _is_own(config):  # perhaps CLIP
        return
    raise ValueError(
        f"sample.prompts={json.dumps(sample.prompts, ensure_ascii=False)[:100]} is a setting of "
        "model.conditioning=text, or of sample.guidance_by a run of model.kind=clip, and the "
        "network is given no text; leave sample.prompts out, or set one of the two"
    )


def _refuse_knobs_of_labels(config: "RunConfig") -> None:
    knobs = [("train", "label_dropout")]
    if not config.model.uses_text:
        knobs += [("evaluate", "num_classified_images"), ("evaluate", "label_worth")]
    if config.sample.guidance_by is None and not config.model.uses_text:
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


def guides_draw_nothing(config: "RunConfig") -> None:
    """Refuse what a run that only guides has no use for: what it draws, or how it denoises."""
    if config.role == "denoiser":
        return
    kind = f"model.kind={config.model.kind}"
    says = {
        "clip": "says how well an image fits a caption",
        "text": "says what is hidden in captions",
    }.get(config.role, "says which class an image is of")
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
                    f"{name}.{key}={value} is of networks that draw images, and {kind} {says}; "
                    f"leave {name}.{key} out"
                )
    if is_learned(config.diffusion.variance):
        raise ValueError(
            f"diffusion.variance={config.diffusion.variance} is of networks that predict the "
            f"variance of a step too, and {kind} {says}; set "
            "diffusion.variance=fixed_small"
        )


def guide_is_another(config: "RunConfig") -> None:
    """Refuse weights that guide where nothing is guided, and those that draw as their own guide."""
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
