"""The weights that a stage uses: resolved when it begins, and refused before it if they cannot be.

A reference that moves, such as @newest, is resolved once: the stage goes on with a configuration
that names step and SHA-256. Retention may delete the files meanwhile, since a training asks nobody;
then what is not loaded yet is refused, and what was made is kept.
"""

from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.model_ref import NEWEST, RAW, sigma_rel_in
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.reference import is_made, ref_of, step_of_made, trained_by
from ddpm_core.runs.weights import Weights
from ddpm_core.store import manifest
from ddpm_core.store.storage import Store

_SHOWN = 10


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


def require_files(store: Store, weights: Weights) -> None:
    """Refuse weights whose files retention has deleted.

    Raises:
        CheckpointError: with the steps that have theirs.
    """
    if weights.is_retired:
        raise CheckpointError(
            f"the files of {weights.name} in {store.uri_of(weights.checkpoint.folder)} were "
            "deleted by train.keep_checkpoints, which keeps the newest; "
            f"{_there(store, weights.trained)}"
        )


def pinned(store: Store, config: RunConfig) -> RunConfig:
    """Return a configuration that names the weights by step and SHA-256, if it names any.

    Raises:
        PipelineError: as `require`.
    """
    return config if config.sample.model is None else require(store, config).pinned_in(config)


def is_overtaken(store: Store, config: RunConfig, pinned: RunConfig) -> bool:
    """Say whether @newest names newer weights by now, since retention deleted those it named.

    Args:
        store: where.
        config: as it was given.
        pinned: what it was resolved to.
    """
    return ref_of(config).step == NEWEST and require(store, pinned).is_retired


def absence(store: Store, config: RunConfig) -> str:
    """Return why there are no such weights, in words."""
    trained, step = trained_by(store, config), ref_of(config).step
    step = trained.train.num_steps if step is None else step
    where = store.uri_of(layout.checkpoints_folder(trained.name))
    if config.sample.model is None:
        return (
            f"run {config.name!r} has no checkpoint of step {step} below {where}; run the train "
            "stage first"
        )
    ref = ref_of(config)
    if is_made(trained, ref.average):
        kept = ", ".join([*averages_of(trained.train), RAW])
        at, sigma_rel = step_of_made(store, trained, ref), sigma_rel_in(ref.average) or 0.0
        return (
            f"sample.model={config.sample.model!r}: the training of run {trained.name!r} keeps "
            f"{kept}, and {ref.average} is not made of its snapshots yet, as is done by: "
            f"{layout.average_command(store, trained.name, at, sigma_rel)}"
        )
    what = "no checkpoint yet" if step == NEWEST else f"no checkpoint of step {step}"
    return (
        f"sample.model={config.sample.model!r}: run {trained.name!r} has {what} below {where}; "
        f"{_there(store, trained)}"
    )


def _there(store: Store, trained: RunConfig) -> str:
    """Return which steps of a run have a checkpoint, in words."""
    steps = [str(found.body["step"]) for found in places.committed(store, trained.name)]
    more = f" and {len(steps) - _SHOWN} more" if len(steps) > _SHOWN else ""
    return f"there are those of step {', '.join(steps[:_SHOWN])}{more}" if steps else "it has none"


def require_reachable(store: Store, config: RunConfig) -> None:
    """Refuse weights of a run's own training that will not be there when it has ended.

    Raises:
        ConfigError: no checkpoint of this step is made, or it is not kept to the end.
    """
    ref, train = ref_of(config), config.train
    given = f"sample.model={config.sample.model!r}"
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
