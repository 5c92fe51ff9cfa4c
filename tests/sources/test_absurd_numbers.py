"""Numbers in foreign files that nobody can mean: one sentence each, and no memory for them."""

import io
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from ddpm_core.errors import DataError
from ddpm_core.images.decode import decode_image, first_look
from ddpm_core.sources import mnist
from ddpm_core.sources.containers import tar_walk
from ddpm_core.sources.containers.container import PassedOver
from ddpm_core.sources.containers.tarred import Tar
from ddpm_core.sources.containers.zipped import Zip
from tests.images.odd_files import png_file
from tests.images.pictures import noise, shaping
from tests.images.test_decode_refused import with_sides
from tests.shards.test_tar import with_header
from tests.sources.containers.test_tarred import tar_of

MAX_PEAK_BYTES = 8 * 2**20


def idx(*numbers):
    """An IDX file of images whose header says these numbers, and 784 bytes."""
    return struct.pack(f">{len(numbers)}I", *numbers) + bytes(784)


def zip_saying(at, form, value, *, directory=True):
    """A zip with one number of its directory, or of its end, replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.png"), b"x" * 100)
    content = bytearray(out.getvalue())
    start = content.index(b"PK\1\2" if directory else b"PK\5\6")
    struct.pack_into(form, content, start + at, value)
    return bytes(content)


def pax(records):
    header = tar_of({"x": records}, kinds={"x": tarfile.XHDTYPE})[:1024]
    return header + tar_of({"a.png": b"x"})


def read_idx(content, folder):
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 1) + b"\0")
    mnist.read_folder(folder)


def read_zip(content, folder):
    (folder / "x.zip").write_bytes(content)
    for entry in (opened := Zip(folder / "x.zip")).entries(PassedOver()):
        opened.read(entry)


def read_tar(content, folder):
    (folder / "x.tar").write_bytes(content)
    for entry in (opened := Tar(folder / "x.tar")).entries(PassedOver()):
        opened.read(entry)


def decode(content, _folder):
    problem, _ = first_look(content, "x", 2**30)
    assert problem is not None
    decode_image(content, shaping(8, 8), origin="x", max_pixels=2**30)


ABSURD = {
    "idx of 4 * 10^9 images": (read_idx, idx(0x803, 2**32 - 1, 28, 28), "N in 1..131072"),
    "idx of 131,072 images that are not there": (read_idx, idx(0x803, 2**17, 28, 28), "must have"),
    "idx of images of 4 * 10^9 rows": (read_idx, idx(0x803, 1, 2**32 - 1, 28), "begins with"),
    "zip of 65,534 files": (read_zip, zip_saying(10, "<H", 65_534, directory=False), "part of|lie"),
    "zip with a directory of 4 GB": (
        read_zip,
        zip_saying(12, "<L", 2**32 - 2, directory=False),
        "lie",
    ),
    "zip with a file of 4 GB": (read_zip, zip_saying(24, "<L", 2**32 - 2), "is stored, but"),
    "zip with a name of 64 KiB": (read_zip, zip_saying(28, "<H", 65_535), "cut short"),
    "tar with a file of 8 GiB": (
        read_tar,
        with_header(tar_of({"a": b"x"}), size=b"77777777777\0"),
        "bytes of a member",
    ),
    "tar with a file of 2^80 bytes": (
        read_tar,
        with_header(tar_of({"a": b"x"}), size=b"\x80" + b"\xff" * 11),
        "at most 1099511627776",
    ),
    "pax of 10^14 bytes": (read_tar, pax(b"24 size=100000000000000\n"), "at most 1099511627776"),
    "pax of a number of 40 digits": (
        read_tar,
        pax(b"49 size=" + b"9" * 40 + b"\n"),
        "a decimal number",
    ),
    "png of 2^62 pixels": (
        decode,
        png_file(noise(4, 4), color_type=0, size=(2**31 - 1, 2**31 - 1)),
        "pixels",
    ),
    "png of 2^31 rows of one pixel": (
        decode,
        png_file(noise(4, 4), color_type=0, size=(2**31 - 1, 1)),
        "pixels",
    ),
    "jpeg of 65,500 squared": (decode, with_sides("jpeg", 65_500, 65_500), "pixels"),
    "gif of 65,535 squared": (decode, with_sides("gif", 65_535, 65_535), "pixels"),
    "webp of 2^48 pixels": (decode, with_sides("webp canvas", 2**24, 2**24), "pixels"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_number_that_no_file_can_mean_is_one_error_and_no_memory(name, tmp_path):
    """Catches memory that is taken for what a header says, before anyone looks at what is there."""
    read, content, message = ABSURD[name]
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            read(content, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES


def test_a_tar_has_a_bounded_number_of_members(monkeypatch, tmp_path):
    """Catches a set of names that grows with an archive of empty files, 512 bytes each."""
    monkeypatch.setattr(tar_walk, "MAX_MEMBERS", 3)
    read_tar(tar_of({f"{number}.png": b"" for number in range(2)}), tmp_path)
    with pytest.raises(DataError, match="at most 3 in one archive"):
        read_tar(tar_of({f"{number}.png": b"" for number in range(4)}), tmp_path)
