"""Many image files of a shard to pixels at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.images import png
from ddpm_core.images.decode import decode_exact


def decode_files(
    files: Sequence[bytes],
    out: NDArray[Any],
    *,
    origin: Callable[[int], str],
    checksums: bool = False,
) -> None:
    """Decode files of a shard that was verified.

    Those that this program wrote are copied out, all in a few calls; the others are decoded one by
    one.

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
        if len(file) == size and (not checksums or png.checksums_fit(file, shape))
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
    for number in others:
        if out.dtype == np.uint8:
            out[number] = decode_exact(files[number], shape, origin=origin(number))
        else:
            depths = (out.dtype,)
            out[number] = png.decode(files[number], shape, origin=origin(number), depths=depths)
