"""Data sets of a run that are made of others, or are others: named, a part, a mixture, grown."""

from collections.abc import Callable

from ddpm_core.composing.agree import Given
from ddpm_core.composing.ahead import keys_of
from ddpm_core.composing.compose import Plan, compose, growth, plan
from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.progress import Progress
from ddpm_core.runs import grown_data, named_data, results
from ddpm_core.runs.dataset_names import NamedSet, lineage, require_free
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.sharding.known import Known, known_of
from ddpm_core.sharding.recorded import complete, say_captions, show_done, trained_on
from ddpm_core.shards.classes import require_classes
from ddpm_core.shards.index import Index, load_index
from ddpm_core.store.storage import Store

Make = Callable[[RunConfig, Known | None], DatasetPointer | None]
"""makes the images of a source, but for those that are known, into a data set by itself; None:
there are no others"""


def named(store: Store, config: RunConfig) -> DatasetPointer:
    """Return the data set that `data.sets` names, after a look at its index and its files.

    Raises:
        DataError: it is damaged.
        RunConflictError: the run was trained on another one.
    """
    (own,) = named_data.named_sets(store, config)
    index = complete(store, own.pointer)
    if index is None:
        raise DataError(
            f"the data set data.sets={config.data.sets} is damaged, as is said above, and this run "
            "has no source to make it anew; run the shard stage with the source that it was made "
            "from, data.source=..., and data.sets=null"
        )
    results.require_data(store, config, index.manifest)
    require_classes(config, index.label.names)
    theirs = trained_on(store, config)
    if theirs not in (None, index.fingerprint):
        raise RunConflictError(
            f"run {config.name!r} has checkpoints that were trained on the data set {theirs}, "
            f"and data.sets={config.data.sets} is {index.fingerprint}; name that one, or give the "
            "run another name"
        )
    show_done(store, index)
    return own.pointer


def part(
    store: Store, config: RunConfig, pointer: DatasetPointer | None, make: Make
) -> DatasetPointer:
    """Return the part that the run uses of what its source has, after making both.

    Raises:
        ConfigError: the list of keys, or the classes, cannot be used.
        DataError, RunConflictError: as `composed`; or the source cannot be used.
    """
    keys = keys_of(config.data)
    whole = config.model_copy(update={"data": config.data.whole})
    made = make(_without_names(whole), None)
    if made is None:
        raise DataError(f"data.source={config.data.source!r} has no images")
    given = Given(named_data.called(store, made), load_index(store, made.folder, made.fingerprint))
    return composed(store, config, plan(config.data, [given], keys=keys), pointer)


def appended(
    store: Store, config: RunConfig, pointer: DatasetPointer | None, make: Make
) -> DatasetPointer:
    """Return what a data set has grown to.

    What is new becomes a data set, and then an index names the shards of both. The older one is
    neither written nor copied, and its name moves last: killed anywhere, the same command goes on
    with what is there.

    Raises:
        RunConflictError: the name has moved meanwhile.
        DataError: the data set is damaged, or what is new cannot be added to it.
    """
    base = grown_data.grows(store, config)
    index = complete(store, base.pointer)
    if index is None:
        raise DataError(
            f"the data set {base.pinned} is damaged, as is said above; run the shard stage with "
            "the source that it was made from"
        )
    is_same = _is_source_of(store, config, base)
    known = known_of(store, index, base.pinned) if is_same else None
    fresh = make(_without_names(config), known)
    if fresh is None:
        return _grown_by_nothing(base, index)
    own = Given("what is new", load_index(store, fresh.folder, fresh.fingerprint))
    # What it grows to says of itself what it said before, however much of the new is held out.
    theirs = {"num_test_images": named_data.made_as(store, base)["num_test_images"]}
    data = config.data.model_copy(update=theirs)
    made = composed(store, config, growth(data, Given(base.pinned, index), own), pointer)
    if made == base.pointer:
        return _grown_by_nothing(base, index)
    grown = grown_data.grow(store, base, made, config)
    total = sum(load_index(store, made.folder, made.fingerprint).num_images.values())
    note = f"{base.name} is {grown.pinned} by now; {base.pinned} stays what it is"
    Progress("shard", total, total, "images", note).show()
    return made


def _without_names(config: RunConfig) -> RunConfig:
    """Return a run whose data set gets no name: what another is made of."""
    names = {"set_name": None, "append_to": None}
    return config.model_copy(update={"data": config.data.model_copy(update=names)})


def _is_source_of(store: Store, config: RunConfig, base: NamedSet) -> bool:
    """Say whether all images of a data set come from the source of a run, by what is noted of it.

    Only then a name that is there is of the same image; elsewhere it may be of another.
    """
    entries = [one for one in lineage(store, base.name) if one.number <= base.number]
    sources = {one.source for one in entries}
    return sources == {config.data.source.partition("?")[0]}


def _grown_by_nothing(base: NamedSet, index: Index) -> DatasetPointer:
    total = sum(index.num_images.values())
    note = f"nothing of the source is new: {base.pinned} stays what it is"
    Progress("shard", total, total, "images", note).show()
    return base.pointer


def composed(
    store: Store, config: RunConfig, made: Plan, pointer: DatasetPointer | None
) -> DatasetPointer:
    """Return the data set that is made of others, after making it if it is not there.

    The first of them, if there is nothing to add to it.

    Raises:
        DataError: one of the others is damaged, or they cannot become one.
        RunConflictError: the run was trained on another one, or its name is that of another.
    """
    own = made.pointer
    require_classes(config, made.names)
    for has in (trained_on(store, config), None if pointer is None else pointer.fingerprint):
        if has not in (None, own.fingerprint):
            raise RunConflictError(
                f"run {config.name!r} has the data set {has}, and what data.sets, data.only_* and "
                f"data.duplicates say is {own.fingerprint}; give the run another name"
            )
    if config.data.set_name is not None:
        require_free(store, config.data.set_name, own.fingerprint)
    for given in made.given:
        if complete(store, given.index.pointer) is None:
            raise DataError(
                f"the data set {given.name} is damaged, as is said above; run the shard stage with "
                "the source that it was made from, data.source=..., and data.sets=null"
            )
    if (index := complete(store, own)) is not None:
        show_done(store, index)
        return own
    if compose(store, made, num_threads=config.compute.num_workers) is None:
        return made.given[0].index.pointer
    index = load_index(store, own.folder, own.fingerprint)
    total = sum(index.num_images.values())
    note = f"{store.uri_of(own.folder)}, made of {', '.join(one.name for one in made.given)}"
    Progress("shard", total, total, "images", note).show()
    say_captions(index)
    return own
