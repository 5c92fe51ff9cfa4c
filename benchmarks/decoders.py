"""The fastest way to decode that can be had: of whatever libraries are installed here.

What a loader is held to must not be the decoder that it happens to use. Each takes the bytes of a
file and returns (h, w) or (h, w, c) uint8, RGB; only those that can decode a case compete.
"""

import importlib.util
import io
import time

import numpy as np
from PIL import Image

NUM_TRIED = 200
ROUNDS = 5


def pillow(file):
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image)


def _simplejpeg(file):
    import simplejpeg

    return simplejpeg.decode_jpeg(file)


def _cv2(file):
    import cv2

    # IMREAD_COLOR_RGB spares the pass that swaps channels.
    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)


def _cv2_grey(file):
    import cv2

    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE)


def _imagecodecs_jpeg(file):
    import imagecodecs

    return imagecodecs.jpeg8_decode(file)


def _imagecodecs_png(file):
    import imagecodecs

    return imagecodecs.png_decode(file)


# Functions of this module, so that processes that are spawned find them too.
OTHERS = {
    "JPEG": {"simplejpeg": _simplejpeg, "cv2": _cv2, "imagecodecs": _imagecodecs_jpeg},
    "PNG": {"cv2": _cv2_grey, "imagecodecs": _imagecodecs_png},
}


def decoders(kind):
    """{name: function} of those that are installed, for files of a kind."""
    others = OTHERS[kind].items()
    found = {name: decode for name, decode in others if importlib.util.find_spec(name)}
    return {"pillow": pillow, **found}


def fastest(case, files):
    """(name, function) of the one with the least time for these files, of one process.

    Raises:
        SystemExit: one of them returns another picture than Pillow's.
    """
    tried, best = files[:NUM_TRIED], None
    expected = pillow(tried[0])
    for name, decode in decoders(case.kind).items():
        image = decode(tried[0])
        # Decoders of JPEG round their cosines differently, by a level or two.
        if image.shape != expected.shape or abs(image.astype(int) - expected).max() > 3:
            raise SystemExit(f"{name} decodes {case.name} to something else than Pillow does")
        taken = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            for file in tried:
                decode(file)
            taken.append(time.perf_counter() - begin)
        if best is None or min(taken) < best[0]:
            best = min(taken), name, decode
    return best[1:]
