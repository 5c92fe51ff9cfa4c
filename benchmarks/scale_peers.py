"""Rows of `benchmarks.scale` of other programs, on the same tars: made as their manuals show."""

import json
import tarfile
import time
from functools import partial
from itertools import islice

import numpy as np

from benchmarks.scale_timing import BATCH, NUM_BATCHES, rates, timed


def litdata_make(folder, tars="tars", **options):
    import litdata

    return timed(
        partial(
            litdata.optimize,
            _items,
            inputs=sorted(map(str, (folder / tars).glob("*.tar"))),
            output_dir=str(folder / "litdata"),
            chunk_bytes="64MB",
            num_workers=2,
            verbose=False,
            **options,
        )
    )


def litdata_train(folder):
    import litdata

    start = time.perf_counter()
    batches = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(folder / "litdata"), shuffle=True),
        **(_LOADER | {"collate_fn": _decoded}),
    )
    return rates(start, islice(map(len, batches), 1 + NUM_BATCHES))


def mosaic_make(folder):
    from streaming import MDSWriter

    def work():
        columns = {"image": "bytes", "label": "int"}
        out = str(folder / "mosaic")
        with MDSWriter(out=out, columns=columns, hashes=["sha256"], exist_ok=True) as writer:
            for path in sorted((folder / "tars").glob("*.tar")):
                for item in _items(path):
                    writer.write(item)

    return timed(work)


def mosaic_train(folder):
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    start = time.perf_counter()
    dataset = StreamingDataset(local=str(folder / "mosaic"), shuffle=True, batch_size=BATCH)
    batches = DataLoader(dataset, **(_LOADER | {"collate_fn": _decoded}))
    return rates(start, islice(map(len, batches), 1 + NUM_BATCHES))


def wids_make(folder):
    """The list of shards that wids needs, as its `widsindex create` makes it."""
    import wids

    def work():
        shards = [
            {
                "url": str(path),
                "md5sum": wids.wids.compute_file_md5sum(str(path)),
                "nsamples": wids.wids.compute_num_samples(str(path)),
                "filesize": path.stat().st_size,
            }
            for path in sorted((folder / "tars").glob("*.tar"))
        ]
        values = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        (folder / "wids.json").write_text(json.dumps(values))

    return timed(work)


def wids_train(folder):
    import wids
    from torch.utils.data import DataLoader

    start = time.perf_counter()
    dataset = wids.ShardListDataset(str(folder / "wids.json"), keep=True)
    options = _LOADER | {"sampler": wids.ChunkedSampler(dataset, shuffle=True)}
    batches = DataLoader(dataset, **(options | {"collate_fn": _stacked}))
    return rates(start, islice(map(len, batches), 1 + NUM_BATCHES))


_LOADER = {"batch_size": BATCH, "num_workers": 2}
# wids is a package of its own since webdataset 1.0.
PEERS = {"litData": "litdata", "MosaicML": "streaming", "wids": "wids"}


def _items(path):
    """Yield the images of a tar, as they are, with their classes."""
    with tarfile.open(path) as archive:
        label = 0
        for member in archive:
            content = archive.extractfile(member).read()
            if member.name.endswith(".cls"):
                label = int(content)
            else:
                yield {"image": content, "label": label}


def _decoded(items):
    from benchmarks.decoders import pillow

    return np.stack([pillow(item["image"]) for item in items])


def _stacked(samples):
    return np.stack([np.asarray(sample[".png"]) for sample in samples])


PEER_ROWS = {
    "litData: optimize": (litdata_make, "litData"),
    "litData: first batch": (litdata_train, "litData"),
    "litData: 1 % more (append)": (partial(litdata_make, tars="more", mode="append"), "litData"),
    "MosaicML: write": (mosaic_make, "MosaicML"),
    "MosaicML: first batch": (mosaic_train, "MosaicML"),
    "wids: list": (wids_make, "wids"),
    "wids: first batch": (wids_train, "wids"),
}
