"""Readers of foreign bytes end: after work in proportion to what they are given, whatever it says.

Seeded mutants of small files of every kind; what is executed is counted (`work`), not timed. The
mutants keep checksums right where a reader compares them, so that what lies behind is reached.
"""

import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from ddpm_core.errors import DataError, PipelineError
from ddpm_core.images.decode import Shaping, decode_exact, decode_image, kept_as_is
from ddpm_core.images.image_facts import UnreadableError, orientation_of
from ddpm_core.images.image_walk import walk as walk_image
from ddpm_core.images.names import checked_name
from ddpm_core.images.plain_files import decode_plain
from ddpm_core.shards.tar import members
from ddpm_core.sources import mnist
from ddpm_core.sources.cifar import read_folder as read_cifar
from ddpm_core.sources.containers.container import PassedOver
from ddpm_core.sources.containers.shard_files import ShardFiles, is_a_shard
from ddpm_core.sources.containers.tar_walk import walk as walk_tar
from ddpm_core.sources.containers.tarred import Tar
from ddpm_core.sources.containers.unpacking import unpacked
from ddpm_core.sources.containers.zipped import Zip
from tests.images.odd_files import exif, gif_file, pillow_file, png_file
from tests.sources.containers.test_tarred import tar_of
from tests.sources.work import Counted, EndlessError, bounded_work

NUM_MUTANTS = 300
SHAPING = Shaping(
    height=4, width=4, channels=3, crop="center", resize="box", background=(255, 255, 255)
)
EXTREMES = [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]


def mutant(content, rng):
    """The content with one to three places changed: bytes, numbers, digits, whole stretches."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        places = [place for place, byte in enumerate(changed) if byte] or [0]  # not the padding
        at = int(rng.choice(places))
        length = int(rng.integers(1, 64))
        match int(rng.integers(8)):
            case 0:
                del changed[at : at + length]
            case 1:
                changed[at:at] = changed[at : at + length] * int(rng.integers(1, 4))
            case 2:
                changed[at : at + 4] = struct.pack(">I", int(rng.choice(EXTREMES)))
            case 3:
                changed[at : at + 4] = struct.pack("<I", int(rng.choice(EXTREMES)))
            case 4 | 5:
                found = re.compile(rb"\d+").search(changed, at)
                if found:
                    number = rng.choice([b"0", b"1", b"9" * len(found[0]), b"0" * len(found[0])])
                    changed[found.start() : found.end()] = number
            case _:
                changed[at : at + 1] = bytes([int(rng.integers(256))])
    return bytes(changed)


def checksummed_tar(content):
    """The content with the checksum of everything that looks like a header of tar made right."""
    changed = bytearray(content)
    for at in range(0, len(changed) - 511, 512):
        if changed[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


def checksummed_png(content):
    """The content with the checksums of its chunks made right."""
    changed, at = bytearray(content), 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def same(content):
    return content


def images(content, _folder):
    walk_image(content)
    kept_as_is(content, SHAPING)
    decode_plain([content], np.empty((1, 8, 8, 3), np.uint8))
    decode_image(content, SHAPING, origin="x")
    decode_exact(content, (8, 8, 3), origin="x")


def everything_of(container):
    for entry in container.entries(PassedOver()):
        container.read(entry)


PICTURES = {
    "png": png_file(np.arange(64).reshape(8, 8), color_type=0),
    "jpeg": pillow_file(np.zeros((8, 8, 3), np.uint8), "JPEG", exif=exif(6), progressive=True),
    "webp": pillow_file(np.zeros((8, 8, 3), np.uint8), "WEBP", exif=exif(6)),
    "gif": gif_file(np.arange(64).reshape(8, 8), np.eye(64, 3, dtype=np.uint8)),
}
RECORDS = tar_of({"x": b"6 a=b\n" * 20 + b"9 path=e\n"}, kinds={"x": tarfile.XHDTYPE})
PAX = RECORDS[:1024] + tar_of(
    {"a.png": b"x" * 20, "ä" * 120 + ".png": b"y"}, form=tarfile.PAX_FORMAT, pax={"a": "b"}
)
ARCHIVES = {
    "pax": PAX,
    "gnu": tar_of({"n" * 150 + ".png": b"z", "b/c.cls": b"1", "b/c.png": b"x"}),
}
ZIPPED = io.BytesIO()
with zipfile.ZipFile(ZIPPED, "w", zipfile.ZIP_DEFLATED) as _archive:
    for _name in ("a/b.png", "a/c.png"):
        _archive.writestr(zipfile.ZipInfo(_name), b"x" * 300)


def as_file(read, suffix):
    """A reader of a path as one of bytes."""

    def reader(content, folder):
        path = folder / f"some{suffix}"
        path.write_bytes(content)
        read(path)

    return reader


def as_idx(content, folder):
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    mnist.read_folder(folder)


IDX = struct.pack(">4I", 0x803, 2, 28, 28) + bytes(2 * 784)


def shards(path):
    is_a_shard(path, "x")
    everything_of(ShardFiles([(path.name, path)], uri="x"))


def plain_members(content, _folder):
    members(content, origin="x", skip_others=True)


def cifar_archive(content):
    return gzip.compress(tar_of({"data_batch_1.bin": content}))


tar, zipped = (
    as_file(lambda path: everything_of(Tar(path)), ".tar"),
    as_file(lambda path: everything_of(Zip(path)), ".zip"),
)
READERS = {
    "image: png": (PICTURES["png"], images, checksummed_png),
    "image: jpeg": (PICTURES["jpeg"], images, same),
    "image: webp": (PICTURES["webp"], images, same),
    "image: gif": (PICTURES["gif"], images, same),
    "exif": (exif(6), lambda content, _: orientation_of(content), same),
    "tar: pax": (ARCHIVES["pax"], tar, checksummed_tar),
    "tar: gnu": (ARCHIVES["gnu"], tar, checksummed_tar),
    "tar: of a bundle": (ARCHIVES["gnu"], plain_members, checksummed_tar),
    "tar: shards": (ARCHIVES["gnu"], as_file(shards, ".tar"), checksummed_tar),
    "zip": (ZIPPED.getvalue(), zipped, same),
    "gzip": (
        gzip.compress(PAX, mtime=0),
        as_file(lambda path: unpacked(path, path.parent), ".gz"),
        same,
    ),
    "idx": (IDX, as_idx, same),
    "cifar: binary": (bytes(2 * 3073), as_file(read_cifar, ".tar.gz"), cifar_archive),
}


@pytest.mark.parametrize("name", READERS)
def test_mutants_are_read_or_refused_after_a_bounded_number_of_steps(name, tmp_path):
    """Catches a loop that does not advance: a second record of length 0 in a pax header.

    A pass over these files of a few kilobytes executes some hundreds of lines.
    """
    content, read, mended = READERS[name]
    rng = np.random.default_rng(sorted(READERS).index(name))
    ended = {"read": 0, "refused": 0}
    for number in range(NUM_MUTANTS):
        changed = mended(mutant(content, rng)) if number else mended(content)
        try:
            with bounded_work(lines=3000 + 4 * len(changed)):
                read(changed, tmp_path)
            ended["read"] += 1
        except (PipelineError, UnreadableError):
            ended["refused"] += 1
        except EndlessError as error:
            raise AssertionError(f"mutant {number}: {error}: {changed!r}") from None
    assert name == "exif" or ended["refused"] > 0  # damaged EXIF turns nothing, and is no error


def test_a_pax_record_of_no_length_is_refused():
    """Catches the loop itself: such a record says that the next one begins where it begins."""
    for body in (b"0 c=d\n", b"6 a=b\n0 c=d\n", b"6 a=b\n00 c=d\n", b"1 a=b\n"):
        content = tar_of({"x": body}, kinds={"x": tarfile.XHDTYPE})
        with bounded_work(lines=1000), pytest.raises(DataError, match="a pax record"):
            list(walk_tar(io.BytesIO(content), "x"))


def test_a_large_exif_block_is_read_in_one_pass():
    """Catches a copy of all that follows for each of 65,535 entries: hours, for a PNG of 32 MiB."""
    block = Counted(b"MM\0\x2a" + struct.pack(">IH", 8, 0xFFFF) + bytes(12 * 0xFFFF))
    with bounded_work(lines=10 * 0xFFFF, copied=4 * len(block)):
        assert orientation_of(block) == 1


def test_a_name_of_many_dots_is_refused_in_one_look():
    """Catches "./" taken off 32,000 times from a copy, before the length is looked at."""
    with bounded_work(lines=100), pytest.raises(DataError, match=r"1\.\.4096 bytes"):
        checked_name(b"./" * 2**15 + b"a", "x")
    with bounded_work(lines=100):
        assert checked_name(b"./" * 1000 + b"a", "x") == "a"
