"""What a configuration's `sample.model` refers to, before any checkpoint is looked at."""

import json
from dataclasses import replace
from typing import Any

from ddpm_core.config import RunConfig, identity
from ddpm_core.config.averages import powers_of
from ddpm_core.config.explain import near
from ddpm_core.config.model_ref import NEWEST, ModelRef, sigma_rel_in
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.runs import begun, layout
from ddpm_core.runs.weights import Weights, averages_in
from ddpm_core.store.storage import Store


def ref_of(config: RunConfig) -> ModelRef:
    """Return the reference in a configuration; by default to the last average of its own run."""
    model = config.sample.model
    return ModelRef() if model is None else ModelRef.parse(model)


def is_own(config: RunConfig) -> bool:
    """Say whether a configuration names weights of its own run."""
    return ref_of(config).run in (None, config.name)


def is_made(trained: RunConfig, average: str) -> bool:
    """Say whether an average is made of a run's snapshots, and not kept by its training."""
    return sigma_rel_in(average) is not None and average not in powers_of(trained.train)


def step_of_made(store: Store, trained: RunConfig, ref: ModelRef) -> int:
    """Return the step of an average made of snapshots that a reference means, there or not."""
    if isinstance(ref.step, int):
        return ref.step
    made = layout.steps_in(store, f"{layout.averages_folder(trained.name)}/{ref.average}")
    return made[0] if made and ref.step == NEWEST else trained.train.num_steps


def trained_by(store: Store, config: RunConfig) -> RunConfig:
    """Return the configuration of the run that trained, or will train, what `config` names.

    Raises:
        ConfigError: there is no such run, or its network or its diffusion is another than those of
            `config`, by which the weights are used and their results are called.
    """
    run = ref_of(config).run
    if run is None or run == config.name:
        return config
    found = begun.recorded(store, run)
    if found is None:
        close = near(run, store.names("runs"))
        meant = f"; did you mean {close!r}?" if close else ""
        raise ConfigError(
            f"sample.model={config.sample.model!r}: there is no run {run!r} below "
            f"{store.uri}{meant}"
        )
    if lines := _differences(config, found):
        shown = "".join(f"\n  {line}" for line in lines)
        raise ConfigError(
            f"sample.model={config.sample.model!r}: the weights of run {run!r} are of another "
            f"network or diffusion than run {config.name!r} has:{shown}\n"
            "Give that run itself as the target: there they are @STEP"
        )
    return found


def _differences(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """Return a line for each key in which the weights of two runs are used otherwise."""
    first, second = _use_of(ours), _use_of(theirs)
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
    return {**keys, "shape of the images": list(config.data.shape)}


def canonical(store: Store, config: RunConfig) -> ModelRef:
    """Return the reference in a configuration with nothing left out, and without its digest.

    Raises:
        ConfigError: as `trained_by`.
    """
    ref, trained = ref_of(config), trained_by(store, config)
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


def require_pinned(store: Store, config: RunConfig, found: Weights) -> None:
    """Refuse weights of other bytes than a pinned reference names.

    Raises:
        CheckpointError: with both digests.
    """
    pinned = ref_of(config).sha256
    if pinned is not None and not found.sha256.startswith(pinned):
        raise CheckpointError(
            f"sample.model={config.sample.model!r} is pinned to weights with SHA-256 {pinned}..., "
            f"and {store.uri_of(found.checkpoint.folder)} holds {found.sha256[: len(pinned)]}...: "
            f"they were trained again or exchanged; give sample.model={found.name!r} to mean those"
        )
