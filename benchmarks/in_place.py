"""Large JPEGs used in place, beside a copy of them at the size of the network, and a bound.

    python -m benchmarks.in_place

Photographs are decoded, cut and resized each time that they are read in place; a copy holds the
pixels. Both are read from shards, the second of two epochs; a split of up to 4 GiB of pixels is in
fact decoded once, and is then the same whichever way it lies. The bound are bare loops over the
same shards that decode and resize, by the fastest decoder and Pillow's filter; `ours, bare` are the
same loops with the function that the loader calls, whose pixels are exact. Behind each rate stand
the microseconds of a core that an image takes, of all processes, which depend less on what else the
machine does.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import data_readers as readers
from benchmarks.about import about
from benchmarks.data import empty_cache, rate_of_second
from benchmarks.data_sets import Case, image_files, write_shards
from benchmarks.decoders import fastest
from ddpm_core.images import png
from ddpm_core.images.decode import Shaping, decode_image
from ddpm_core.images.shaped import Cut
from ddpm_core.loading import loader
from ddpm_core.loading.cache import FOLDER_VARIABLE
from ddpm_core.store.storage import open_store

SIDE = 64
CASES = tuple(Case(f"{side}x{side} JPEG", side, 3, "JPEG", 250) for side in (256, 512))
HEADS = ("images", "in place", "copy", "bound", "ours, bare")
SHAPING = Shaping(SIDE, SIDE, 3, "center", "box", (255, 255, 255))


def measured(case, uri, options):
    """{reader: [images/s of each round]}, the name of the decoder, and images/s of copying."""
    store, files = open_store(uri), image_files(case, options.images)
    index = write_shards(store, case, files)
    cut = Cut(SHAPING.crop, SHAPING.resize, SHAPING.background, 2**26)
    shaped = replace(index.image, shape=(3, SIDE, SIDE), mean=(), std=(), cut=cut)
    in_place = replace(index, image=shaped)
    begin = time.perf_counter()
    copies = [png.encode(ours(file)) for file in files]
    copying = len(files) / (time.perf_counter() - begin)
    of_copy = Case(f"copy of {case.name}", SIDE, 3, "PNG", 1000)
    copy = write_shards(store, of_copy, copies)
    own = replace(copy.image, file_bytes=png.stored_bytes((SIDE, SIDE, 3)))
    copy = replace(copy, image=own)
    name, decode = fastest(case, files)
    loaders = {"in place": in_place, "copy": copy}
    bare = {"bound": lambda file: by_pillow(decode(file)), "ours, bare": ours}
    found = {key: [] for key in (*loaders, *bare)}
    seconds = {key: [] for key in found}
    for _ in range(options.rounds):
        empty_cache()
        for key, one in loaders.items():
            sizes = readers.ours(uri, one, options.processes)
            found[key].append(rate_of_second(sizes, options.images))
            used = [_used(partial(_epochs, uri, one, options, count)) for count in (1, 3)]
            seconds[key].append((used[1] - used[0]) / (2 * options.images))
        for key, work in bare.items():

            def rate(work=work, key=key):
                found[key].append(readers.bound(uri, index, options.processes, work))

            seconds[key].append(_used(rate) / options.images)
    return found, seconds, name, copying


def _epochs(uri, index, options, count):
    """Read so many epochs out of the shards."""
    before, loader.MAX_DECODED_BYTES = loader.MAX_DECODED_BYTES, 0
    try:
        store = open_store(uri)
        images = loader.load_split(store, index, "train", num_decoders=options.processes)
        with closing(images):
            sum(readers.batches_of(images, index, count))
    finally:
        loader.MAX_DECODED_BYTES = before


def _used(work):
    """Return the processor seconds of a call, those of the processes that it ends among them."""
    begin = _clock()
    work()
    return _clock() - begin


def _clock():
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(one.ru_utime + one.ru_stime for one in map(resource.getrusage, who))


def ours(file):
    return decode_image(file, SHAPING, origin="")


def by_pillow(image_u8):
    return np.asarray(Image.fromarray(image_u8).resize((SIDE, SIDE), Image.Resampling.BOX))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=8000, help="of each case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="a Markdown file to write the result to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = [*HEADS, "decoder of the bound", "of bound", "of bound by CPU", "copying, one process"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    print(*lines, sep="\n", flush=True)
    for case in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ[FOLDER_VARIABLE] = f"{scratch}/cache"
            found, seconds, decoder, copying = measured(case, f"{scratch}/root", options)
        median = {key: statistics.median(one) * 1e6 for key, one in seconds.items()}
        shown = [
            f"{statistics.median(rates):,.0f} ({median[key]:,.0f} us)"
            for key, rates in found.items()
        ]
        # Of each round, so that what slows the machine slows both sides.
        pairs = zip(found["in place"], found["bound"], strict=True)
        share = statistics.median(own / limit for own, limit in pairs)
        by_cpu = median["bound"] / median["in place"]
        cells = [case.name, *shown, decoder, f"{share:.2f}", f"{by_cpu:.2f}", f"{copying:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.out:
        title = f"# Photographs in place, at {SIDE}x{SIDE}: images/s, medians of the rounds\n"
        header = about("benchmarks.in_place", num_cores=options.processes)
        options.out.write_text("\n".join([title, *header, "", *lines, ""]))


if __name__ == "__main__":
    main()
