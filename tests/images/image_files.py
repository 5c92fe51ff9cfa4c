"""Small image files of every kind that a folder may hold, made by seed."""

import io
import zipfile

import numpy as np
from PIL import Image


def pixels(seed, *, height=8, width=8, channels=3):
    """(height, width, channels) without any symmetry."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def image_file(seed, kind="PNG", **size):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, **size)).save(buffer, kind)
    return buffer.getvalue()


def files(num_train=9, num_test=5, **size):
    """{name: content} of a small collection with two classes and split folders."""
    found = {}
    for split, count in (("train", num_train), ("test", num_test)):
        for number in range(count):
            name = f"{split}/{'cat' if number % 2 else 'dog'}/{number:03d}.png"
            found[name] = image_file(number + 100 * (split == "test"), **size)
    return found


def write_folder(folder, content):
    """A folder with these files."""
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_zip(path, content):
    """A zip with these files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path
