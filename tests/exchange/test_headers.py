"""What files of tensors claim of themselves: refused before a library follows it."""

import json
import struct

import pytest
import torch
from safetensors.torch import save

from ddpm_core.errors import CheckpointError
from ddpm_core.exchange.headers import check_safetensors_header, check_shape


@pytest.mark.parametrize(
    "shape",
    [
        (0, 10**30),
        (0, 2**62, 4),
        (0, 2**40, 2**40),
        (-1, -4),
        (0, -5),
        (True, 4),
        (1,) * 100,
        (1.0,),
        None,
        "4",
        [[1]],
    ],
)
def test_a_shape_that_no_tensor_has_is_refused(shape):
    """Catches: tracebacks of NumPy and torch, which multiply the sizes before they look at them."""
    with pytest.raises(CheckpointError, match=r"a\.npz: w says that its shape is"):
        check_shape(shape, origin="a.npz: w")


@pytest.mark.parametrize("shape", [(), (3,), [128, 3, 3, 3], (0,)])
def test_shapes_of_tensors_are_taken(shape):
    """Catches: a rule that refuses scalars."""
    check_shape(shape, origin="a")


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape, dtype="F32", end=4):
    return {"a\x1b": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "has 0 bytes"),
        (struct.pack("<Q", 10**18) + b"{}", "its header has 1000000000000000000 bytes"),
        (safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "is no JSON"),
        (safetensors(b"\xff"), "is no JSON"),
        (safetensors([1]), "is of type 'None'"),
        (safetensors(tensor([0, 2**63, 2**63])), "says that its shape"),
        (safetensors(tensor([8], "F4")), r"'a\\x1b' is of type 'F4'"),
        (safetensors(tensor([8], "C64")), "is of type 'C64'"),
        (safetensors({"a": 5}), "is of type '5'"),
    ],
)
def test_a_header_that_no_network_has_is_refused(data, said):
    """Catches: a KeyError for a type that the library reads and torch has not, and the like."""
    with pytest.raises(CheckpointError, match=said):
        check_safetensors_header(data, origin="x.safetensors")


def test_a_file_of_the_library_is_taken():
    """Catches: a rule that refuses metadata."""
    data = save({"a": torch.zeros(2, 3), "b": torch.zeros(())}, metadata={"format": "pt"})
    check_safetensors_header(data, origin="x")
