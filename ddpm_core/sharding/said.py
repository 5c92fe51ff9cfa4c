"""Lines and warnings about a collection while it is read: doubts, oddities, and depths."""

import logging
from collections.abc import Mapping, Sequence

from ddpm_core.images.names import quoted
from ddpm_core.progress import WARNING
from ddpm_core.sharding.looked import Looked
from ddpm_core.shards.index import SPLITS, Split
from ddpm_core.sources.items import Item

_NUM_SHOWN = 3

_log = logging.getLogger(__name__)


def of_known(num_known: int, uri: str) -> str:
    """Return the end of a line that says how many files a look leaves out; "" if it is none."""
    if not num_known:
        return ""
    # A copy of an upload in parts may have another ETag, of the same bytes.
    others = "; the others are new, were changed or copied" if uri.startswith("s3://") else ""
    return f"; {num_known} have not changed since they were read{others}"


def say_doubts(looked: Looked) -> None:
    """Warn of files of which nothing will show that they have not changed."""
    if looked.num_doubtful:
        _log.warning(
            "%sof %d of %d files nothing shows for sure that they have not changed (written "
            "just before they were listed, a time in the future, or no ETag): they are read, "
            "also by the next run",
            WARNING,
            looked.num_doubtful,
            looked.num_files,
        )


def say_notes(looked: Looked, items: Mapping[Split, Sequence[Item]]) -> dict[str, int]:
    """Log the first files of each kind that is out of the ordinary; return how many there are."""
    examples: dict[str, list[str]] = {}
    for split in SPLITS:
        for number, note in looked.notes(split).items():
            examples.setdefault(note, []).append(items[split][number].key)
    for note, keys in sorted(examples.items()):
        first = ", ".join(quoted(key) for key in keys[:_NUM_SHOWN])
        _log.warning("%s%d %s are read; the first: %s", WARNING, len(keys), note, first)
    return {note: len(keys) for note, keys in sorted(examples.items())}


def say_depth(looked: Looked, depth: int) -> None:
    """Warn where files have another number of bits for each sample than is kept."""
    num_deep, total = looked.num_deep, looked.num_files
    if num_deep and depth == 8:
        _log.warning(
            "%s%d PNG files have 16 bits for each sample, of which the data set keeps 8 "
            "(v / 257): its images are 8-bit. data.depth=16 keeps grey ones whole. If they use "
            "a part of the range only, stretch it before",
            WARNING,
            num_deep,
        )
    if depth == 16 and 2 * num_deep < total:
        _log.warning(
            "%sdata.depth=16, and %d of %d files have 16 bits for each sample: of the others "
            "each value is stored times 257 and says no more than 8 bits do, in twice the "
            "bytes; data.depth=8 keeps them whole",
            WARNING,
            num_deep,
            total,
        )
