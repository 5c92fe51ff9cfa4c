"""What the shard stage needs of images, wherever they come from: how many, and their shards."""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ddpm_core.config import ComputeConfig, DataConfig
from ddpm_core.errors import DataError
from ddpm_core.images.decode import TOO_SMALL
from ddpm_core.images.names import quoted
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.index import SPLITS, Rejected, Split
from ddpm_core.shards.shard import MadeShard
from ddpm_core.store.storage import Store

_NUM_SHOWN = 10


@dataclass(frozen=True)
class ShardUnit:
    """A shard that is to be made: images `start` to `stop` of a split, as the source counts."""

    split: Split
    number: int
    start: int
    stop: int


class Source(abc.ABC):
    """Images of a training and a held-out split."""

    classes: tuple[str, ...]
    """what the labels mean"""
    num_images: Mapping[Split, int]
    """split -> images, those that turn out to be unusable among them"""
    class_counts: Sequence[int] = ()
    """training images of each class, of a collection"""
    passed_over: Mapping[str, int]
    """why files of the source were not taken for images -> how many"""
    left_out: Sequence[str] = ()
    """those that may have been meant as images: a line for each reason, with the first names"""
    notes: Mapping[str, int] = MappingProxyType({})
    """what is out of the ordinary about images that are taken -> how many"""
    captions: Mapping[Split, CaptionCounts] | None = None
    """of the images, those that turn out to be unusable among them; None: they come without"""

    def find_out(  # noqa: B027 - of images in memory all is known
        self, store: Store, compute: ComputeConfig, *, may_be_there: Callable[[], bool]
    ) -> None:
        """Find out what `digest` needs; shards may be made of what is read for it.

        Args:
            store: where earlier looks are kept, and shards are made.
            compute: how many workers, and with what.
            may_be_there: returns whether the data set may be there already.

        Raises:
            DataError: it cannot be used; of single files, the first are listed, and their number.
            StorageError: where it lies does not answer.
        """

    @property
    def is_made_ahead(self) -> bool:
        """Whether shards were made when `find_out` read the images."""
        return False

    @abc.abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 of all images and labels, in order."""

    @abc.abstractmethod
    def make_shards(
        self,
        store: Store,
        folder: str,
        units: Sequence[ShardUnit],
        compute: ComputeConfig,
        *,
        on_done: Callable[[ShardUnit, MadeShard], None],
    ) -> None:
        """Make every shard of `units` that is not there already.

        Args:
            store: where.
            folder: of the data set.
            units: which.
            compute: how many workers, and with what.
            on_done: called with each finished shard, in the order in which they are finished.
        """

    def tidy(self, store: Store, dataset: str) -> None:  # noqa: B027 - most leave nothing
        """Delete what was needed until the data set of this fingerprint was there, and note of what
        files it is made.
        """


def units_of(source: Source, data: DataConfig) -> list[ShardUnit]:
    """Return the shards of a data set, in order."""
    size = data.images_per_shard
    return [
        ShardUnit(split, start // size, start, min(start + size, source.num_images[split]))
        for split in SPLITS
        for start in range(0, source.num_images[split], size)
    ]


def _share(part: int, total: int) -> str:
    """Return a share that allows `part` of `total`, with two digits behind the point or four.

    1 only where all are meant, which no setting allows.
    """
    share = math.ceil(100 * part / total) / 100
    if 100 * part < total or (share >= 1 and part < total):
        share = math.ceil(10_000 * part / total) / 10_000
    return f"{share:g}"


def are_too_many(data: DataConfig, rejected: Sequence[Rejected], total: int) -> bool:
    """Say whether more files than allowed cannot be used, of `total`."""
    may_lack = data.on_bad != "fail"
    # To a millionth of an image: 0.29 * 100 is a little less than 29.
    return len(_counted(rejected)) > (data.max_bad_share * total + 1e-6 if may_lack else 0)


def _counted(rejected: Sequence[Rejected]) -> Sequence[Rejected]:
    """Leave out those that are whole, and smaller than was asked for."""
    return [one for one in rejected if not one.reason.startswith(TOO_SMALL)]


def require_few_rejected(
    data: DataConfig, rejected: Sequence[Rejected], total: int, *, uri: str
) -> None:
    """Refuse a source with files that cannot be used, or with too many of them.

    Those that are left out by their size are none of these.

    Raises:
        DataError: with the first ones, and their number.
    """
    rejected = _counted(rejected)
    if not are_too_many(data, rejected, total):
        return
    may_lack = data.on_bad != "fail"
    lines = "\n".join(f"  {quoted(one.key)}: {one.reason}" for one in rejected[:_NUM_SHOWN])
    more = len(rejected) - _NUM_SHOWN
    if may_lack:
        remedy = (
            f"data.max_bad_share={data.max_bad_share} allows {int(data.max_bad_share * total)} of "
            "them to be left out. Mend or remove them"
        )
        if (share := _share(len(rejected), total)) != "1":
            remedy += f", or raise it to {share}"
    else:
        remedy = "Mend or remove them, or leave them out with data.on_bad=skip"
    raise DataError(
        f"{len(rejected)} of the {total} images of {uri} cannot be used:\n{lines}"
        + (f"\n  and {more} more" if more > 0 else "")
        + f"\n{remedy}"
    )
