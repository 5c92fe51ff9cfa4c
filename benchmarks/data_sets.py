"""Images of noise that is smooth as photographs are, as shards of ours and as a folder of files."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_core.shards.index import Index, Shard
from ddpm_core.shards.members import ClassMember, ImageMember
from ddpm_core.store.manifest import FileRecord, Manifest
from ddpm_core.store.storage import Store, sha256_of

NUM_DISTINCT = 1000


@dataclass(frozen=True)
class Case:
    name: str
    side: int
    channels: int
    kind: str
    images_per_shard: int

    @property
    def extension(self):
        return "jpg" if self.kind == "JPEG" else self.kind.lower()


CASES = (
    Case("MNIST-sized PNG", 28, 1, "PNG", 1000),
    Case("CIFAR-sized JPEG", 32, 3, "JPEG", 1000),
    Case("256x256 JPEG", 256, 3, "JPEG", 250),
)


def image_files(case: Case, count: int) -> list[bytes]:
    """Files of images whose power falls as 1/f, as that of photographs does."""
    rng = np.random.default_rng(case.side)
    distinct = []
    for _ in range(min(count, NUM_DISTINCT)):
        total = np.zeros((case.side, case.side, case.channels), np.float32)
        size = 4
        while size <= case.side:
            layer = rng.normal(size=(size, size, case.channels)).astype(np.float32)
            for channel in range(case.channels):
                grown = Image.fromarray(layer[..., channel]).resize((case.side,) * 2, Image.BICUBIC)
                total[..., channel] += np.asarray(grown) / size**0.9
            size *= 2
        pixels = np.clip(128 + 150 * total, 0, 255)
        if case.channels == 1:  # strokes on black, as digits are
            pixels = np.clip((pixels - 150) * 4, 0, 255)
        image_u8 = pixels.astype(np.uint8)
        image = Image.fromarray(image_u8[..., 0] if case.channels == 1 else image_u8)
        buffer = io.BytesIO()
        image.save(buffer, case.kind, **({"quality": 90} if case.kind == "JPEG" else {}))
        distinct.append(buffer.getvalue())
    return [distinct[number % len(distinct)] for number in range(count)]


def write_shards(store: Store, case: Case, files: list[bytes]) -> Index:
    """Shards with the files as they are, and the index that says where each of them lies."""
    folder = f"datasets/bench-{case.side}-{case.extension}"
    records, shards = {}, []
    for first in range(0, len(files), case.images_per_shard):
        own = files[first : first + case.images_per_shard]
        buffer, offsets = io.BytesIO(), []
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for number, file in enumerate(own, start=first):
                key = f"train-{number:08d}"
                offsets.append(buffer.tell() + 512)
                label = str(number % 10).encode()
                for extension, content in (
                    (case.extension, file),
                    ("cls", label),
                    ("json", b'{"label":' + label + b"}"),
                ):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        name = f"train-{len(shards):06d}.tar"
        store.write(f"{folder}/{name}", buffer.getvalue())
        digest = sha256_of(buffer.getvalue())
        records[name.removesuffix(".tar")] = FileRecord(name, len(buffer.getvalue()), digest)
        shards.append(Shard(name, len(own), first, tuple(offsets), tuple(map(len, own))))
    return Index(
        manifest=Manifest(folder, {}, records),
        fingerprint=sha256_of(folder.encode()),
        image=ImageMember(
            "uint8",
            (case.channels, case.side, case.side),
            mean=(0.0,) * case.channels,
            std=(1.0,) * case.channels,
            file_bytes=None,
        ),
        others={"label": ClassMember(tuple("0123456789"), counts={})},
        num_images={"train": len(files)},
        shards={"train": tuple(shards)},
        rejected=(),
    )


def write_folder(store: Store, case: Case, files: list[bytes]) -> list[str]:
    """One file for each image; return their keys."""
    keys = []
    for number, file in enumerate(files):
        keys.append(f"folders/bench-{case.side}/{number % 10}/{number:08d}.{case.extension}")
        path = store.local_path(keys[-1])
        if path is None:
            store.write(keys[-1], file)
        else:  # without waiting for the disk, file by file
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(file)
    return keys
