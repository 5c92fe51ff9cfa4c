"""What a source of archives came to, found again without opening them.

    ledgers/<digest>.json     seal of the archives -> digest of all images, classes, how many

The seal is taken of names, sizes and times, or ETags: a folder of a thousand tars is a thousand
looks at a file, and a bucket one listing. A folder of images, or a bucket of them, has none: there
the ledger of the files is as quick.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.images.names import quoted
from ddpm_core.progress import WARNING
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.index import SPLITS, Split
from ddpm_core.sources import ledger
from ddpm_core.sources.caption_table import table_at
from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.lmdb_export import DATA_FILE, is_lmdb
from ddpm_core.sources.containers.opening import ARCHIVES, shards_below
from ddpm_core.sources.containers.shard_files import shards_in
from ddpm_core.store.foreign_bucket import ForeignBucket, bucket_and_key
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

_FORMAT = 1
_MAX_BYTES = 2**24  # classes are at most 2**16
_WHATEVER = ("recheck", "set_name", "licence")
"""keys that say nothing of which images there are, or of what is made of them"""

_log = logging.getLogger(__name__)


class Seal(NamedTuple):
    """What differs once one of the archives has changed."""

    digest: str
    is_trusted: bool
    """whether it differs for sure"""


@dataclass(frozen=True)
class Known:
    """What the images of a source came to."""

    images_sha256: str
    """as `Source.digest`"""
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    """training images of each class"""
    num_train: int
    num_test: int
    num_passed_over: int
    captions: Mapping[Split, CaptionCounts] | None = None
    """split -> captions of its images"""


def seal_of(data: DataConfig) -> Seal | None:
    """Return the seal of a source as it is now; None if it consists of no archives.

    A table of captions that lies elsewhere is a part of it.

    Raises:
        DataError: the table cannot be read.
        StorageError: the source does not answer.
    """
    found = _of_source(data)
    if found is None or data.caption_table is None:
        return found
    table = sha256_of(table_at(Path(data.caption_table).expanduser()))
    return _sealed([(found.digest, table)], is_trusted=found.is_trusted)


def _of_source(data: DataConfig) -> Seal | None:
    source = data.source
    if source.startswith("https://"):
        return (
            None
            if data.source_sha256 is None
            else _sealed([(source, data.source_sha256)], is_trusted=True)
        )
    if source.startswith("s3://"):
        return _of_bucket(source)
    try:
        path = Path(ledger.place_of(source))
        if path.is_file():
            files = [(path.name, path)] if path.name.lower().endswith(ARCHIVES) else []
        elif not path.is_dir():
            files = []
        else:
            files = [(DATA_FILE, path / DATA_FILE)] if is_lmdb(path) else shards_in(path)
        return _of_files(files) if files else None
    except (OSError, ValueError):
        return None  # whoever opens it says what is wrong


def known(store: Store, data: DataConfig, seal: Seal | None) -> Known | None:
    """Return what a source with this seal came to; None if that is not known for sure.

    A record that is damaged, or of another format, is passed over, which is said in one line.
    """
    if seal is None or not seal.is_trusted or data.recheck:
        return None
    key = _key(data)
    try:
        content = store.read(key, at_most=_MAX_BYTES)
    except KeyMissingError:
        return None
    try:
        about = json.loads(content)
        digest = about.pop("digest")
        if digest != sha256_of(canonical_json(about)) or about["format"] != _FORMAT:
            raise ValueError("it is damaged, or of another version")  # noqa: TRY301
        if about["seal"] != seal.digest or about["source"] != ledger.place_of(data.source):
            return None
        return Known(
            str(about["images_sha256"]),
            tuple(map(str, about["classes"])),
            tuple(map(int, about["class_counts"])),
            int(about["num_train"]),
            int(about["num_test"]),
            int(about["num_passed_over"]),
            _counts_of(about["captions"]) if "captions" in about else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning(
            "%s%s is no record of this source that can be used (%s): it is passed over, and the "
            "source is listed",
            WARNING,
            store.uri_of(key),
            error,
        )
        return None


def keep(store: Store, data: DataConfig, seal: Seal | None, found: Known) -> None:
    """Write down what a source came to, if it is the one that was sealed before.

    Args:
        store: where.
        data: the source, and how it was listed.
        seal: as it was before the listing.
        found: what it came to.

    Raises:
        DataError: it has changed meanwhile.
    """
    require_same(data, seal)
    if seal is None or not seal.is_trusted:
        return
    counted = {} if found.captions is None else {"captions": _entries_of(found.captions)}
    about = {
        **{key: value for key, value in vars(found).items() if key != "captions"},
        **counted,
        "format": _FORMAT,
        "seal": seal.digest,
        "source": ledger.place_of(data.source),
    }
    store.write(_key(data), canonical_json({**about, "digest": sha256_of(canonical_json(about))}))


def require_same(data: DataConfig, seal: Seal | None) -> None:
    """Refuse archives that have changed since they were sealed.

    Raises:
        DataError: they have.
    """
    now = seal_of(data) if seal is not None else None
    if seal is not None and (now is None or now.digest != seal.digest):
        raise DataError(
            f"data.source={quoted(data.source)} has changed while it was read; let nothing write "
            "there, then run again: archives that have not changed are not read again"
        )


def _entries_of(captions: Mapping[Split, CaptionCounts]) -> dict[str, Any]:
    return {split: counts.entry() for split, counts in captions.items()}


def _counts_of(entries: Mapping[str, Any]) -> dict[Split, CaptionCounts]:
    return {split: CaptionCounts.of_entry(entries[split]) for split in SPLITS}


def _of_files(files: Iterable[tuple[str, Path]]) -> Seal:
    found = [(name, path.stat().st_size, marks.of_file(path, {})) for name, path in files]
    parts = [(name, size, *mark.values) for name, size, mark in found]
    return _sealed(parts, is_trusted=all(mark.is_trusted for _, _, mark in found))


def _of_bucket(source: str) -> Seal | None:
    name, key = bucket_and_key(source)
    bucket = ForeignBucket(name)
    if key.lower().endswith(ARCHIVES):
        found = [one for one in bucket.objects(key) if one.key == key]
    else:
        found = shards_below(bucket, f"{key}/" if key else "")
    return _sealed(found, is_trusted=all(one.etag for one in found)) if found else None


def _sealed(parts: Iterable[tuple[object, ...]], *, is_trusted: bool) -> Seal:
    return Seal(sha256_of(repr([tuple(part) for part in parts]).encode()), is_trusted)


def _key(data: DataConfig) -> str:
    # Every key: one that is added, and changes the listing, cannot be forgotten here.
    said = data.model_dump(mode="json", exclude={"source", *_WHATEVER})
    about = {"data": said, "files": ledger.key_of(data)}
    return f"{ledger.FOLDER}/{fingerprint(about)[:16]}.json"
