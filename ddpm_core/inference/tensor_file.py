"""Safetensors files larger than the memory that is left: written and read tensor by tensor.

The format: eight bytes with the length of the header, little-endian; the header, JSON of each
tensor's dtype, shape and place; then the numbers, row-major and little-endian. `safetensors` itself
makes a file of all tensors at once. The bytes here are the ones that it writes.

Source: github.com/huggingface/safetensors, README.md, "Format".
"""

import io
import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from ddpm_core.errors import CheckpointError

_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""in the order of the file: wide ones first, so that each lies at a multiple of its width"""
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}
_ALIGNMENT = 8
_MAX_HEADER_BYTES = 100_000_000
"""what the library accepts"""


@final
class TensorFile:
    """The bytes of a file of tensors, made on access; see `store.content.Content`.

    The tensors must not change meanwhile. Of one that is not row-major, or on another device, a
    copy is in memory while it is passed.

    Args:
        tensors: by name.
        fetch: returns the numbers of one that is on the device `meta`, by its name.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], *, fetch: Callable[[str], Tensor] | None = None
    ) -> None:
        order = {dtype: number for number, dtype in enumerate(_DTYPES)}
        names = sorted(tensors, key=lambda name: (order[tensors[name].dtype], name))
        self._tensors = [tensors[name].detach() for name in names]
        self._names, self._fetch = names, fetch
        entries, end = {}, 0
        self._starts = []
        for name, tensor in zip(names, self._tensors, strict=True):
            start, end = end, end + tensor.nbytes
            self._starts.append(start)
            entries[name] = {
                "dtype": _DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        self._head = len(text).to_bytes(8, "little") + text
        self._size = len(self._head) + end
        self._passed: tuple[int, memoryview] = -1, memoryview(b"")

    def __len__(self) -> int:
        """Return the length of the file in bytes."""
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        """Return some bytes of the file."""
        start, stop, _ = part.indices(self._size)
        pieces: list[bytes | memoryview] = [self._head[start:stop]]
        for number, (tensor, first) in enumerate(zip(self._tensors, self._starts, strict=True)):
            first += len(self._head)
            low, high = max(start - first, 0), min(stop - first, tensor.nbytes)
            if low < high:
                pieces.append(self._bytes_of(number)[low:high])
        return b"".join(pieces)

    def _bytes_of(self, number: int) -> memoryview:
        if self._passed[0] != number:
            self._passed = -1, memoryview(b"")  # the one before goes first
            tensor = self._tensors[number]
            if tensor.is_meta and self._fetch is not None:
                tensor = self._fetch(self._names[number])
            self._passed = number, bytes_of(tensor)
        return self._passed[1]


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the numbers of a tensor in row-major order; not a copy where they lie so already."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return flat.numpy().data


# -- reading -----------------------------------------------------------------------------------


def load_tensors(file: io.BufferedIOBase, num_bytes: int, *, origin: str) -> dict[str, Tensor]:
    """Return the tensors of a file of so many bytes, on the CPU.

    Raises:
        CheckpointError: it is no safetensors file.
    """
    entries = _entries(file, num_bytes, origin)
    tensors = {name: torch.empty(one.shape, dtype=one.dtype) for name, one in entries.items()}
    _fill(file, tensors, entries, origin)
    return tensors


def fill_tensors(
    file: io.BufferedIOBase, num_bytes: int, tensors: Mapping[str, Tensor], *, origin: str
) -> None:
    """Write the numbers of a file of so many bytes into tensors that are there, one by one.

    Raises:
        CheckpointError: it is no safetensors file, or has others than these: by name, shape or
            dtype.
    """
    entries = _entries(file, num_bytes, origin)
    if wrong := sorted(tensors.keys() ^ entries.keys()):
        raise CheckpointError(
            f"{origin} and the network differ in {len(wrong)} tensors, e.g. {wrong[:3]}; "
            "it was saved by another model section or another version"
        )
    for name, tensor in tensors.items():
        found = entries[name]
        if found.shape != tuple(tensor.shape) or found.dtype != tensor.dtype:
            raise CheckpointError(
                f"tensor {name!r} of {origin} is {found.dtype} {found.shape}; this network needs "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )
    _fill(file, tensors, entries, origin)


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    num_bytes: int


def _entries(file: io.BufferedIOBase, num_bytes: int, origin: str) -> dict[str, _Entry]:
    """Return what the header says, in the order of the file; it accounts for every byte."""
    try:
        size = int.from_bytes(file.read(8), "little")
        values = json.loads(file.read(min(size, _MAX_HEADER_BYTES)))
        values.pop("__metadata__", None)
        entries = {name: _entry(value) for name, value in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _no_tensors(origin, str(error)[:200]) from None
    entries = dict(sorted(entries.items(), key=lambda one: (one[1].start, one[1].num_bytes)))
    end = 0
    for name, one in entries.items():
        expected = math.prod(one.shape) * one.dtype.itemsize
        if one.start != end or one.num_bytes != expected or min(one.shape, default=0) < 0:
            raise _no_tensors(origin, f"{name!r} is not where and as long as it must be")
        end += one.num_bytes
    if 8 + size + end != num_bytes:
        raise _no_tensors(origin, f"its tensors end at {8 + size + end} of {num_bytes} bytes")
    return entries


def _entry(value: dict[str, Any]) -> _Entry:
    start, end = value["data_offsets"]
    shape = tuple(operator.index(one) for one in value["shape"])
    return _Entry(_BY_NAME[value["dtype"]], shape, start, end - start)


def _no_tensors(origin: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{origin} is no safetensors file ({what}); it was written by another program"
    )


@torch.no_grad()
def _fill(
    file: io.BufferedIOBase,
    tensors: Mapping[str, Tensor],
    entries: Mapping[str, _Entry],
    origin: str,
) -> None:
    for name, one in entries.items():
        data = bytearray(one.num_bytes)
        if file.readinto(data) != one.num_bytes:
            raise _no_tensors(origin, f"it ends within {name!r}")
        if data:
            tensors[name].copy_(torch.frombuffer(data, dtype=one.dtype).view(one.shape))
