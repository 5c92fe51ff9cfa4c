"""Runs that let a data set grow (`data.append_to`): found by its name, pinned by its fingerprint.

The section `data` of such a run is what the data set says of itself, with another source: what is
new there is made as the rest was. How much of it is held out, an append may say itself.
"""

import json
from collections.abc import Mapping
from typing import Any

from ddpm_core.config import RunConfig
from ddpm_core.config.data_ref import DataSets
from ddpm_core.config.joined import section_of
from ddpm_core.errors import ConfigError, RunConflictError
from ddpm_core.runs import begun, layout
from ddpm_core.runs.dataset_names import NamedSet, enter, find, index_of, lineage
from ddpm_core.runs.named_data import given_of_data, made_as
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.store.storage import Store

KEY = "data.append_to"
_OF_SOURCE = (
    "source",
    "source_sha256",
    "on_bad",
    "max_bad_share",
    "max_megapixels",
    "licence",
    "caption_table",
)
"""keys of `data` that an append has of its own, and that are no part of what it makes"""
_HELD_OUT = "num_test_images"
"""of what is at the source of the append, not of the data set that grows"""


def is_in(first: RunConfig, changes: Mapping[str, Any]) -> bool:
    """Say whether a data set is to grow, by a configuration or by changes of it."""
    given = given_of_data(changes)
    is_whole = isinstance(changes.get("data"), dict)
    return given.get("append_to", None if is_whole else first.data.append_to) is not None


def with_append(
    store: Store, first: RunConfig, run: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the changes with the section `data` of the data set that is to grow.

    Args:
        store: the root.
        first: what the changes are made to.
        run: name of the run.
        changes: `{"section.key": value}`, or sections as a whole; one says what is to grow.

    Raises:
        ConfigError: there is no such data set, it cannot grow, or other changes contradict it.
        DataError: it is damaged.
        StorageError: the storage does not answer.
    """
    given = given_of_data(changes)
    text = str(given.get("append_to", first.data.append_to))
    section = _recorded(store, run, text) or _begun(store, text)
    said = first.data.model_dump(mode="json", include={*_OF_SOURCE, _HELD_OUT})
    own = {key: given.get(key, said[key]) for key in _OF_SOURCE}
    if _HELD_OUT in given or first.data.append_to is not None:
        own[_HELD_OUT] = given.get(_HELD_OUT, said[_HELD_OUT])
    for key, value in given.items():
        if key in (*_OF_SOURCE, _HELD_OUT, "append_to") or key not in section:
            continue
        if json.dumps(value) != json.dumps(section[key]):
            raise ConfigError(
                f"data.{key}={json.dumps(value)}, and the data set {section['append_to']} that is "
                f"to grow has data.{key}={json.dumps(section[key])}; images of another kind are a "
                f"data set of their own, which can be named beside it: data.sets"
            )
    others = {key: value for key, value in given.items() if key not in {**section, **own}}
    rest = {key: value for key, value in changes.items() if key.partition(".")[0] != "data"}
    return {**rest, "data": section | own | others}


def grows(store: Store, config: RunConfig) -> NamedSet:
    """Return the data set that a run lets grow, by its newest entry.

    Where the name means another already, and that came of the same source, it is returned too: it
    may be what this very run made of it, which its images tell.

    Raises:
        RunConflictError: it has grown otherwise since the run was configured.
        DataError: an entry is damaged.
    """
    ref = DataSets.parse(str(config.data.append_to)).only
    if ref is None:
        raise ConfigError(f"{KEY}={config.data.append_to!r} names several data sets; name one")
    base = find(store, ref)
    entries = lineage(store, ref.name) or [base]
    at = max(at for at, one in enumerate(entries) if one.pointer == base.pointer)
    later = entries[at + 1 :]
    if later and later[0].source != _source_of(config):
        raise RunConflictError(_moved(base, entries[-1]))
    return entries[at]


def grow(store: Store, base: NamedSet, pointer: DatasetPointer, config: RunConfig) -> NamedSet:
    """Let the name of a data set mean what it grew to, if nobody else has moved it meanwhile.

    Returns:
        The entry of what it grew to; that of an attempt that was killed, if that had moved it.

    Raises:
        RunConflictError: it means another one by now; what was made stays, and is used when the
            same command runs again.
        StorageError: the storage refuses or does not answer.
    """
    source = _source_of(config)
    licence = config.data.licence or base.licence
    try:
        return enter(store, NamedSet(base.name, pointer, base.number + 1, source, licence))
    except RunConflictError:
        raise RunConflictError(_moved(base, lineage(store, base.name)[-1])) from None


def _source_of(config: RunConfig) -> str:
    return config.data.source.partition("?")[0]


def _moved(base: NamedSet, newest: NamedSet) -> str:
    return (
        f"the data set {base.name!r} has grown meanwhile: it is {newest.pinned}, and this append "
        f"began with {base.pinned}; run the same command again, with {KEY}={base.name}, which "
        "begins with what it is now"
    )


def _recorded(store: Store, run: str, text: str) -> dict[str, Any] | None:
    """Return the section of a run on record that lets the same data set grow.

    None also of a run that was killed before it had a data set: it begins with what the name means.
    """
    recorded = begun.recorded(store, run)
    if recorded is None or recorded.data.append_to is None:
        return None
    if not store.exists(layout.dataset_pointer_key(run)):
        return None
    theirs = DataSets.parse(recorded.data.append_to)
    if not _parsed(text).is_met_by(theirs):
        raise RunConflictError(
            f"run {run!r} let {theirs} grow, and {KEY} names {text}; give this one another name"
        )
    return recorded.data.model_dump(mode="json", exclude=set(_OF_SOURCE))


def _begun(store: Store, text: str) -> dict[str, Any]:
    ref = _parsed(text).only
    if ref is None or ref.weight is not None:
        raise ConfigError(
            f"{KEY}={text[:200]!r} must be the name of one data set, without a weight"
        )
    base = find(store, ref)
    index = index_of(store, base.pointer.folder, base.pointer.fingerprint)
    if any(one["weight"] is not None for one in index.body.get("made_of", ())):
        raise ConfigError(
            f"{base.pinned} is a mixture with weights, and does not grow; append to one of the "
            "data sets that it is made of, and mix them anew with data.sets"
        )
    if not base.number:
        raise ConfigError(
            f"{KEY}={text[:200]!r} has no name that could mean what it grows to; give it one: the "
            "shard stage that made it, with --name NAME"
        )
    section = made_as(store, base)
    data = section_of(section)
    if not data.is_collection or data.is_part or data.in_place:
        what = "a part of another" if data.is_part else f"{data.name}, of a fixed size"
        what = "used where others put its shards" if data.in_place else what
        raise ConfigError(
            f"{base.pinned} is {what}, and does not grow; name it beside others with data.sets, or "
            "append to a collection of image files"
        )
    return {**section, "append_to": base.pinned}


def _parsed(text: str) -> DataSets:
    try:
        return DataSets.parse(text)
    except ValueError as error:
        raise ConfigError(f"{KEY}={text[:200]!r} {error}") from None
