"""Data sets for the streaming reader: shards of files in any encoding, as a committed index."""

import io

import numpy as np
from PIL import Image

from ddpm_core.loading.batches import Batches
from ddpm_core.shards.index import Index, Shard
from ddpm_core.shards.members import ClassMember, ImageMember
from ddpm_core.store.manifest import FileRecord, Manifest
from ddpm_core.store.storage import LocalStore, sha256_of
from tests.sharding.small import tar_of
from tests.training.small import small_config

FOLDER = "datasets/foreign-0123"


class RemoteStore(LocalStore):
    """A local store that says it is none, counts what is read, and can change what arrives."""

    def __init__(self, root, *, arriving=lambda data, _checked: data):
        super().__init__(root)
        self.num_reads = 0
        self._arriving = arriving

    def read(self, key, *, at_most=None, checked=True):
        self.num_reads += key.endswith(".tar")
        return self._arriving(super().read(key, at_most=at_most, checked=checked), checked)

    def local_path(self, key):
        return None


def smooth(number, shape=(16, 12, 3)):
    """An image of slow waves: what JPEG keeps."""
    height, width, channels = shape
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        128 + 100 * np.sin((number + 1) * (x + 2 * y + 5 * c) / (20 + number % 7))
        for c in range(channels)
    ]
    return np.stack(waves, axis=-1).astype(np.uint8)


def encoded(image_u8, kind):
    """The bytes of a file of this kind."""
    buffer = io.BytesIO()
    image = Image.fromarray(image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8)
    image.save(buffer, kind)
    return buffer.getvalue()


def pixels_of(file):
    """What Pillow says is in a file, (channels, height, width)."""
    image_u8 = np.asarray(Image.open(io.BytesIO(file)))
    return image_u8.reshape(*image_u8.shape[:2], -1).transpose(2, 0, 1)


def foreign_index(
    store, counts, *, kind="JPEG", shape=(16, 12, 3), spoil=lambda _number, file: file
):
    """Write shards of so many images; return their index, and each image's file."""
    extension = "jpg" if kind == "JPEG" else kind.lower()
    files, records, shards, number = [], {}, [], 0
    for position, count in enumerate(counts):
        contents = {}
        for _ in range(count):
            key = f"train-{number:08d}"
            files.append(spoil(number, encoded(smooth(number, shape), kind)))
            contents[f"{key}.{extension}"] = files[-1]
            contents[f"{key}.cls"] = str(number % 3).encode()
            contents[f"{key}.json"] = b"{}"
            number += 1
        tar = tar_of(contents)
        name = f"train-{position:06d}.tar"
        store.write(f"{FOLDER}/{name}", tar)
        records[name.removesuffix(".tar")] = FileRecord(name, len(tar), sha256_of(tar))
        own = files[number - count :]
        offsets, at = [], 0
        for file in own:
            offsets.append(at + 512)
            at += 512 + -(-len(file) // 512) * 512 + 2 * 1024
        shards.append(Shard(name, count, number - count, tuple(offsets), tuple(map(len, own))))
    index = Index(
        manifest=Manifest(FOLDER, {}, records),
        fingerprint="f" * 64,
        image=ImageMember("uint8", (shape[2], *shape[:2]), (0.0,), (1.0,), file_bytes=None),
        others={"label": ClassMember(("a", "b", "c"), {})},
        num_images={"train": number},
        shards={"train": tuple(shards)},
        rejected=(),
    )
    return index, files


def batches_of(images, *, num_steps, batch_size, start=0, rank=0, world_size=1, seed=0):
    config = small_config(
        train__num_steps=num_steps, train__global_batch_size=batch_size, train__seed=seed
    )
    return Batches(
        images, config.train, start=start, rank=rank, world_size=world_size, pinned=False
    )


def numbers(*values):
    return np.array(values, dtype=np.int64)
