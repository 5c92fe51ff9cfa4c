"""Images per second into shards: ours on one and two workers, and a plain loop of ShardWriter.

    python -m benchmarks.sharding --source images.zip --rounds 5

The loop reads each file of the zip, decodes it, and has `webdataset.ShardWriter` encode it as PNG
and write it; ours does the same and also takes digests, statistics, an index and a manifest. Both
write the same number of images to a shard. Ray runs before the clock starts; its workers do not.
"""

import argparse
import io
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import ray
import webdataset
from PIL import Image

from ddpm_core import cluster
from ddpm_core.config import ComputeConfig, DataConfig
from ddpm_core.sharding.collection import Collection
from ddpm_core.sharding.dataset import make_dataset
from ddpm_core.sources.glance import listed
from ddpm_core.store.storage import open_store

IMAGES_PER_SHARD = 1000


def make_zip(path: Path, count: int, side: int) -> Path:
    """Write a zip of smooth JPEGs: noise of a few pixels, enlarged."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            small = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(
                buffer, "JPEG"
            )
            archive.writestr(f"{number % 10}/{number:06d}.jpg", buffer.getvalue())
    return path


def plain_loop(source: Path, folder: Path, limit: int) -> float:
    """Return images/s of a loop as one writes it by hand."""
    start = time.perf_counter()
    count = 0
    with (
        zipfile.ZipFile(source) as archive,
        webdataset.ShardWriter(
            str(folder / "plain-%06d.tar"), maxcount=IMAGES_PER_SHARD, verbose=0
        ) as writer,
    ):
        for name in [name for name in archive.namelist() if not name.endswith("/")][:limit]:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                pixels = np.asarray(image.convert("RGB"))
            label = name.split("/")[-2] if "/" in name else "0"
            writer.write(
                {"__key__": f"{count:08d}", "png": pixels, "cls": label, "json": {"n": name}}
            )
            count += 1
    return count / (time.perf_counter() - start)


def ours(source: Path, folder: Path, side: int, num_workers: int) -> float:
    """Return images/s from a listed source to a committed index, the start of workers included."""
    data = DataConfig(
        name="images",
        source=str(source),
        height=side,
        width=side,
        num_test_images=IMAGES_PER_SHARD,
        images_per_shard=IMAGES_PER_SHARD,
    )
    compute = ComputeConfig(num_workers=num_workers)
    store = open_store(str(folder))
    container, listing = listed(data, cache=folder / "cache")
    start = time.perf_counter()
    found = Collection(data, container, listing, connect=lambda: None)
    found.find_out(store, compute, may_be_there=lambda: False)
    made = make_dataset(store, data, found, compute, images_sha256=found.digest())
    return sum(made.body["num_images"].values()) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="a zip of images; default: made by seed")
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = options.source or make_zip(place / "images.zip", options.images, options.side)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        rates: dict[str, list[float]] = {name: [] for name in ("plain loop", "ours, 1", "ours, 2")}
        with cluster.connect(ComputeConfig(num_workers=2)):
            for number in range(options.rounds):
                own = place / str(number)
                own.mkdir()
                rates["plain loop"].append(plain_loop(source, own, options.images))
                for workers in (1, 2):
                    rate = ours(source, own / str(workers), options.side, workers)
                    rates[f"ours, {workers}"].append(rate)
        ray.shutdown()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:26} {medians[name]:9.0f} images/s   ({min(values):.0f} to {max(values):.0f})")
    plain, one, two = medians.values()
    print(f"one worker: {one / plain:.2f} x the loop; two workers: {two / plain:.2f} x the loop")


if __name__ == "__main__":
    main()
