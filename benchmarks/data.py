"""Images a second that reach a training: our loader, its peers, and what the machine allows.

    python -m benchmarks.data                          # local disk
    python -m benchmarks.data --root s3://bucket/x     # and from this server (cold cache)

Every round runs all readers one after the other; shown are medians over the rounds. Local: the
second of two epochs, in which everything has started and lies in the page cache. S3: the first
epoch, start of the processes and fetching included (not so for the bound), with an empty cache.

The bound reads and decodes with the fastest decoder that is installed (`decoders.py`); peers with
formats of their own (`data_peers.py`) are measured on the disk, where they are installed.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import data_peers as others
from benchmarks import data_readers as readers
from benchmarks.about import about
from benchmarks.data_sets import CASES, image_files, write_folder, write_shards
from benchmarks.decoders import fastest
from ddpm_core.loading.cache import FOLDER_VARIABLE, LIMIT_VARIABLE
from ddpm_core.store.storage import open_store

PEERS = ("webdataset", "torch folder")
MIN_CACHED = 200_000


def rate_of_second(sizes, epoch_images):
    """Images/s between the last batch of the first epoch and the last one of all."""
    seen, begin, start = 0, None, 0
    for size in sizes:
        seen += size
        if begin is None and seen >= epoch_images - readers.BATCH:
            begin, start = time.perf_counter(), seen
    return (seen - start) / (time.perf_counter() - begin)


def rate_of_first(sizes, epoch_images):
    """Images/s from before the first batch to the last one of the first epoch."""
    seen, begin = 0, time.perf_counter()
    for size in sizes:
        seen += size
        if seen >= epoch_images - readers.BATCH:
            break
    elapsed = time.perf_counter() - begin
    sizes.close()
    return seen / elapsed


def empty_cache():
    shutil.rmtree(os.environ[FOLDER_VARIABLE], ignore_errors=True)


def measure(case, uri, options, own_formats):
    """{reader: [images/s of each round]} of a case at a place, and the name of the decoder.

    `own_formats`: the peers that have one, {name: its folder}, measured on the disk alone.
    """
    store, remote = open_store(uri), uri.startswith("s3://")
    count = options.images
    files = image_files(case, count)
    index = write_shards(store, case, files)
    # One request for each image: a tenth of them says enough.
    keys = write_folder(store, case, files[: count // 10] if remote else files)
    of = rate_of_first if remote else rate_of_second
    decoder, decode = fastest(case, files)
    paths = [Path(uri, index.manifest.folder, shard.name) for shard in index.shards["train"]]
    if remote:
        own_formats = {}
    for name, folder in own_formats.items():
        others.write(name, folder, files)
    found = {name: [] for name in ("ours", *PEERS, *own_formats, "bound")}
    for _ in range(options.rounds):
        empty_cache()
        found["ours"].append(of(readers.ours(uri, index, options.processes), count))
        found["webdataset"].append(of(readers.web_dataset(uri, index, options.processes), count))
        found["torch folder"].append(
            of(readers.torch_folder(uri, keys, options.processes), len(keys))
        )
        for name, folder in own_formats.items():
            sizes = others.read(
                name, folder, options.processes, decode=decode, case=case, paths=paths
            )
            found[name].append(of(sizes, count))
        found["bound"].append(readers.bound(uri, index, options.processes, decode))
    return found, decoder


def measure_cached(case, uri, options):
    """Images/s of each round, of a data set that was decoded before."""
    store = open_store(uri)
    count = options.images
    index = write_shards(store, case, image_files(case, count))
    num_epochs = max(2, 200_000 // count)
    found = []
    for _ in range(options.rounds + 1):
        sizes = readers.cached(uri, index, num_epochs)
        next(sizes)
        begin = time.perf_counter()
        seen = sum(sizes)
        found.append(seen / (time.perf_counter() - begin))
    return found[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000, help="of each case")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--root", help="an s3:// folder to measure too")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the result to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"--only {options.only}: no such case; {[case.name for case in CASES]}")

    named = others.installed()
    heads = ["images", "from", "ours", *PEERS, *named, "bound", "decoder of the bound"]
    heads += ["x best peer", "of bound"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    print(*lines, sep="\n", flush=True)
    worst_peer, worst_bound = float("inf"), float("inf")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[FOLDER_VARIABLE] = f"{scratch}/cache"
        os.environ[LIMIT_VARIABLE] = "8"
        places = [f"{scratch}/root", *([options.root.rstrip("/")] if options.root else [])]
        for uri in places:
            for case in cases:
                folders = {name: f"{scratch}/{len(lines)}-{name}" for name in named}
                found, decoder = measure(case, uri, options, folders)
                medians = {name: statistics.median(rates) for name, rates in found.items()}
                # Of each round, so that what slows the machine slows both sides.
                ratios = [
                    (own / max(peers), own / limit)
                    for own, *peers, limit in zip(*found.values(), strict=True)
                ]
                peer, limit = (statistics.median(column) for column in zip(*ratios, strict=True))
                worst_peer, worst_bound = min(worst_peer, peer), min(worst_bound, limit)
                place = "S3" if uri.startswith("s3://") else "disk"
                shown = [
                    f"{medians[name]:,.0f}" if name in medians else ""
                    for name in ("ours", *PEERS, *named, "bound")
                ]
                cells = [case.name, place, *shown, decoder, f"{peer:.2f}", f"{limit:.2f}"]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
        for case in (one for one in cases if one in CASES[:2]):
            value = statistics.median(measure_cached(case, places[0], options))
            rest = " |" * (len(heads) - 3)
            lines.append(f"| {case.name} | memory (small set) | {value:,.0f} |{rest}")
            print(lines[-1], flush=True)
    last = f"worst of all cases: {worst_peer:.2f} x the best peer, {worst_bound:.2f} of the bound"
    if options.out:
        title = f"# Reading: images/s, medians of {options.rounds} rounds\n"
        header = about("benchmarks.data", num_cores=options.processes)
        options.out.write_text("\n".join([title, *header, "", *lines, "", last, ""]))
    print(last)


if __name__ == "__main__":
    main()
