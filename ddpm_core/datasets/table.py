"""What data sets there are below a root, and what each of them holds."""

from ddpm_core.config.data_ref import DataSets
from ddpm_core.config.estimate import size_text
from ddpm_core.datasets.users import users, users_of
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import named_data
from ddpm_core.runs.dataset_names import NamedSet, find, lineage, names, unnamed
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.table import aligned
from ddpm_core.shards.classes import classes_text
from ddpm_core.shards.index import SPLITS, Index, load_index
from ddpm_core.shards.lineage import Ancestor, left_out, made_of
from ddpm_core.store.storage import Store

_COLUMNS = ("data set", "fingerprint", "images", "shape", "classes", "bytes", "runs")


def named_as(store: Store, text: str) -> NamedSet:
    """Return the data set that a reference of a command line means.

    Raises:
        ConfigError: it is no reference to one data set, or there is none.
        DataError: an entry, or the index, is damaged.
    """
    try:
        ref = DataSets.parse(text).only
    except ValueError as error:
        raise ConfigError(f"{text[:200]!r} {error}") from None
    if ref is None:
        raise ConfigError(f"{text[:200]!r} names several data sets; name one")
    return find(store, ref)


def list_datasets(store: Store) -> str:
    """Return a table of all data sets below the root, a line each; a damaged one says so."""
    every = [*names(store), *unnamed(store)]
    if not every:
        return f"no data sets below {store.uri}"
    used = users(store)
    return aligned([_COLUMNS, *(_row(store, name, used) for name in every)])


def show_dataset(store: Store, text: str) -> str:
    """Return what a data set holds, where it came from, which runs use it, and where it lies.

    Raises:
        ConfigError: there is no such data set.
        DataError: it is damaged.
    """
    named = named_as(store, text)
    index = load_index(store, named.pointer.folder, named.pointer.fingerprint)
    train, test = (index.num_images[split] for split in SPLITS)
    _, *older = reversed(lineage(store, named.name) or [named])
    first, ancestors = index.manifest.files.get("train-first"), made_of(index.manifest)
    rows = [
        ("data set", named.pinned),
        ("folder", store.uri_of(named.pointer.folder)),
        ("images", f"{train} to train on, {test} held out"),
        ("shape", f"{_shape(index)}, {index.image.dtype}"),
        ("classes", classes_text(index.label.names, index.label.counts["train"])),
        *_caption_rows(index),
        ("bytes", _bytes(index) + (", beside what it is made of" if ancestors else "")),
        ("shards", str(sum(len(index.shards[split]) for split in SPLITS))),
        ("left out", f"{len(index.rejected)} files of the source"),
        ("source", named.source or "not noted"),
        ("licence", named.licence or "not noted; --licence of the shard stage notes it"),
    ]
    rows += [("made of", _ancestor(store, one)) for one in ancestors]
    rows += [
        ("left out", f"of {split}: {counts}") for split, counts in left_out(index.manifest).items()
    ]
    rows += [("before", one.pinned) for one in older if one.pointer != named.pointer]
    rows.append(("runs", ", ".join(users_of(named, users(store))) or "none"))
    if first is not None:
        rows.append(("grid", store.uri_of(f"{named.pointer.folder}/{first.name}")))
    return "\n".join(f"{key:<9}  {value}" for key, value in rows)


def _caption_rows(index: Index) -> list[tuple[str, str]]:
    """Return what is said of its captions, a row for each split; [] if there are none."""
    if index.captions is None or index.captions.counts is None:
        return []
    return [("captions", f"of {split}: {one}") for split, one in index.captions.counts.items()]


def _ancestor(store: Store, one: Ancestor) -> str:
    called = named_data.called(store, DatasetPointer(one.folder, one.fingerprint))
    return called if one.weight is None else f"{called}, weight {one.weight}"


def _row(store: Store, name: str, used: dict[str, list[str]]) -> tuple[str, ...]:
    try:
        named = named_as(store, name)
        index = load_index(store, named.pointer.folder, named.pointer.fingerprint)
    except (ConfigError, DataError) as error:
        return (name, f"cannot be read: {str(error).splitlines()[0]}", *[""] * (len(_COLUMNS) - 2))
    return (
        name,
        named.pinned.rpartition("@")[2],
        str(sum(index.num_images.values())),
        _shape(index),
        str(len(index.label.names)),
        _bytes(index),
        str(len(users_of(named, used))),
    )


def _shape(index: Index) -> str:
    return "x".join(map(str, index.shape))


def _bytes(index: Index) -> str:
    return size_text(sum(record.size for record in index.manifest.files.values()))
