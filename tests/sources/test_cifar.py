import gzip

import numpy as np
import pytest

from ddpm_core.config import DataConfig
from ddpm_core.errors import DataError
from ddpm_core.sources import cifar
from ddpm_core.sources.splits import load_splits
from tests.sharding.small import cifar_arrays, cifar_batch, cifar_batches, tar_of


def cifar_at(folder, **changes):
    return DataConfig(name="cifar10", source=str(folder), height=32, width=32, **changes)


def write_cifar(folder, batches=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (batches or cifar_batches()).items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(folder, files=None):
    files = {f"cifar-10-batches-bin/{k}": v for k, v in (files or cifar_batches()).items()}
    path = folder / "cifar-10-binary.tar.gz"
    path.write_bytes(gzip.compress(tar_of({"cifar-10-batches-bin/readme.html": b"hi", **files})))
    return path


@pytest.mark.parametrize("form", ["files", "unpacked", "archive", "folder of archive"])
def test_cifar10_is_read_in_the_order_of_its_batches(form, tmp_path):
    """Catches planes read as interleaved colours, exchanged axes, and shuffled batches."""
    source = {
        "files": lambda: write_cifar(tmp_path),
        "unpacked": lambda: write_cifar(tmp_path / "cifar-10-batches-bin").parent,
        "archive": lambda: write_archive(tmp_path),
        "folder of archive": lambda: write_archive(tmp_path).parent,
    }[form]()
    splits = load_splits(cifar_at(source), cache=tmp_path)
    assert (len(splits.train), len(splits.test)) == (10, 2)
    batches = [*np.split(splits.train.images_u8, 5), splits.test.images_u8]
    labels = [*np.split(splits.train.labels, 5), splits.test.labels]
    for seed, (got, got_labels) in enumerate(zip(batches, labels, strict=True)):
        wanted, wanted_labels = cifar_arrays(2, seed=seed)
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(got_labels, wanted_labels)
    assert splits.classes[3] == "cat"


BAD_CIFAR = {
    "nothing": b"",
    "cut": cifar_batch(2)[:-1],
    "trailing": cifar_batch(2) + b"x",
    "no class": b"\x0a" + cifar_batch(1)[1:],
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("content", BAD_CIFAR.values(), ids=BAD_CIFAR)
def test_cifar10_that_is_damaged_is_refused(content, packed, tmp_path):
    """Catches records that are shifted by a byte."""
    batches = {**cifar_batches(), "data_batch_3.bin": content}
    source = write_archive(tmp_path, batches) if packed else write_cifar(tmp_path, batches)
    with pytest.raises(DataError, match=r"data_batch_3\.bin (has|gives) .* must .*etch"):
        load_splits(cifar_at(source), cache=tmp_path)


def test_cifar10_lacking_a_batch_is_refused(tmp_path):
    """Catches training on four fifths."""
    batches = cifar_batches()
    del batches["data_batch_5.bin"]
    with pytest.raises(DataError, match=r"does not hold data_batch_5\.bin"):
        load_splits(cifar_at(write_archive(tmp_path, batches)), cache=tmp_path)
    with pytest.raises(DataError, match=r"data_batch_5\.bin is missing"):
        load_splits(cifar_at(write_cifar(tmp_path / "files", batches)), cache=tmp_path)


@pytest.mark.parametrize(
    "name", ["cifar-10-python.tar.gz", "cifar-10-batches-py/test_batch", "data_batch_1"]
)
def test_the_python_version_is_refused_with_the_address_of_the_binary_one(name, tmp_path):
    """Catches a pickle that is loaded, and one that is refused without a way on."""
    path = tmp_path / "given" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    sources = [tmp_path / "given", *([path] if name.endswith(".gz") else [])]
    for source in sources:
        with pytest.raises(DataError) as caught:
            load_splits(cifar_at(source), cache=tmp_path)
        for part in (str(source), *cifar.PUBLISHED[0].urls, cifar.PUBLISHED[0].sha256):
            assert part in str(caught.value)


def test_a_folder_without_cifar10_is_refused(tmp_path):
    """Catches an empty data set."""
    with pytest.raises(DataError, match=r"holds no CIFAR-10; data\.source must be cifar"):
        load_splits(cifar_at(tmp_path), cache=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK", "neither a folder nor a .tar.gz"),
        ("a.tar.gz", b"PK", "cannot be read"),
        ("a.tar.gz", gzip.compress(b"no tar"), "no archive that can be used"),
        ("a.tar.gz", gzip.compress(tar_of({"a/x.bin": b"1", "b/x.bin": b"2"})), "twice"),
    ],
)
def test_archives_that_are_none_are_refused(name, content, message, tmp_path):
    """Catches a bare error of gzip, and one of two files of a name taken at random."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_splits(cifar_at(tmp_path / name), cache=tmp_path)


def test_an_archive_that_unpacks_without_end_is_cut_off(tmp_path, monkeypatch):
    """Catches a gzip bomb unpacked into memory."""
    monkeypatch.setattr(cifar, "_MAX_ARCHIVE_BYTES", 10_000)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(10_001)))
    with pytest.raises(DataError, match="unpacks to over 10000 bytes"):
        load_splits(cifar_at(path), cache=tmp_path)
