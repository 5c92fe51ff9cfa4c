"""Check the header of a file of tensors from outside against what any network can have.

NumPy, torch and safetensors trust a shape further than they can follow: a size of 0 times 10**30
passes their comparison with the bytes that are there, and ends in a traceback.
"""

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

from ddpm_core.errors import CheckpointError

MAX_DIMENSIONS = 8
"""A convolution has 4."""
MAX_SIZE = 2**40
"""along one dimension, and of all together"""
MAX_HEADER_BYTES = 2**24
"""A network of a thousand tensors has a header of 0.1 MB."""
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
_SHOWN = 200


def check_shape(shape: object, *, origin: str) -> None:
    """Refuse a shape that no tensor of a network has.

    Raises:
        CheckpointError: naming `origin` and the shape.
    """
    sizes: Sequence[Any] = shape if isinstance(shape, list | tuple) else [None]
    sane = len(sizes) <= MAX_DIMENSIONS and all(
        type(size) is int and 0 <= size <= MAX_SIZE for size in sizes
    )
    # A size of 0 hides the others from a comparison of bytes, not from the strides.
    if not sane or math.prod(max(size, 1) for size in sizes) > MAX_SIZE:
        raise CheckpointError(
            f"{origin} says that its shape is {str(shape)[:_SHOWN]}; at most {MAX_DIMENSIONS} "
            f"sizes of 0 to {MAX_SIZE}, and no more in all, are read: the file is damaged, or made "
            "to be; fetch it again"
        )


def check_safetensors_header(data: bytes, *, origin: str) -> None:
    """Refuse a safetensors file by its header: the names, types and shapes in it.

    Whether the bytes bear it out is for the library to say.

    Raises:
        CheckpointError: the header is none, too long, or claims what no network has.
    """
    if len(data) < 8:
        raise CheckpointError(
            f"{origin} is no safetensors file, it has {len(data)} bytes; fetch it again"
        )
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise CheckpointError(
            f"{origin} is no safetensors file: it says that its header has {length} bytes, and of "
            f"{len(data)} in all at most {MAX_HEADER_BYTES} are read; fetch it again"
        )
    try:
        header: Any = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        reason = str(error)[:_SHOWN]
        raise CheckpointError(
            f"{origin} is no safetensors file: its header is no JSON ({reason}); fetch it again"
        ) from None
    entries = header if isinstance(header, dict) else {"header": None}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        of = f"{origin}: {name[:_SHOWN]!r}"
        if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES:
            found = entry.get("dtype") if isinstance(entry, dict) else entry
            raise CheckpointError(
                f"{of} is of type {str(found)[:_SHOWN]!r}; {', '.join(_DTYPES)} are read: convert "
                "the file, or fetch it again"
            )
        check_shape(entry.get("shape"), origin=of)
