"""A data set of any number of images, of which one shard is there: for `benchmarks.scale`."""

import numpy as np

from benchmarks.scale_rows import NUM_CLASSES, PER_SHARD, SIDE
from ddpm_core.canonical import fingerprint
from ddpm_core.images import png
from ddpm_core.images.shaped import Cut
from ddpm_core.shards.index import IN_PARTS, SPLITS
from ddpm_core.shards.members import IMAGE, LABEL, ClassMember, ImageMember
from ddpm_core.shards.one import Located, Shard
from ddpm_core.shards.parts import part_of
from ddpm_core.shards.table import table_bytes
from ddpm_core.shards.tar_writer import pack
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.storage import open_store, sha256_of


def write_simulated(folder, count):
    """Write the index of `count` images: a shard of 1000, named by as many rows as are needed."""
    store = open_store(str(folder / "simulated"))
    data, images_sha256 = {"simulated": count}, "0" * 64
    own = fingerprint({"data": data, "format_version": 2, "images_sha256": images_sha256})
    place = f"datasets/simulated-{own[:16]}"
    pixels = np.random.default_rng(0).integers(0, 256, (PER_SHARD, SIDE, SIDE, 3), dtype=np.uint8)
    tar, offsets = pack([(f"{at:06d}.png", png.encode(one)) for at, one in enumerate(pixels)])
    (folder / "one.tar").write_bytes(tar)
    file = Located(f"file://{folder}", "one.tar", len(tar), f"sha256:{sha256_of(tar)}")
    sizes = (png.stored_bytes((SIDE, SIDE, 3)),) * PER_SHARD
    labels = tuple(at % NUM_CLASSES for at in range(PER_SHARD))
    part = part_of(Shard(file.name, PER_SHARD, 0, tuple(offsets), sizes, labels=labels, file=file))
    record = write_file(store, place, "train-parts-000000", ".bin", part)
    files = {"train-parts-000000": record}
    for split in SPLITS:
        table = _table(count // PER_SHARD if split == "train" else 1, file, part)
        files[f"{split}-table"] = write_file(store, place, f"{split}-table", ".bin", table)
    cut = Cut("center", "box", (255, 255, 255), 2**26)
    names = tuple(map(str, range(NUM_CLASSES)))
    body = {
        "data": data,
        "fingerprint": own,
        "format_version": IN_PARTS,
        "images_sha256": images_sha256,
        "members": {
            IMAGE: ImageMember("uint8", (3, SIDE, SIDE), (), (), None, cut).entry(),
            LABEL: ClassMember(names, dict.fromkeys(SPLITS, (1,) * NUM_CLASSES)).entry(),
        },
        "num_images": {"train": count, "test": PER_SHARD},
        "passed_over": {},
        "rejected": [],
        "shards": {"places": ["", file.place], "parts": [[0, record.name]]},
    }
    commit(store, place, files, body, name="index.json")


def _table(num_shards, file, part):
    text = f"{file.name}\n{file.pin}\n".encode()
    at = np.arange(num_shards, dtype=np.int64)
    numbers = np.empty((8, num_shards), np.int64)
    numbers[0], numbers[1], numbers[2] = PER_SHARD, at * PER_SHARD, file.size
    numbers[3], numbers[4], numbers[5], numbers[6] = 1, 0, 0, len(part)
    numbers[7] = (at + 1) * len(text)
    return table_bytes(numbers, bytes.fromhex(sha256_of(part)) * num_shards, text * num_shards)
