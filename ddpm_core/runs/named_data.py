"""Runs on data sets that are there already (`data.sets`): found by name, pinned by fingerprint.

The section `data` of such a run is what the data set says of itself. So the run is the same
experiment as one that made the data set of its source, and needs that source no more.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ddpm_core.config import RunConfig, identity
from ddpm_core.config.captions import KEYS_OF_CLASSES
from ddpm_core.config.data_ref import DataRef, DataSets, is_folder_name
from ddpm_core.config.joined import PART_KEYS, joined
from ddpm_core.errors import ConfigError, DataError, RunConflictError
from ddpm_core.runs import begun, layout, results
from ddpm_core.runs.dataset_names import (
    NamedSet,
    find,
    give,
    index_of,
    lineage,
    names_of,
    require_free,
)
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store

KEY = "data.sets"
_DEFAULTS = RunConfig.model_fields["data"].default.model_dump(mode="json")
_RULES = tuple(key for key in PART_KEYS if key != "only_keys")
"""what says which images are used: the path of a list says nothing that its digest does not"""


def is_in(changes: Mapping[str, Any]) -> bool:
    """Say whether changes of a configuration name data sets, or say that there are none."""
    return "sets" in given_of_data(changes)


def with_sets(
    store: Store, first: RunConfig, run: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the changes with the section `data` of the data set that is to be used, if one is.

    Of a run on record that is the one that it has: a name may mean another since.

    Args:
        store: the root.
        first: what the changes are made to.
        run: name of the run.
        changes: `{"section.key": value}`, or sections as a whole.

    Raises:
        ConfigError: there is no such data set, or other changes contradict it.
        RunConflictError: the run has another data set.
        DataError: the data set is damaged.
        StorageError: the storage does not answer.
    """
    given = given_of_data(changes)
    text = given.get("sets", None if isinstance(changes.get("data"), dict) else first.data.sets)
    if not isinstance(text, str):
        return dict(changes)
    try:
        sets = DataSets.parse(text)
    except ValueError as error:
        raise ConfigError(f"{KEY}={text[:200]!r} {error}") from None
    named, section = _meant(store, run, sets)
    if "sets" not in given and not isinstance(changes.get("data"), dict):
        said = first.data.model_dump(mode="json", include=set(PART_KEYS))
        section |= {key: said[key] for key in PART_KEYS}
    section |= _of_classes(first, given, section)
    section = _chosen(store, named, section, {k: given[k] for k in PART_KEYS if k in given})
    _require_own(store, run, sets, named, section)
    _require_agreement(given, section, str(section["sets"]))
    rest = {key: value for key, value in changes.items() if key.partition(".")[0] != "data"}
    # Keys that there are not stay, to be refused with what was meant.
    others = {key: value for key, value in given.items() if key not in _DEFAULTS}
    return {**rest, "data": section | others}


def _of_classes(
    first: RunConfig, given: Mapping[str, Any], section: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keys of captions that are made of classes, of a data set that has none itself."""
    if section.get("captions", "none") not in ("none", "classes"):
        return {}
    said = first.data.model_dump(mode="json", include=set(KEYS_OF_CLASSES))
    own = (said if said["captions"] == "classes" else {}) | {
        key: given[key] for key in KEYS_OF_CLASSES if key in given
    }
    return own if own.get("captions") in ("classes", "none") else {}


def made_as(store: Store, named: NamedSet) -> dict[str, Any]:
    """Return the keys of `data` by which a data set was made, as JSON values.

    Raises:
        DataError: its index is damaged or gone.
    """
    said = index_of(store, named.pointer.folder, named.pointer.fingerprint).body.get("data")
    if not isinstance(said, dict):
        where = store.uri_of(f"{named.pointer.folder}/{layout.DATASET_INDEX}")
        raise DataError(f"{where} does not say what it was made of; run its shard stage again")
    return identity.data_values(said)


def named_sets(store: Store, config: RunConfig) -> tuple[NamedSet, ...]:
    """Return the data sets that `data.sets` names, in order; () if that is not given.

    Raises:
        ConfigError: there is no such data set.
        DataError: an entry, or an index, is damaged.
    """
    sets, pointer = config.data.references, _pointer(store, config.name)
    refs = () if sets is None else sets.refs
    return tuple(_own(pointer, ref) or find(store, ref) for ref in refs)


def is_composed(store: Store, config: RunConfig) -> bool:
    """Say whether the run's data set is made of those that `data.sets` names, and is none of them.

    Raises:
        ConfigError, DataError: as `named_sets`.
    """
    return _is_composed(store, named_sets(store, config), config.data.model_dump(mode="json"))


def called(store: Store, pointer: DatasetPointer) -> str:
    """Return what a data set is called, for people: its newest name, else its folder's; pinned."""
    if found := names_of(store, pointer.fingerprint):
        return found[-1].pinned
    return pointer.folder.removeprefix("datasets/")


def default_name(config: RunConfig) -> str:
    """Return the name that a run's data set gets where none is given and no other has it."""
    return config.name if config.data.is_collection else config.data.name


def name_set(store: Store, config: RunConfig, pointer: DatasetPointer) -> None:
    """Give the data set of a run the name that is given, else one of its own if it has none yet.

    Raises:
        ConfigError: there is a note on its licence, and no name beside which to keep it.
        RunConflictError: the name that is given is that of other images.
        DataError: an entry is damaged.
        StorageError: the storage refuses or does not answer.
    """
    data, named = config.data, names_of(store, pointer.fingerprint)
    source = None if data.source == "default" else data.source.partition("?")[0]
    name = data.set_name or (named[-1].name if named else None)
    if name is not None:
        give(store, name, pointer, source=source, licence=data.licence)
        return
    own = default_name(config)
    # No name of its own is worth a refusal: other images may have it, or its entry be damaged.
    with suppress(RunConflictError, DataError):
        if not is_folder_name(own):
            give(store, own, pointer, source=source, licence=data.licence)
            return
    if data.licence is not None:
        raise ConfigError(
            "data.licence is kept beside the name of a data set, and this one has none, since "
            f"{own!r} is that of another; give it one with --name"
        )


def alike(store: Store, config: RunConfig) -> NamedSet | None:
    """Return the data set that the name of the run's own would mean, if it is made alike.

    Whether it is of the same images, only their source says.
    """
    with suppress(DataError):
        found = lineage(store, config.data.set_name or default_name(config))
        if found and made_as(store, found[-1]) == _made_here(config):
            return found[-1]
    return None


def require_name(store: Store, config: RunConfig) -> None:
    """Refuse, before the source is read, a name that a data set made otherwise has.

    Of a run that has its data set, a name that any other has.

    Raises:
        RunConflictError: with each key that differs.
        DataError: an entry of the name is damaged.
    """
    name, pointer = config.data.set_name, _pointer(store, config.name)
    if name is None or not (found := lineage(store, name)):
        return
    if pointer is not None:
        require_free(store, name, pointer.fingerprint)
        return
    try:
        theirs = made_as(store, found[-1])
    except DataError:  # damaged or gone: this may be the run that makes it again
        return
    lines = [
        f"{key}: {json.dumps(theirs.get(key))} there, {json.dumps(value)} here"
        for key, value in _made_here(config).items()
        if theirs.get(key) != value
    ]
    if lines:
        raise RunConflictError(
            f"the name {name!r} is that of a data set that is made otherwise ({found[-1].pinned}; "
            f"{'; '.join(lines)}); give another name, with --name, or delete that one: "
            f"ddpm datasets delete {name}"
        )


def _made_here(config: RunConfig) -> dict[str, Any]:
    return identity.data_values(identity.data(config.data))


def given_of_data(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the changes say of the section `data`, by key."""
    whole = changes.get("data")
    single = {key: value for key, value in changes.items() if key.startswith("data.")}
    return (dict(whole) if isinstance(whole, dict) else {}) | {
        key.removeprefix("data."): value for key, value in single.items()
    }


def _meant(store: Store, run: str, sets: DataSets) -> tuple[tuple[NamedSet, ...], dict[str, Any]]:
    """Return the data sets that references mean for a run, and the run's section `data`."""
    recorded, pointer = begun.recorded(store, run), _pointer(store, run)
    theirs = None if recorded is None else recorded.data.references
    if recorded is not None and theirs is not None and theirs.is_pinned and sets.is_met_by(theirs):
        named = tuple(_own(pointer, one) or find(store, one) for one in theirs.refs)
        return named, recorded.data.model_dump(mode="json")
    if (ref := sets.only) is None:
        named = tuple(find(store, one) for one in sets.refs)
        _require_different(named)
        section = joined({one.pinned: made_as(store, one) for one in named})
        return named, {**section, "sets": str(_pinned(sets, named))}
    found = lineage(store, ref.name) if recorded is not None and ref.fingerprint is None else []
    # It may be the one that the name meant when the run was begun.
    own = next((one for one in found if one.pointer == pointer), None) or find(store, ref)
    return (own,), {**made_as(store, own), "sets": own.pinned}


def _require_different(named: Sequence[NamedSet]) -> None:
    by_pointer: dict[DatasetPointer, NamedSet] = {}
    for one in named:
        if (first := by_pointer.setdefault(one.pointer, one)) is not one:
            raise ConfigError(
                f"{KEY} names one data set twice, as {first.pinned} and as {one.pinned}; name it "
                "once, with the weight of both"
            )


def _pinned(sets: DataSets, named: Sequence[NamedSet]) -> DataSets:
    """Return the references with the fingerprints of what they mean."""
    refs = [
        DataRef(
            name=one.name, fingerprint=one.pointer.fingerprint[: layout.SHORT], weight=ref.weight
        )
        for ref, one in zip(sets.refs, named, strict=True)
    ]
    return DataSets(refs=tuple(refs))


def _is_composed(store: Store, named: Sequence[NamedSet], section: Mapping[str, Any]) -> bool:
    if len(named) != 1:
        return bool(named)
    if all(section.get(key) in (_DEFAULTS[key], ()) for key in _RULES):
        return False  # all of it, whatever it is: its index need not be read
    theirs = {**_DEFAULTS, **made_as(store, named[0])}
    return any(json.dumps(section.get(key)) != json.dumps(theirs[key]) for key in _RULES)


def _chosen(
    store: Store,
    named: Sequence[NamedSet],
    section: Mapping[str, Any],
    chosen: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the section with what is chosen of the images of the data sets."""
    made = {**section, **chosen}
    if len(named) > 1 or not chosen:
        return made
    if not _is_composed(store, named, made):  # all of it, which may itself be a part of another
        theirs = {**_DEFAULTS, **made_as(store, named[0])}
        return {**made, **{key: theirs[key] for key in _RULES}}
    if not _is_composed(store, named, section):
        # What it was chosen by are the classes of another, with numbers of theirs.
        return {**made, **{key: _DEFAULTS[key] for key in PART_KEYS}, **chosen}
    return made


def _own(pointer: DatasetPointer | None, ref: DataRef) -> NamedSet | None:
    """Return the data set that a run has, if it is the one that a pinned reference names.

    No name is looked up: the run goes on if that is gone.
    """
    if pointer is None or ref.fingerprint is None:
        return None
    has = pointer.fingerprint.startswith(ref.fingerprint)
    return NamedSet(ref.name, pointer) if has else None


def _pointer(store: Store, run: str) -> DatasetPointer | None:
    with suppress(DamagedError):  # the shard stage makes it anew
        return results.dataset_pointer(store, run)
    return None


def _require_own(
    store: Store,
    run: str,
    sets: DataSets,
    named: Sequence[NamedSet],
    section: Mapping[str, Any],
) -> None:
    """Refuse data sets that are not those on which a run is on record.

    Raises:
        RunConflictError: with both.
    """
    if (pointer := _pointer(store, run)) is None:
        return
    if _is_composed(store, named, section):
        recorded = begun.recorded(store, run)
        theirs = None if recorded is None else recorded.data.references
        is_own = theirs is not None and sets.is_met_by(theirs)
    else:
        is_own = pointer.fingerprint == named[0].pointer.fingerprint
    if not is_own:
        raise RunConflictError(
            f"run {run!r} uses the data set {called(store, pointer)}, and {KEY} names "
            f"{section['sets']}; give this one another name (--run NAME), or leave {KEY} out"
        )


def _require_agreement(given: Mapping[str, Any], section: Mapping[str, Any], pinned: str) -> None:
    """Refuse keys beside `data.sets` that say something else than the data set.

    Raises:
        ConfigError: naming the first.
    """
    marks, whole = RunConfig.uncounted_keys(), {**_DEFAULTS, **section}
    for key, value in given.items():
        theirs = whole.get(key, value)
        if key in ("sets", *PART_KEYS) or json.dumps(value) == json.dumps(theirs):
            continue
        if f"data.{key}" in marks:
            raise ConfigError(
                f"data.{key}={json.dumps(value)} says how a data set is made, and {KEY}="
                f"{pinned} names what is made already; leave one of the two out (a run.json "
                f"that names it: {KEY}=null)"
            )
        raise ConfigError(
            f"data.{key}={json.dumps(value)}, and the data set {pinned} has data.{key}="
            f"{json.dumps(theirs)}; leave data.{key} out, or name another data set"
        )
