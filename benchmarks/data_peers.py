"""Loaders with formats of their own, from local disk: litData, MosaicML streaming, SPDL.

They are no dependencies of the project. An environment with those that are to be measured:

    python -m venv peers && peers/bin/pip install -e ".[all]" -r benchmarks/peers.txt

Each has a function that writes a data set as its own documentation shows, and one that yields the
sizes of its batches, two epochs of them, decoded to uint8 and shuffled, with as many processes (of
SPDL: threads, as it is made for) as all others. What decodes is the fastest decoder that is there,
of SPDL its own, FFmpeg's (Debian: the package ffmpeg), which doubles the colours of a JPEG without
smoothing them.
"""

import importlib.util
import random
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

BATCH = 128
NUM_EPOCHS = 2


def installed():
    """The names of the peers that can be imported here."""
    modules = {"litData": "litdata", "MosaicML streaming": "streaming", "SPDL": "spdl"}
    return [name for name, module in modules.items() if importlib.util.find_spec(module)]


def write(name, folder, files):
    """Write the files in the format of a peer; SPDL reads our shards."""
    if name == "litData":
        import litdata

        litdata.optimize(
            partial(_item_of, files),
            inputs=list(range(len(files))),
            output_dir=folder,
            chunk_bytes="64MB",
            num_workers=1,
            verbose=False,
        )
    elif name == "MosaicML streaming":
        from streaming import MDSWriter

        with MDSWriter(out=folder, columns={"image": "bytes"}) as writer:
            for file in files:
                writer.write({"image": file})


def _item_of(files, number):
    return {"image": files[number]}


def read(name, folder, num_processes, *, decode, case, paths):
    """Yield the sizes of its batches; `paths` are those of our shards."""
    if name == "litData":
        yield from _litdata(folder, num_processes, decode)
    elif name == "MosaicML streaming":
        yield from _mosaic(folder, num_processes, decode)
    else:
        yield from _spdl(paths, num_processes, "gray" if case.channels == 1 else "rgb24")


def _litdata(folder, num_processes, decode):
    import litdata

    batches = litdata.StreamingDataLoader(
        litdata.StreamingDataset(folder, shuffle=True),
        batch_size=BATCH,
        num_workers=num_processes,
        collate_fn=partial(_decoded, decode),
        persistent_workers=True,
    )
    for _ in range(NUM_EPOCHS):
        for batch in batches:
            yield len(batch)


def _mosaic(folder, num_processes, decode):
    from streaming import StreamingDataset

    batches = DataLoader(
        StreamingDataset(local=folder, shuffle=True, batch_size=BATCH),
        batch_size=BATCH,
        num_workers=num_processes,
        collate_fn=partial(_decoded, decode),
        persistent_workers=True,
    )
    for _ in range(NUM_EPOCHS):
        for batch in batches:
            yield len(batch)


def _decoded(decode, items):
    return torch.from_numpy(np.stack([decode(item["image"]) for item in items]))


def _spdl(paths, num_threads, pixels):
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    def decoded(files):
        return spdl.io.load_image_batch(files, width=None, height=None, pix_fmt=pixels)

    source = [path for epoch in range(NUM_EPOCHS) for path in _shuffled(paths, epoch)]
    pipeline = (
        PipelineBuilder()
        .add_source(source)
        .pipe(_images_of)
        .disaggregate()
        .aggregate(BATCH)
        .pipe(decoded, concurrency=num_threads)
        .add_sink(4)
        .build(num_threads=num_threads + 1)
    )
    with pipeline.auto_stop():
        for batch in pipeline:
            yield len(torch.from_numpy(np.asarray(spdl.io.to_numpy(batch))))


def _shuffled(paths, epoch):
    order = random.Random(epoch)  # noqa: S311 - no secret
    return order.sample(paths, len(paths))


def _images_of(path):
    """The image files of a shard, in an order of their own."""
    import spdl.io

    images = [
        bytes(content)
        for name, content in spdl.io.iter_tarfile(path.read_bytes())
        if name.endswith((".png", ".jpg"))
    ]
    random.Random(str(path)).shuffle(images)  # noqa: S311 - no secret
    return images
