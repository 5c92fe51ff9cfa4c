"""The weights that a stage uses: resolved when it begins, and refused before it if they cannot be.

A reference that moves, such as @newest, is resolved once: the stage goes on with a configuration
that names step and SHA-256. Retention may delete the files meanwhile, since a training asks nobody;
then what is not loaded yet is refused, and what was made is kept.
"""

from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.model_ref import NEWEST, RAW
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.reference import Key, is_made, keys_given, ref_of, said
from ddpm_core.runs.refusals import absence, steps_there
from ddpm_core.runs.weights import Weights
from ddpm_core.store import manifest
from ddpm_core.store.storage import Store


def require(store: Store, config: RunConfig) -> Weights:
    """Return the weights that results of this configuration are made of.

    Raises:
        CheckpointError: they are not there; with those that are.
        ConfigError, DamagedError: as `results.weights_of`.
    """
    found = results.weights_of(store, config)
    if found is None:
        raise CheckpointError(absence(store, config))
    return found


def require_named(store: Store, config: RunConfig, key: Key) -> Weights:
    """Return the weights that one reference names, whatever the other does.

    Raises:
        CheckpointError: they are not there; with those that are.
        ConfigError, DamagedError: as `results.named_weights`.
    """
    found = results.named_weights(store, config, key)
    if found is None:
        raise CheckpointError(absence(store, config, key))
    return found


def require_files(store: Store, weights: Weights) -> None:
    """Refuse weights, and weaker ones that guide them, whose files retention has deleted.

    Raises:
        CheckpointError: with the steps that have theirs.
    """
    for one in (weights, weights.weaker):
        if one is not None and one.is_retired:
            raise CheckpointError(
                f"the files of {one.name} in {store.uri_of(one.checkpoint.folder)} were deleted by "
                "train.keep_checkpoints, which keeps the newest; "
                f"{steps_there(store, one.trained)}"
            )


def pinned(store: Store, config: RunConfig) -> RunConfig:
    """Return a configuration that names weights by step and SHA-256, where it names any.

    Raises:
        PipelineError: as `require`.
    """
    is_named = keys_given(config) or config.sample.low_from is not None
    return require(store, config).pinned_in(config) if is_named else config


def is_overtaken(store: Store, config: RunConfig, pinned: RunConfig) -> bool:
    """Say whether @newest names newer weights by now, since retention deleted those it named.

    Args:
        store: where.
        config: as it was given.
        pinned: what it was resolved to.
    """
    weights = require(store, pinned)
    named = {"model": weights, "guidance_by": weights.weaker}
    newest = [named[key] for key in keys_given(config) if ref_of(config, key).step == NEWEST]
    return any(one is not None and one.is_retired for one in newest)


def require_reachable(store: Store, config: RunConfig, key: Key = "model") -> None:
    """Refuse weights of a run's own training that will not be there when it has ended.

    Raises:
        ConfigError: no checkpoint of this step is made, or it is not kept to the end.
    """
    ref, train = ref_of(config, key), config.train
    given = said(config, key)
    kept = [*averages_of(train), RAW]
    if ref.average not in kept:
        more = "; it is made when the training is over" if is_made(config, ref.average) else ""
        raise ConfigError(
            f"{given}: this training keeps the weights {', '.join(kept[:-1])} and {RAW}; name "
            f"one{more}"
        )
    if not isinstance(ref.step, int) or ref.step == train.num_steps:
        return
    step, every = ref.step, train.checkpoint_every
    others = [int(found.body["step"]) for found in places.committed(store, config.name)]
    folder, newest = layout.checkpoint_folder(config.name, step), max(others, default=0)
    is_gone, is_there = manifest.is_retired(store, folder), step in others
    is_to_come = newest < step <= train.num_steps and step % every == 0
    if not (is_gone or is_there or is_to_come):
        raise ConfigError(
            f"{given}: the training makes no checkpoint of step {step}: one comes every "
            f"train.checkpoint_every={every} steps, and after the last, {train.num_steps}"
            + (f"; it stands at step {newest}" if newest else "")
        )
    to_come = range(step - step % every + every, train.num_steps, every)
    later = 1 + len(to_come) + sum(1 for one in others if one > step and one % every)
    if later >= train.keep_checkpoints or is_gone:
        raise ConfigError(
            f"{given}: the checkpoint of step {step} is not kept to the end of the training, after "
            f"which come {later} later ones: give train.keep_checkpoints={later + 1} or more"
            + (" (its files are deleted already)" if is_gone else "")
        )
