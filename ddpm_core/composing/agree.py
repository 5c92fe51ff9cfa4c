"""What several data sets must have in common to become one, and what the one is then called.

Knows indexes only, so that a dry run refuses what the shard stage would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.loading.proportions import whole_weights
from ddpm_core.shards.index import Index
from ddpm_core.shards.lineage import is_mixture, made_of


@dataclass(frozen=True)
class Given:
    """A data set that becomes, with others or by itself, another one."""

    name: str
    """for people"""
    index: Index
    weight: Fraction | None = None
    """how often its images are drawn, beside the others'; None: each once in an epoch"""


def require_alike(given: Sequence[Given]) -> None:
    """Refuse data sets whose images cannot stand in one batch, or that are mixtures themselves.

    Raises:
        DataError: naming two that differ, and in what.
    """
    first = given[0]
    for one in given[1:]:
        ours, theirs = _image_text(first.index), _image_text(one.index)
        if ours != theirs:
            raise DataError(
                f"{first.name} has images of {ours} and {one.name} of {theirs}; images that are "
                "trained on together have one shape and one data type: shard one of them again "
                "with the data.height, data.width, data.grey and data.depth of the other"
            )
    if len({one.index.image.cut for one in given} - {None}) > 1:
        raise DataError(
            "several of these data sets are used in place, and their images are cut or resized "
            "otherwise; give them the same data.crop, data.resize, data.background and "
            "data.max_megapixels"
        )
    kinds = {one.name: one.index.captions for one in given if one.index.captions is not None}
    if len({(member.key, member.ending) for member in kinds.values()}) > 1:
        raise DataError(
            f"{' and '.join(kinds)} have captions in files of different kinds; shard one of them "
            "under this root, with data.in_place=false"
        )
    for one in given:
        if is_mixture(made_of(one.index.manifest)):
            raise DataError(
                f"{one.name} is a mixture with weights of its own, which are not mixed again, "
                "nor used in part; name the data sets that it is made of, each with its weight"
            )


def require_readable(given: Sequence[Given], what: str) -> None:
    """Refuse data sets whose images cannot be told by key or content: those that are used in place.

    Raises:
        DataError: naming the first.
    """
    for one in given:
        if one.index.image.cut is not None:
            raise DataError(
                f"{one.name} is used where others put its shards, and {what} goes by files that "
                "were made under this root; shard it, with data.in_place=false"
            )


def weights_of(given: Sequence[Given]) -> tuple[int, ...] | None:
    """Return the weights as the smallest whole numbers; None: there are none, or one data set.

    Raises:
        ConfigError: see `whole_weights`.
    """
    weights = [one.weight for one in given if one.weight is not None]
    if len(given) == 1 or not weights:
        return None
    if len(weights) != len(given):
        raise ConfigError("some data sets have a weight and others none; give each one, or none")
    return whole_weights(weights)


def union_of_classes(given: Sequence[Given]) -> tuple[str, ...]:
    """Return the names of all classes: those of the first, then what is new in the second, ...

    Classes of one name are one class, whatever their numbers. So the labels of the first data set
    stay what they are, and a data set that grew has its new classes behind the old ones.

    Raises:
        DataError: a data set has two classes of one name.
    """
    names: dict[str, None] = {}
    for one in given:
        own = one.index.label.names
        if twice := next((name for name in own if own.count(name) > 1), None):
            raise DataError(
                f"{one.name} has two classes called {twice!r}, and classes of several data sets "
                "are told by their names; give them different names and shard again"
            )
        names.update(dict.fromkeys(own))
    return tuple(names)


def _image_text(index: Index) -> str:
    channels, height, width = index.shape
    return f"{channels} x {height} x {width} {index.image.dtype} values (channels, rows, columns)"
