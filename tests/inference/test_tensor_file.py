"""Files of tensors: the bytes of the library, in blocks, and nothing that a header can break."""

import io
import json

import pytest
import torch
from safetensors.torch import load, save

from ddpm_core.errors import CheckpointError
from ddpm_core.inference.tensor_file import TensorFile, fill_tensors, load_tensors
from ddpm_core.store import content
from ddpm_core.store.content import blocks_of, sha256_of
from ddpm_core.store.disk import LocalStore

DTYPES = (
    torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16, torch.float16,
    torch.uint8, torch.bool,
)  # fmt: skip


def tensors():
    generator = torch.Generator().manual_seed(0)
    made = {
        f"{number}.{name}": (torch.rand(shape, generator=generator) * 9).to(dtype)
        for number, dtype in enumerate(DTYPES)
        for name, shape in [("b", (2, 3)), ("a", ()), ("none", (0, 3)), ("odd", (5,))]
    }
    made['q"\\é'] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    return made


def library_bytes(made):
    return save({name: tensor.contiguous() for name, tensor in made.items()})


def opened(data):
    return io.BytesIO(data), len(data)


@pytest.mark.parametrize("made", [tensors(), {}], ids=["all dtypes", "none"])
def test_the_bytes_are_those_of_the_library(made):
    """Catches another order, spelling or padding of the header: all digests would change."""
    expected = library_bytes(made)
    file = TensorFile(dict(reversed(made.items())))
    assert len(file) == len(expected)
    assert file[:] == expected
    for step in (1, 7, 64):
        parts = [file[start : start + step] for start in range(0, len(file), step)]
        assert b"".join(parts) == expected
    assert file[100:50] == b""
    torch.testing.assert_close(dict(load(file[:])), made, rtol=0, atol=0)


def test_what_the_library_writes_is_read():
    """Catches tensors at each other's place, and a memory order that is lost."""
    made = tensors()
    data = save({name: one.contiguous() for name, one in made.items()}, metadata={"format": "pt"})
    torch.testing.assert_close(load_tensors(*opened(data), origin="x"), made, rtol=0, atol=0)
    into = {name: torch.zeros_like(tensor) for name, tensor in made.items()}
    fill_tensors(*opened(data), into, origin="x")
    torch.testing.assert_close(into, made, rtol=0, atol=0)
    assert into['q"\\é'].is_contiguous(memory_format=torch.channels_last)


def test_a_long_file_is_stored_and_digested_block_by_block(tmp_path, monkeypatch):
    """Catches a file that is in memory as a whole on its way to the store."""
    monkeypatch.setattr(content, "BLOCK_BYTES", 100)
    asked = []

    class Watched:
        def __len__(self):
            return len(file)

        def __getitem__(self, part):
            asked.append(len(file[part]))
            return file[part]

    file, store = TensorFile(tensors()), LocalStore(tmp_path)
    store.write("a", Watched())
    assert store.read("a") == file[:]
    assert max(asked) == 100
    asked.clear()
    assert sha256_of(Watched()) == sha256_of(file[:])
    assert max(asked) == 100
    assert sum(asked) == len(file)
    assert b"".join(blocks_of(file[:])) == file[:]


HEADERS = {
    "no JSON": b"{",
    "no object": b"[]",
    "no dtype": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "an unknown dtype": {"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}},
    "a shape that is none": {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
    "a shape of text": {"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}},
    "negative sizes": {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
    "a tensor larger than its bytes": {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}},
    "a gap": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "an overlap": {
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    },
    "a tensor larger than the file": {
        "a": {"dtype": "U8", "shape": [2**50], "data_offsets": [0, 2**50]}
    },
    "bytes of no tensor": {},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused(header):
    """Catches a traceback, memory taken by a number in a file, and numbers read elsewhere."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(4)
    with pytest.raises(CheckpointError, match=r"x is no safetensors file \(.*another program"):
        load_tensors(*opened(data), origin="x")


@pytest.mark.parametrize("data", [b"", b"\0" * 20, b"\xff" * 20, b"\x02"], ids=len)
def test_what_is_no_file_of_tensors_is_refused(data):
    """Catches a read of 2**64 bytes."""
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_tensors(*opened(data), origin="x")
