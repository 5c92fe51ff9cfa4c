"""Many image files of a shard to pixels at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.images import png
from ddpm_core.images.decode import decode_exact
from ddpm_core.images.plain_files import decode_plain


def decode_files(
    files: Sequence[bytes],
    out: NDArray[Any],
    *,
    origin: Callable[[int], str],
    checksums: bool = False,
) -> None:
    """Decode files of a shard that was verified.

    Those that this program wrote are copied out, and plain ones decoded, many in a few calls; the
    others are decoded one by one.

    Args:
        files: n of them.
        out: (n, height, width, channels), uint8 or uint16, to be filled.
        origin: what to call a file in an error, by its number here.
        checksums: look at those in the files that this program wrote, too. Those of the others are
            looked at in any case.

    Raises:
        DataError: if one is damaged or of another shape.
    """
    height, width, channels = out.shape[1:]
    shape = (height, width, channels)
    size = png.stored_bytes(shape, out.dtype)
    stored = [
        number
        for number, file in enumerate(files)
        if len(file) == size and (not checksums or png.checksums_fit(file))
    ]
    others = list(range(len(files)))
    if stored:
        joined = np.frombuffer(b"".join([files[number] for number in stored]), np.uint8)
        pixels, fits = png.decode_stored(joined.reshape(len(stored), size), shape, out.dtype)
        if len(stored) == len(files) and fits.all():
            out[:] = pixels
            return
        done = np.array(stored)[fits]
        out[done] = pixels[fits]
        others = sorted(set(others) - set(done.tolist()))
    if out.dtype == np.uint8:
        _decode_others(files, others, out, origin)
        return
    for number in others:
        depths = (out.dtype,)
        out[number] = png.decode(files[number], shape, origin=origin(number), depths=depths)


def _decode_others(
    files: Sequence[bytes],
    numbers: list[int],
    out: NDArray[np.uint8],
    origin: Callable[[int], str],
) -> None:
    is_all = len(numbers) == len(files)
    own = out if is_all else np.empty((len(numbers), *out.shape[1:]), np.uint8)
    done = decode_plain([files[number] for number in numbers], own)
    if not is_all:
        out[numbers] = own
    for row in np.flatnonzero(~done).tolist():
        number = numbers[row]
        out[number] = decode_exact(files[number], out.shape[1:], origin=origin(number))
