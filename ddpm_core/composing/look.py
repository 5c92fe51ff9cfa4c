"""What a shard says of its images beside their pixels: class, names and digest of each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddpm_core.composing.choose import Row
from ddpm_core.errors import DataError
from ddpm_core.shards.members import ABOUT, CAPTION, LABEL, ClassMember
from ddpm_core.shards.one import Shard
from ddpm_core.shards.tar import Member as File
from ddpm_core.shards.tar import members


def look(
    tar: bytes,
    shard: Shard,
    member: ClassMember,
    labels: Sequence[int],
    *,
    where: str,
    with_keys: bool,
) -> Row:
    """Return the images of a shard as columns.

    Args:
        tar: its bytes, verified.
        shard: what the index says of it.
        member: the classes of its data set.
        labels: new label of each of them; -1: it is left out.
        where: what to call the shard in an error.
        with_keys: whether the names of the images are wanted, which take more memory than the rest.

    Raises:
        DataError: an image has no class, or another member of it cannot be read.
    """
    own = np.array(shard.labels or (), np.int64)
    beside = _files_beside(tar, shard, where) if with_keys or shard.labels is None else []
    if shard.labels is None:
        files = [_content(tar, one.get(ClassMember.ending), LABEL, where) for one in beside]
        own = member.decode(files, lambda at: f"the label of image {at} of {where}")
    if len(own) and not 0 <= int(own.min()) <= int(own.max()) < len(labels):
        raise DataError(f"{where} has an image of a class beyond the {len(labels)} of its data set")
    places = list(zip(shard.offsets, shard.sizes, strict=True))
    digests = b"".join(hashlib.sha256(tar[at : at + size]).digest() for at, size in places)
    captions = shard.beside.get(CAPTION, ()) if with_keys else ()
    return Row(
        np.array(labels, np.int64)[own],
        tuple(_keys(tar, one) for one in beside) if with_keys else ((),) * len(places),
        np.frombuffer(digests, np.uint64).reshape(-1, 4),
        tuple(tar[at : at + size] for at, size in captions),
    )


def _files_beside(tar: bytes, shard: Shard, where: str) -> list[dict[str, File]]:
    """Return the files of each image's sample by their endings; its own under ''."""
    files = members(tar, origin=where, skip_others=True)
    at_offset = {file.offset: number for number, file in enumerate(files)}
    found = []
    for offset in shard.offsets:
        number = at_offset.get(offset)
        if number is None:
            raise DataError(f"{where} has no file at byte {offset}, where its index has an image")
        stem = files[number].name.rpartition(".")[0]
        beside = {"": files[number]}
        for file in files[number + 1 :]:
            own, _, ending = file.name.rpartition(".")
            if own != stem:
                break
            beside[ending] = file
        found.append(beside)
    return found


def _keys(tar: bytes, beside: Mapping[str, File]) -> tuple[str, ...]:
    """Return the names of an image: that in the shard, and that at the source if it has one."""
    stem = beside[""].name.rpartition(".")[0]
    if ABOUT not in beside:
        return (stem,)
    content = tar[beside[ABOUT].offset : beside[ABOUT].offset + beside[ABOUT].size]
    try:
        about: Any = json.loads(content)
    except (ValueError, RecursionError):  # of others: it says nothing to us
        return (stem,)
    source = about.get("source") if isinstance(about, dict) else None
    return (stem, source) if isinstance(source, str) else (stem,)


def _content(tar: bytes, file: File | None, member: str, where: str) -> bytes:
    if file is None:
        raise DataError(f"{where} has an image without its {member}; shard it again")
    return tar[file.offset : file.offset + file.size]
