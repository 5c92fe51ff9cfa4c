"""What the references of a configuration name, before any checkpoint is looked at.

There are two: `sample.model`, the weights that draw, and `sample.guidance_by`, those that guide
them: of a weaker model, of a classifier, or of CLIP.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ddpm_core.config import Role, RunConfig, identity
from ddpm_core.config.averages import powers_of
from ddpm_core.config.explain import near
from ddpm_core.config.model_ref import NEWEST, ModelRef, sigma_rel_in
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.runs import begun, layout
from ddpm_core.runs.weights import Weights, averages_in
from ddpm_core.store.storage import Store

Key = Literal["model", "guidance_by"]
"""of the section `sample`: which of its two references"""
REFERENCES: tuple[Key, ...] = ("model", "guidance_by")
_OF_THE_OUTPUT = ("prediction", "variance")
_OF_THE_TRAINING = (*_OF_THE_OUTPUT, "times", "log_sigma_mean", "log_sigma_std")
"""keys of `diffusion` that say what a network predicts and at which times it was trained, not which
noise there is; but with chain_times=training, where the chain has its steps at those times"""


_NAMES: Mapping[Role, str] = {
    "denoiser": "a weaker model",
    "classifier": "a classifier",
    "clip": "CLIP",
    "text": "a language model",
}
"""what is said of a network that guides, by its role"""


def given(config: RunConfig, key: Key) -> str | None:
    """Return a reference as it stands in a configuration; None where there is none."""
    text: str | None = getattr(config.sample, key)
    return text


def keys_given(config: RunConfig) -> list[Key]:
    """Return the references that a configuration gives."""
    return [key for key in REFERENCES if given(config, key) is not None]


def said(config: RunConfig, key: Key) -> str:
    """Return a reference as an error names it."""
    return f"sample.{key}={given(config, key)!r}"


def ref_of(config: RunConfig, key: Key = "model") -> ModelRef:
    """Return the reference in a configuration; by default to the last average of its own run."""
    text = given(config, key)
    return ModelRef() if text is None else ModelRef.parse(text)


def is_own(config: RunConfig, key: Key = "model") -> bool:
    """Say whether a configuration names weights of its own run."""
    return ref_of(config, key).run in (None, config.name)


def is_made(trained: RunConfig, average: str) -> bool:
    """Say whether an average is made of a run's snapshots, and not kept by its training."""
    powers = powers_of(trained.train)
    return bool(powers) and sigma_rel_in(average) is not None and average not in powers


def step_of_made(store: Store, trained: RunConfig, ref: ModelRef) -> int:
    """Return the step of an average made of snapshots that a reference means, there or not."""
    if isinstance(ref.step, int):
        return ref.step
    made = layout.steps_in(store, f"{layout.averages_folder(trained.name)}/{ref.average}")
    return made[0] if made and ref.step == NEWEST else trained.train.num_steps


def trained_by(store: Store, config: RunConfig, key: Key = "model") -> RunConfig:
    """Return the configuration of the run that trained, or will train, what `config` names.

    Raises:
        ConfigError: there is no such run, or its network or its diffusion is another than those of
            `config`, by which the weights are used and their results are called; of a weaker model
            that guides, its network may be another, and what it predicts.
    """
    run = ref_of(config, key).run
    if run is None or run == config.name:
        return config
    found = begun.recorded(store, run)
    if found is None:
        close = near(run, store.names("runs"))
        meant = f"; did you mean {close!r}?" if close else ""
        raise ConfigError(f"{said(config, key)}: there is no run {run!r} below {store.uri}{meant}")
    _require_role(config, found, key)
    if key == "model":
        here, there = _use_of(config), _use_of(found)
    elif found.role != "denoiser":
        here, there = _scored(config), _scored(found)
        # The classifier says of what its images are; and CLIP knows of no classes.
        if config.num_classes is None or found.role == "clip":
            there["model.num_classes"] = config.num_classes
        if found.role == "clip" and config.model.uses_text:
            here |= {"model.text_length": config.model.text_length}
            there |= {"model.text_length": found.model.text_length}
    else:
        here, there = _guidance_of(config), _guidance_of(found)
    if lines := _differences(here, there):
        shown = "".join(f"\n  {line}" for line in lines)
        raise ConfigError(
            f"{said(config, key)}: the weights of run {run!r} are of another network or diffusion "
            f"than run {config.name!r} has:{shown}\n"
            "Give that run itself as the target: there they are @STEP"
            if key == "model"
            else f"{said(config, key)}: run {run!r} cannot guide run {config.name!r}, since its "
            f"images, their labels or the noise on them are others:{shown}\n"
            + (
                "Train a weaker model that differs in its network and its length alone"
                if found.role == "denoiser"
                else f"Train {_NAMES[found.role]} of the same images with the same noise"
            )
        )
    return found


def classifier_of(store: Store, config: RunConfig) -> RunConfig | None:
    """Return the configuration of the classifier that guides the samples of a run, if one does.

    Raises:
        ConfigError: as `trained_by`.
    """
    if config.sample.guidance_by is None:
        return None
    found = trained_by(store, config, "guidance_by")
    return found if found.role == "classifier" else None


def scored_by(store: Store, config: RunConfig) -> RunConfig | None:
    """Return the configuration of the network whose gradient guides the samples of a run, if one
    does: a classifier, or CLIP.

    Raises:
        ConfigError: as `trained_by`.
    """
    if config.sample.guidance_by is None:
        return None
    found = trained_by(store, config, "guidance_by")
    return None if found.role == "denoiser" else found


def _require_role(config: RunConfig, found: RunConfig, key: Key) -> None:
    """Refuse weights of another role, and settings that do not go with how they guide."""
    sample, given_as = config.sample, said(config, key)
    if key == "model" and found.role != config.role:
        raise ConfigError(
            f"{given_as}: the weights of run {found.name!r} are of model.kind={found.model.kind}, "
            f"and run {config.name!r} is of model.kind={config.model.kind}"
            + (
                ""
                if found.role in ("denoiser", "text")
                else f"; give sample.guidance_by={found.name}"
            )
        )
    if key == "model":
        return
    if found.role == "text":
        raise ConfigError(
            f"{given_as} is a language model of captions (model.kind=text), which says nothing of "
            "images: name a weaker model, a classifier, or CLIP"
        )
    if found.role != "denoiser" and sample.guidance_rescale > 0:
        raise ConfigError(
            f"sample.guidance_rescale={sample.guidance_rescale} is stated for guidance away from a "
            f"reference, and {given_as} is {_NAMES[found.role]}, which has none; leave it out"
        )
    if found.role != "denoiser" and not sample.is_of_all_steps:
        require_end_known(config)
    if found.role == "denoiser" and sample.guidance_scale == 1:
        raise ConfigError(
            f"{given_as} is a setting of guidance, and with sample.guidance_scale=1 there is none; "
            "leave sample.guidance_by out, or give sample.guidance_scale=2, say"
        )
    _require_texts(config, found)
    if found.role != "classifier" and config.num_classes is None and sample.labels != "balanced":
        raise ConfigError(
            f"sample.labels={json.dumps(sample.labels)} is a setting of networks that take labels "
            f"and of guidance by a classifier, and {given_as} is neither; leave sample.labels out"
        )


def _require_texts(config: RunConfig, found: RunConfig) -> None:
    """Refuse CLIP without texts to lead to, and texts that nobody is given."""
    if config.model.uses_text:
        return
    texts, given_as = config.sample.prompts, said(config, "guidance_by")
    if found.role == "clip" and isinstance(texts, str):
        raise ConfigError(
            f"{given_as} is CLIP, which leads to what a text says, and sample.prompts={texts} are "
            "the captions that a network of texts was trained with; give texts, e.g. --set "
            'sample.prompts=["the digit seven"]'
        )
    if found.role != "clip" and texts != type(config.sample).model_fields["prompts"].default:
        raise ConfigError(
            f"sample.prompts={json.dumps(texts)[:100]} is a setting of networks that are given "
            f"texts, and of guidance by CLIP, and {given_as} is neither; leave sample.prompts out"
        )


def require_end_known(config: RunConfig) -> None:
    """Refuse a gradient that is to move eps where eps says nothing of the image.

    Raises:
        ConfigError: the chain ends in pure noise.
    """
    if config.diffusion.ends_in_pure_noise:
        raise ConfigError(
            f"{said(config, 'guidance_by')} guides by a gradient, which moves the predicted noise "
            "of all that does not take every step of the chain by sample.sampler=ancestral, and "
            "where the chain ends in pure noise that says nothing of the image; draw with "
            "sample.sampler=ancestral and sample.num_steps=null, or leave sample.guidance_by out"
        )


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return a line for each key in which the weights of two runs are used otherwise."""
    return [
        f"{key}: {json.dumps(first.get(key))} here, {json.dumps(second.get(key))} there"
        for key in {**first, **second}
        if first.get(key) != second.get(key)
    ]


def _use_of(config: RunConfig) -> dict[str, Any]:
    """Return what must be known of weights to draw images from them."""
    sections = {"model": config.model, "diffusion": config.diffusion}
    keys = {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in identity.counted(name, section).items()
    }
    # A bundle's goes without saying.
    keys["model.num_classes"] = config.num_classes
    return {**keys, "shape of the images": list(config.data.shape), **_low_levels(config)}


def _low_levels(config: RunConfig) -> dict[str, Any]:
    """Return which low resolutions a network was shown; {} of one that is given none."""
    shown = list(config.train.low_levels)
    return {} if config.model.low_size is None else {"train.low_levels": shown}


def _guidance_of(config: RunConfig) -> dict[str, Any]:
    """Return what two networks must have in common for one to guide the other."""
    path = identity.counted("diffusion", config.diffusion)
    at_those_times = getattr(config.diffusion, "chain_times", None) == "training"
    free = _OF_THE_OUTPUT if at_those_times else _OF_THE_TRAINING
    return {
        **{f"diffusion.{key}": path[key] for key in path if key not in free},
        "model.num_classes": config.num_classes,
        "model.conditioning=text": config.model.uses_text,
        "data.depth": config.data.depth,
        "model.low_size": config.model.low_size,
        **_low_levels(config),
        # Which speaks of whole steps alone: what calls the one may not be able to call the other.
        "diffusion.prediction=x_prev": config.diffusion.prediction == "x_prev",
        "shape of the images": list(config.data.shape),
    }


def _scored(config: RunConfig) -> dict[str, Any]:
    """Return what a network must have in common with one whose gradient guides it."""
    alike = _guidance_of(config)
    del alike["model.low_size"]  # the other takes none
    alike.pop("train.low_levels", None)
    del alike["diffusion.prediction=x_prev"]  # the other is called wherever the network is
    del alike["model.conditioning=text"]  # and whatever else that is given
    return alike


def canonical(store: Store, config: RunConfig, key: Key = "model") -> ModelRef:
    """Return the reference in a configuration with nothing left out, and without its digest.

    Raises:
        ConfigError: as `trained_by`.
    """
    ref, trained = ref_of(config, key), trained_by(store, config, key)
    step = trained.train.num_steps if ref.step is None else ref.step
    return replace(ref, run=trained.name, step=step, sha256=None)


def require_average(store: Store, found: Weights) -> None:
    """Refuse an average that is not in the checkpoint.

    Raises:
        CheckpointError: with those that are.
    """
    roles = averages_in(found.checkpoint)
    if found.average not in roles:
        raise CheckpointError(
            f"{store.uri_of(found.checkpoint.folder)} has no weights {found.average!r}; it has "
            f"{', '.join(roles)}"
        )


def require_pinned(store: Store, config: RunConfig, found: Weights, key: Key = "model") -> None:
    """Refuse weights of other bytes than a pinned reference names.

    Raises:
        CheckpointError: with both digests.
    """
    pinned = ref_of(config, key).sha256
    if pinned is not None and not found.sha256.startswith(pinned):
        raise CheckpointError(
            f"{said(config, key)} is pinned to weights with SHA-256 {pinned}..., "
            f"and {store.uri_of(found.checkpoint.folder)} holds {found.sha256[: len(pinned)]}...: "
            f"they were trained again or exchanged; give sample.{key}={found.name!r} to mean those"
        )
