"""What is said of a result that is not there, not the run's or damaged: with what mends it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.model_ref import NEWEST, RAW, sigma_rel_in
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.runs import begun, layout, places
from ddpm_core.runs.reference import (
    Key,
    given,
    is_made,
    ref_of,
    said,
    step_of_made,
    trained_by,
)
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

_SHOWN = 10


def require_origin(store: Store, checkpoint: Manifest, **fingerprints: str) -> None:
    """Refuse a checkpoint that another experiment made, or that saw another data set.

    Args:
        store: where it lies.
        checkpoint: which.
        fingerprints: `experiment` and `dataset` of the run.

    Raises:
        CheckpointError: with both fingerprints, and what to do about it.
    """
    for field, ours in fingerprints.items():
        theirs = str(checkpoint.body.get(field))
        if theirs != ours:
            folder = store.uri_of(checkpoint.folder)
            raise CheckpointError(
                f"{folder} was made by another {field}: fingerprint {theirs[: layout.SHORT]}, this "
                f"run has {ours[: layout.SHORT]}. {_origin_remedy(store, checkpoint, field)}"
            )


def _origin_remedy(store: Store, checkpoint: Manifest, field: str) -> str:
    run = checkpoint.folder.removeprefix("runs/").partition("/")[0]
    away = "If that folder was copied here, delete it and train again, which goes on from the "
    away += f"checkpoint before: {layout.stage_command(store, run, 'train')}."
    if field == "dataset":
        pointer = store.uri_of(layout.dataset_pointer_key(run))
        command = layout.stage_command(store, run, "shard")
        return (
            f"If {pointer} was exchanged, the shard stage makes it anew from the run's own images: "
            f"{command}. {away} Otherwise give this run another name"
        )
    return f"{away} Otherwise give this run another name (--run NAME)"


def absence(store: Store, config: RunConfig, key: Key = "model") -> str:
    """Return why there are no such weights, in words."""
    trained, step = trained_by(store, config, key), ref_of(config, key).step
    step = trained.train.num_steps if step is None else step
    where = store.uri_of(layout.checkpoints_folder(trained.name))
    if given(config, key) is None:
        return (
            f"run {config.name!r} has no checkpoint of step {step} below {where}; run the train "
            "stage first"
        )
    ref = ref_of(config, key)
    if is_made(trained, ref.average):
        kept = ", ".join([*averages_of(trained.train), RAW])
        at, sigma_rel = step_of_made(store, trained, ref), sigma_rel_in(ref.average) or 0.0
        return (
            f"{said(config, key)}: the training of run {trained.name!r} keeps {kept}, and "
            f"{ref.average} is not made of its snapshots yet, as is done by: "
            f"{layout.average_command(store, trained.name, at, sigma_rel)}"
        )
    what = "no checkpoint yet" if step == NEWEST else f"no checkpoint of step {step}"
    return (
        f"{said(config, key)}: run {trained.name!r} has {what} below {where}; "
        f"{steps_there(store, trained)}"
    )


def steps_there(store: Store, trained: RunConfig) -> str:
    """Return which steps of a run have a checkpoint, in words."""
    steps = [str(found.body["step"]) for found in places.committed(store, trained.name)]
    more = f" and {len(steps) - _SHOWN} more" if len(steps) > _SHOWN else ""
    return f"there are those of step {', '.join(steps[:_SHOWN])}{more}" if steps else "it has none"


@contextmanager
def mended_by(store: Store, config: RunConfig, stage: str) -> Iterator[None]:
    """Name the command of the stage that mends what is damaged."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{error}: {command_of(store, config, stage)}") from None


def command_of(store: Store, config: RunConfig, stage: str) -> str:
    """Return the command that makes this very result of a stage, to be copied into a shell."""
    recorded = None
    with suppress(ConfigError):  # run.json is damaged: the command says so
        recorded = begun.recorded(store, config.name)
    if recorded is None or stage in ("shard", "train"):
        return layout.stage_command(store, config.name, stage)
    before, sections = recorded.flat(), ("sample.", "evaluate.", "study.")
    changes = {
        key: value
        for key, value in config.flat().items()
        if key.startswith(sections) and value != before.get(key)
    }
    return layout.stage_command(store, config.name, stage, changes)
