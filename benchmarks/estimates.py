"""What a dry run says of the speed of a training, and what the training then does, by the clock.

    python -m benchmarks.estimates                 # four minutes, on a machine left alone

For each case `python -m ddpm_core train RECIPE --dry-run` says how many images a second this
machine trains. Then the same command without it trains for some seconds, in a folder of its own,
and its points say how many there were. Both are read from what a person reads. A training of
minutes is not rehearsed, so the dry run is of a longer one; that changes nothing in a step.

Compared is the median of the training's points but the first: without the start and the first
steps, which no dry run promises. The end says whether all are within a fifth.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.about import about

CASES = {
    "digits": ["digits"],
    "digits-dit": ["digits-dit"],
    "images --size 32 --scale S, batches of 8": [
        "images", "--size", "32", "--scale", "S", "--set", "train.global_batch_size=8",
        "--set", "data.num_test_images=8",
    ],
}  # fmt: skip
"""title -> what follows `train`"""
BOUND = 0.2
NUM_IMAGES, SIDE = 128, 32
LONG = 10**6
NUM_POINTS = 6
SAID = re.compile(r"time: ([\d.]+) images/s, ")
POINT = re.compile(r"train +\d+/\d+ steps  loss .*?  ([\d.]+) images/s  eta ")
BATCH = re.compile(r'"global_batch_size": (\d+)')


def output(words):
    """Return what a command prints, on both streams."""
    done = subprocess.run(  # noqa: S603 - this interpreter, with arguments of ours
        [sys.executable, "-m", "ddpm_core", "train", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"train {' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def length(num_steps):
    """Return the options of a training of so many steps with some points."""
    each = max(1, num_steps // NUM_POINTS)
    sizes = {"num_steps": num_steps, "checkpoint_every": num_steps, "log_every": each}
    sizes |= {"warmup_steps": 1, "preview_every": "null"}
    return [text for key, one in sizes.items() for text in ("--set", f"train.{key}={one}")]


def compared(words, seconds, run=output):
    """Return images/s as the dry run says, and as the training does."""
    dry = run([*words, *length(LONG), "--dry-run"])
    found = SAID.search(dry)
    if found is None:
        raise SystemExit(f"the dry run of {' '.join(words)} says no time:\n{dry}")
    said, batch = float(found[1]), int(BATCH.search(dry)[1])
    num_steps = max(2 * NUM_POINTS, round(seconds * said / batch))
    rates = [float(one) for one in POINT.findall(run([*words, *length(num_steps)]))]
    if len(rates) < 2:
        raise SystemExit(f"the training of {' '.join(words)} showed {len(rates)} points; take more")
    return said, statistics.median(rates[1:])


def row(title, said, was):
    return f"| {title} | {said:g} | {was:g} | {said / was:.2f} |"


def write_images(folder):
    """Write noise as PNGs: what the images are changes nothing."""
    noise = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        pixels = noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(Path(folder, f"{number:04d}.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="of each training")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the result to")
    options = parser.parse_args()
    lines = ["| training | said, images/s | was, images/s | said / was |", "|---|---|---|---|"]
    ratios = []
    with tempfile.TemporaryDirectory(prefix="ddpm-estimates-") as folder:
        source = Path(folder, "images")
        source.mkdir()
        write_images(source)
        for title, words in CASES.items():
            given = ["--set", f"data.source={source}"] if words[0] == "images" else []
            said, was = compared([*words, *given, "--root", folder], options.seconds)
            lines.append(row(title, said, was))
            print(lines[-1], flush=True)
            ratios.append(said / was)
    within = all(abs(one - 1) <= BOUND for one in ratios)
    header = [
        "# Images a second: as the dry run says, and as the training does",
        "",
        *about("benchmarks.estimates", num_cores=os.cpu_count()),
        "",
        *lines,
        "",
        f"All within {BOUND:.0%}: {'yes' if within else 'NO'}.",
    ]
    print(*header, sep="\n")
    if options.out:
        options.out.write_text("\n".join([*header, ""]))


if __name__ == "__main__":
    main()
