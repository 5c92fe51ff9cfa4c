"""An .npz from outside: read as what it is, and nothing in it run, believed or expanded."""

import io
import zipfile

import numpy as np
import pytest
import torch

from ddpm_core.errors import CheckpointError
from ddpm_core.exchange import npz
from ddpm_core.exchange.npz import read_npz

VARIABLES = {
    "model/conv_in/W": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "model/conv_in/b": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "global_step": np.array(790_000, dtype=np.int64),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_variables_are_read_with_their_names_bits_and_shapes(save, tmp_path):
    """Catches: the .npy in the name, rows for columns, a scalar that becomes a list."""
    path = tmp_path / "ddpm.npz"
    save(path, **VARIABLES)
    found, digest = read_npz(str(path))
    assert found.keys() == VARIABLES.keys()
    for name, value in VARIABLES.items():
        assert found[name].shape == value.shape
        assert np.array_equal(found[name].numpy(), value)
        assert found[name].numpy().dtype == value.dtype
    assert len(digest) == 64


def with_entry(path, name: str, data: bytes) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return str(path)


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


class Marked:
    """Pickles to a call that leaves a mark."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_an_object_is_refused_and_not_unpickled(tmp_path):
    """Catches: allow_pickle=True."""
    mark, path = tmp_path / "mark", tmp_path / "evil.npz"
    np.savez(path, W=np.array([Marked(mark)], dtype=object))
    with pytest.raises(CheckpointError, match="must be plain numbers"):
        read_npz(str(path))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("W.npy", b"nothing", "is no .npy file"),
        ("W.txt", b"", "'W.txt', which is no .npy"),
        (
            "W.npy",
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
            "has 0 bytes",
        ),
        (
            "W.npy",
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
            "has 8 bytes",
        ),
        ("W.npy", npy("{'descr': '<f4', 'shape': (1,)}", b"\0" * 4), "is no .npy file"),
        (
            "W.npy",
            npy("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", b"\0" * 4),
            "must be plain numbers",
        ),
        ("W.npy", npy("{}", version=b"\x09\x00"), "version (9, 0)"),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(name, data, part, tmp_path):
    """Catches: a header of some bytes that has terabytes allocated."""
    path = with_entry(tmp_path / "w.npz", name, data)
    with pytest.raises(CheckpointError) as caught:
        read_npz(path)
    assert part in str(caught.value)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    """Catches: a bomb: a bound on the file alone."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, W=np.zeros(1_000_000, dtype=np.float32))
    monkeypatch.setattr(npz, "MAX_NPZ_BYTES", 100_000)
    monkeypatch.setattr(npz, "_array", lambda data, origin: pytest.fail("was unpacked"))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="unpacks to 1 files of 4000128 bytes"):
        read_npz(str(path))


def test_a_file_that_is_too_long_none_or_not_there_is_refused(tmp_path, monkeypatch):
    """Catches: a traceback of zipfile, or of the storage."""
    with pytest.raises(CheckpointError, match="there is no file"):
        read_npz(str(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(CheckpointError, match=r"is no \.npz file"):
        read_npz(str(tmp_path / "text.npz"))
    monkeypatch.setattr(npz, "MAX_NPZ_BYTES", 5)
    with pytest.raises(CheckpointError, match="over 5 bytes"):
        read_npz(str(tmp_path / "text.npz"))


def test_a_damaged_archive_is_refused(tmp_path):
    """Catches: weights with a flipped bit; an error of zlib that nobody expects."""
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / "damaged.npz"
        save(path, W=np.random.default_rng(0).standard_normal(1000).astype(np.float32))
        data = bytearray(path.read_bytes())
        data[2000] ^= 255
        path.write_bytes(bytes(data))
        with pytest.raises(CheckpointError, match=r"is no \.npz file"):
            read_npz(str(path))


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    """Catches: one of two weights that is taken, and nobody knows which."""
    file = io.BytesIO()
    np.save(file, np.zeros(2, dtype=np.float32))
    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("W.npy", file.getvalue())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("W.npy", file.getvalue())
    with pytest.raises(CheckpointError, match="there twice"):
        read_npz(str(path))


def test_what_is_read_may_be_written_to(tmp_path):
    """Catches: tensors over read-only memory, which torch warns of."""
    path = tmp_path / "w.npz"
    np.savez(path, **VARIABLES)
    found, _ = read_npz(str(path))
    found["model/conv_in/W"].add_(1)
    assert torch.equal(found["model/conv_in/W"].flatten()[:2], torch.tensor([1.0, 2.0]))
