"""Small data sets in the published formats, for tests to read and to damage."""

import gzip
import io
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from ddpm_core.config import ComputeConfig, DataConfig
from ddpm_core.sharding.bundle import Bundle
from ddpm_core.sharding.dataset import make_dataset
from ddpm_core.sources.raw_images import RawImages
from ddpm_core.sources.splits import Splits

MNIST_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def mnist_arrays(num_images, *, seed=0):
    """(N, 28, 28) pixels and (N,) labels without any symmetry."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (num_images, 28, 28), dtype=np.uint8)
    return pixels, rng.integers(0, 10, num_images, dtype=np.uint8)


def idx(values, *, magic=None):
    """The bytes of an IDX file."""
    magic = 0x800 + values.ndim if magic is None else magic
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()


def write_mnist(folder, *, num_train=10, num_test=6, compressed=True):
    """The four files of MNIST, with few images in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", num_train), ("test", num_test))):
        arrays = mnist_arrays(count, seed=seed)
        for name, values in zip(MNIST_NAMES[split], arrays, strict=True):
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                (folder / name).write_bytes(idx(values))
    return folder


def cifar_arrays(num_images, *, seed=0):
    """(N, 32, 32, 3) pixels and (N,) labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)
    return pixels, rng.integers(0, 10, num_images, dtype=np.uint8)


def cifar_batch(num_images, *, seed=0):
    """The bytes of one binary batch, written image by image as its description says."""
    out = io.BytesIO()
    for pixels, label in zip(*cifar_arrays(num_images, seed=seed), strict=True):
        out.write(bytes([label]))
        for channel in range(3):
            out.write(pixels[:, :, channel].tobytes())
    return out.getvalue()


def cifar_batches(num_images=2):
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    return {name: cifar_batch(num_images, seed=seed) for seed, name in enumerate(names)}


def tar_of(files, **changes):
    """An archive as tarfile writes it; `changes` are set on every member's header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def splits(*, num_train=10, num_test=6, shape=(8, 8, 1), classes=10):
    """Images without any symmetry, as `load_splits` would return them."""
    rng = np.random.default_rng(7)
    names = tuple(str(label) for label in range(classes))

    def images(count, name):
        pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        return RawImages(pixels, rng.integers(0, classes, count), name)

    return Splits(images(num_train, "train"), images(num_test, "test"), names)


def with_captions(captions, **words):
    """The images of `splits`, those of each split with the captions of their numbers."""
    made = splits(**words)

    def told(images):
        return replace(images, captions=tuple(map(captions, range(len(images)))))

    return replace(made, train=told(made.train), test=told(made.test))


def shard_dataset(store, config, images, *, num_workers=1, **words):
    """The committed index of a data set of these images."""
    source, compute = Bundle(images), ComputeConfig(num_workers=num_workers)
    return make_dataset(store, config, source, compute, images_sha256=source.digest(), **words)


def data_config(**changes):
    """Digits, four images to a shard."""
    return DataConfig(**{"num_test_images": 6, "images_per_shard": 4, **changes})


def files_below(folder: Path):
    """{relative path: bytes} of everything below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
