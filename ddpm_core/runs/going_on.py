"""A run that goes on for more steps under its name, and what its earlier lengths were.

run.json then says the new length, and in `train.earlier` those before: what was made of the run
while it was shorter is found by them. Knows no torch.
"""

import json
import logging
from collections.abc import Iterator
from typing import Any

from ddpm_core.config import RunConfig
from ddpm_core.config.rates import Segment
from ddpm_core.errors import ConfigError, RunConflictError
from ddpm_core.runs import begun, layout, places, results
from ddpm_core.store.storage import Store

KEYS = ("num_steps", "learning_rate", "learning_rate_schedule")
"""of `train`: may change where a run goes on for more steps"""
_EARLIER = "train.earlier"
_log = logging.getLogger(__name__)


def as_on_record(store: Store, config: RunConfig) -> RunConfig:
    """Return a configuration with the segments that its run has behind it.

    With more steps than on record it is the run that goes on, from its newest checkpoint.

    Raises:
        RunConflictError: it has fewer steps than the run on record.
        ConfigError: it has more, and the run is of imported weights.
        StorageError: the storage does not answer.
    """
    recorded = begun.recorded(store, config.name)
    if recorded is None or not _is_same_otherwise(recorded, config):
        return config
    ours, theirs = config.train, recorded.train
    if ours.num_steps < theirs.num_steps:
        raise RunConflictError(_shorter(store, config, recorded))
    earlier = [one.model_dump(mode="json") for one in theirs.earlier]
    if ours.num_steps > theirs.num_steps:
        newest = next(places.committed(store, config.name), None)
        if newest is not None and results.is_imported(newest):
            raise ConfigError(
                f"run {config.name!r} is of imported weights, which have no optimiser to go on "
                f"with; begin another run from them: --from {config.name} --run NAME"
            )
        done = 0 if newest is None else min(int(newest.body["step"]), theirs.num_steps)
        earlier.append({"until": done, **_settings(theirs)})
    return config.replaced({_EARLIER: earlier})


def said_of(store: Store, config: RunConfig) -> str:
    """Return the line that `keep` would log, "" for none; writes nothing."""
    recorded = begun.recorded(store, config.name)
    if recorded is None or not _goes_on(recorded, config):
        return ""
    return f"run {config.name!r} goes on: {list(history(config))[-1]}"


def differences(recorded: RunConfig, config: RunConfig) -> list[str]:
    """Return a line for each key that makes `config` another run than the one on record.

    One that goes on for more steps is none.
    """
    if _goes_on(recorded, config):
        *_, (_, before) = places.earlier(config)
        return recorded.differences(before)
    return recorded.differences(config)


def keep(store: Store, config: RunConfig) -> None:
    """Write into run.json that the run goes on, where it does; called by its only training.

    A kill in between is harmless: the same command does the rest.

    Raises:
        StorageError: the storage refuses or does not answer.
    """
    recorded = begun.recorded(store, config.name)
    if recorded is None or not _goes_on(recorded, config):
        return
    line = said_of(store, config)
    changes = {f"train.{key}": value for key, value in _settings(config.train).items()}
    changes[_EARLIER] = [one.model_dump(mode="json") for one in config.train.earlier]
    data = recorded.replaced(changes).to_json().encode()
    store.write(layout.run_json_key(config.name), data)
    begun.accept(store, config.name, data)
    _log.warning("%s", line)


def history(config: RunConfig) -> Iterator[str]:
    """Yield a line for each time that a run went on."""
    segments = config.train.earlier
    for segment, after in zip(segments, [*segments[1:], config.train], strict=False):
        yield _said(segment, after)


def _said(segment: Segment, after: Any) -> str:  # noqa: ANN401 - a segment, or the section `train`
    """Return what became otherwise after a segment, in words."""
    then, now = _settings(segment), _settings(after)
    changed = [
        f"train.{key}: {json.dumps(then[key])} -> {json.dumps(now[key])}"
        for key in KEYS
        if then[key] != now[key]
    ]
    return f"from step {segment.until} on {'; '.join(changed)}"


def _settings(of: Any) -> dict[str, Any]:  # noqa: ANN401 - a segment, or the section `train`
    return {key: getattr(of, key) for key in KEYS}


def _goes_on(recorded: RunConfig, config: RunConfig) -> bool:
    """Say whether `config`, as of `as_on_record`, has a segment more than is on record."""
    return len(config.train.earlier) == len(recorded.train.earlier) + 1


def _is_same_otherwise(recorded: RunConfig, config: RunConfig) -> bool:
    """Say whether two configurations are one experiment but for what may change on the way."""
    free = {_EARLIER, *(f"train.{key}" for key in KEYS)}
    sections = ("data.", "model.", "diffusion.", "train.")
    lines = recorded.differences(config)
    keys = [key for key in (line.partition(":")[0] for line in lines) if key.startswith(sections)]
    goes_on = config.train.num_steps != recorded.train.num_steps
    return all(key == _EARLIER or (goes_on and key in free) for key in keys)


def _shorter(store: Store, config: RunConfig, recorded: RunConfig) -> str:
    ours, theirs = config.train.num_steps, recorded.train.num_steps
    steps = [found.body["step"] for found in places.committed(store, config.name)]
    there = (
        f"what it was then is --model @{ours}"
        if ours in steps
        else (
            "it has checkpoints of step " + ", ".join(map(str, steps[:10]))
            if steps
            else "it has no checkpoint yet"
        )
    )
    return (
        f"run {config.name!r} is one of {theirs} steps "
        f"({store.uri_of(layout.run_json_key(config.name))}), and this asks for train.num_steps="
        f"{ours}: a run goes on for more steps, and not back; {there}. Leave train.num_steps out "
        f"({config.name} as the target means the run as it is), or give this one another name "
        "(--run NAME)"
    )
