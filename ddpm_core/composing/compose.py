"""A data set made of others: a mixture, a union, a part. Nothing is copied.

Its index says, in parts, where in the shards of the others its images are; what is new beside it is
a picture for people. It is another data set, with a fingerprint of its own that follows from theirs
and from what was chosen; they stay what they are.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ddpm_core import canonical
from ddpm_core.composing.agree import (
    Given,
    require_alike,
    require_readable,
    union_of_classes,
    weights_of,
)
from ddpm_core.composing.choose import (
    Row,
    chosen_labels,
    listed_keys,
    require_known,
    stay,
    unknown,
)
from ddpm_core.composing.source import Source, Tally, sum_of
from ddpm_core.config import DataConfig, identity
from ddpm_core.errors import DataError
from ddpm_core.progress import Progress
from ddpm_core.runs import layout
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.counts import mean_and_std
from ddpm_core.shards.index import (
    SPLITS,
    Shard,
    Split,
    commit_in_parts,
    dataset_fingerprint,
    entries,
)
from ddpm_core.shards.lineage import LEFT_OUT, MADE_OF, Ancestor, LeftOut
from ddpm_core.shards.members import CAPTION, IMAGE, LABEL, ClassMember, ImageMember
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store


@dataclass(frozen=True)
class Plan:
    """What a data set is made of, and how: known from the indexes alone."""

    data: DataConfig
    given: tuple[Given, ...]
    weights: tuple[int, ...] | None
    """None: each image comes once in an epoch"""
    names: tuple[str, ...]
    """of its classes"""
    labels: tuple[tuple[int, ...], ...]
    """of each data set: the new label of each of its classes; -1: it is left out"""
    keys: bytes | None
    """the list of the images that stay; None: all"""
    grows: bool = False
    """whether it is the first data set with what the second has and the first has not"""

    @property
    def images_sha256(self) -> str:
        """What says which images these are: where they come from, and which of them stay."""
        said: dict[str, Any] = {
            MADE_OF: [one.index.fingerprint for one in self.given],
            "weights": self.weights,
            "classes": self.names,
            "only_keys_sha256": self.data.only_keys_sha256,
            "duplicates": self.data.duplicates,
            "grows": self.grows,
        }
        return canonical.fingerprint(said)

    @property
    def pointer(self) -> DatasetPointer:
        """Where the data set lies, or will."""
        fingerprint = dataset_fingerprint(self.data, self.images_sha256)
        return DatasetPointer(layout.dataset_folder(self.data.name, fingerprint), fingerprint)

    @property
    def chooses(self) -> bool:
        """Whether the images must be looked at: some may be left out, or have another label."""
        is_same = all(
            one == tuple(range(len(given.index.label.names)))
            for one, given in zip(self.labels, self.given, strict=True)
        )
        has_rules = self.keys is not None or self.data.duplicates == "drop"
        return not is_same or has_rules or self.grows


def plan(data: DataConfig, given: Sequence[Given], *, keys: bytes | None = None) -> Plan:
    """Return what becomes of these data sets.

    Args:
        data: what the images are, which of them stay, and whether equal ones do.
        given: the data sets, in order.
        keys: content of the file `data.only_keys`, where that is given.

    Raises:
        DataError: their images cannot stand in one batch, or two classes have one name.
        ConfigError: the weights, the classes that are to stay, or the list cannot be used.
    """
    require_alike(given)
    if keys is not None:
        require_readable(given, "data.only_keys")
        listed_keys(keys)
    if data.duplicates == "drop":
        require_readable(given, "data.duplicates=drop")
    names = union_of_classes(given) if len(given) > 1 else given[0].index.label.names
    left, labels = chosen_labels(names, data.only_classes)
    of_name = dict(zip(names, labels, strict=True))
    mapped = [
        labels if len(given) == 1 else tuple(of_name[name] for name in one.index.label.names)
        for one in given
    ]
    return Plan(data, tuple(given), weights_of(given), left, tuple(mapped), keys)


def growth(data: DataConfig, base: Given, added: Given) -> Plan:
    """Return what becomes of a data set to which the images of another are added, if it lacks them.

    Its own images keep their numbers and their labels; new classes come behind its own.

    Raises:
        DataError: their images have different shapes, or two classes have one name.
    """
    require_readable([base, added], "an append")
    return replace(plan(data, [base, added]), grows=True)


def compose(store: Store, made: Plan, *, num_threads: int = 1) -> Manifest | None:
    """Commit the index of the data set that is planned; None: there is nothing to add.

    Killed on the way it leaves no index; what it read is read again.

    Args:
        store: where all of them lie.
        made: what is to be made.
        num_threads: shards that are read at once, if the images must be looked at.

    Raises:
        DataError: nothing is left, or a shard is damaged.
        ConfigError: the list has keys that no image has.
        StorageError: the storage does not answer.
    """
    sources = [
        Source(store, one.index, labels)
        for one, labels in zip(made.given, made.labels, strict=True)
    ]
    left_out = _choose(made, sources, num_threads) if made.chooses else {}
    if made.grows and not any(True for split in SPLITS for _ in sources[1].shards(split)):
        return None
    shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    ancestors = []
    has_captions = any(one.index.captions is not None for one in made.given)
    for at, source in enumerate(sources):
        own = {split: list(source.shards(split)) for split in SPLITS}
        if has_captions and source.index.captions is None:
            own = {split: [_without_captions(shard) for shard in own[split]] for split in SPLITS}
        for split in SPLITS:
            shards[split] += own[split]
        ancestors.append(
            Ancestor(
                source.index.manifest.folder,
                source.index.fingerprint,
                None if made.weights is None else made.weights[at],
                {split: len(own[split]) for split in SPLITS},
            )
        )
        if made.weights is not None and not own["train"]:
            raise DataError(
                f"no training image of {made.given[at].name} is left, and it has a weight; leave "
                "it out, or choose otherwise"
            )
    _require_images(shards)
    counts = {split: _counts(sources, split, len(made.names), num_threads) for split in SPLITS}
    body = _body(made, shards, counts, ancestors, left_out)
    return commit_in_parts(store, made.pointer.folder, body, shards)


def _without_captions(shard: Shard) -> Shard:
    """Return a shard without its captions, which its data set has neither read nor counted."""
    beside = {name: rows for name, rows in shard.beside.items() if name != CAPTION}
    return replace(shard, beside=beside)


def _choose(made: Plan, sources: Sequence[Source], num_threads: int) -> dict[str, LeftOut]:
    """Look at all images and say to each source which of its own stay."""
    places = [
        (source, split, number)
        for split in SPLITS
        for source in sources
        for number in range(source.num_shards(split))
    ]
    total = sum(sum(one.index.num_images.values()) for one in made.given)
    found: dict[Split, list[Row]] = {"train": [], "test": []}
    done, with_keys = 0, made.keys is not None
    with ThreadPoolExecutor(num_threads) as pool:
        rows = pool.map(
            lambda place: place[0].look(place[1], place[2], with_keys=with_keys), places
        )
        for (_, split, _), row in zip(places, rows, strict=True):
            found[split].append(row)
            done += len(row.labels)
            Progress("shard", done, total, "images", "looked at").show()
    if made.grows:
        return _add(sources[0], sources[1], found)
    keys = None
    if made.keys is not None:
        keys = listed_keys(made.keys)
        require_known(keys, [*found["train"], *found["test"]])
    masks, left_out = stay(
        found["train"], found["test"], keys=keys, drop_duplicates=made.data.duplicates == "drop"
    )
    for split in SPLITS:
        at = 0
        for source in sources:
            own = slice(at, at + source.num_shards(split))
            source.choose(split, masks[split][own], found[split][own])
            at = own.stop
    _say(total, left_out)
    return left_out


def _add(base: Source, added: Source, found: Mapping[Split, Sequence[Row]]) -> dict[str, LeftOut]:
    """Say to what is added which of its images the base has not; the base stays as it is."""
    known = [row for split in SPLITS for row in found[split][: base.num_shards(split)]]
    left_out: dict[str, LeftOut] = {}
    for split in SPLITS:
        rows = found[split][base.num_shards(split) :]
        masks, num_known = unknown(known, rows)
        added.choose(split, masks, rows)
        left_out[split] = LeftOut(duplicates=num_known)
    num_images = sum(int(added.index.counts(split).sum()) for split in SPLITS)
    _say(num_images, left_out)
    return left_out


def _say(total: int, left_out: Mapping[str, LeftOut]) -> None:
    note = f"left out: {'; '.join(f'of {split} {one}' for split, one in left_out.items())}"
    Progress("shard", total, total, "images", note).show()


def _counts(sources: Sequence[Source], split: Split, num_classes: int, num_threads: int) -> Tally:
    """Return how often each value and class occurs in what stays of a split."""
    places = [(source, number) for source in sources for number in range(source.num_shards(split))]
    with ThreadPoolExecutor(num_threads) as pool:
        found = pool.map(lambda at: at[0].tally(split, at[1], num_classes), places)
        return sum_of(found, num_classes)


def _require_images(shards: Mapping[str, Sequence[Shard]]) -> None:
    for split in SPLITS:
        if not any(shard.num_images for shard in shards[split]):
            raise DataError(
                f"no image is left in the {split} split; choose others by data.only_classes and "
                "data.only_keys, or data sets that hold out some"
            )


def _body(
    made: Plan,
    shards: Mapping[str, Sequence[Shard]],
    counts: Mapping[Split, Tally],
    ancestors: Sequence[Ancestor],
    left_out: Mapping[str, LeftOut],
) -> dict[str, Any]:
    first = made.given[0].index
    cut = next((one.index.image.cut for one in made.given if one.index.image.cut), None)
    # Of shards that are used in place nobody has counted the values.
    mean, std = ([], []) if cut is not None else mean_and_std(counts["train"].values)
    lengths = {one.index.image.file_bytes for one in made.given}
    file_bytes = lengths.pop() if len(lengths) == 1 else None
    image = ImageMember(first.image.dtype, first.shape, tuple(mean), tuple(std), file_bytes, cut)
    of_classes: dict[str, tuple[int, ...]] = {
        split: tuple(counts[split].classes.tolist()) for split in SPLITS
    }
    return {
        "fingerprint": made.pointer.fingerprint,
        "images_sha256": made.images_sha256,
        "data": identity.data(made.data),
        "members": {
            **_others(made.given),
            **_captions(made.given, counts),
            IMAGE: image.entry(),
            LABEL: ClassMember(made.names, of_classes).entry(),
        },
        "num_images": {split: sum(shard.num_images for shard in shards[split]) for split in SPLITS},
        "rejected": [],
        "passed_over": {},
        MADE_OF: [one.entry() for one in ancestors],
        **({LEFT_OUT: {split: one.entry() for split, one in left_out.items()}} if left_out else {}),
    }


def _captions(given: Sequence[Given], counts: Mapping[Split, Tally]) -> dict[str, Any]:
    """Return the member of the captions, where images of some of the data sets have any."""
    members = [one.index.captions for one in given if one.index.captions is not None]
    if not members:
        return {}
    counted: dict[str, CaptionCounts] = {split: counts[split].captions for split in SPLITS}
    return {CAPTION: replace(members[0], counts=counted).entry()}


def _others(given: Sequence[Given]) -> dict[str, Any]:
    """Return the other members that the images of all the data sets come with."""
    first, *rest = (entries(one.index.manifest.body) for one in given)
    return {
        name: entry for name, entry in first.items() if all(entry == one.get(name) for one in rest)
    }
