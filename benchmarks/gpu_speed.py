"""How fast one GPU trains and samples, in ten minutes: eager, recorded, compiled, and diffusers.

    python -m benchmarks.gpu_speed --seconds 540 --out FOLDER

Each row is a process with a time limit of its own. What it measured is appended to
FOLDER/results.jsonl and the table printed (and written to FOLDER/table.md) before the next one
begins, so that a benchmark that is ended early has lost nothing but the row that it was in. A row
that is there already, of the same commit and options, is not measured again. What there is no time
for, and what is not installed, is said. It closes with ten lines

    ratio NAME value (expected a-b) OK|LOOK

The expected ranges are estimates by counted kernels and bytes, from before any of it had been
measured: LOOK says that one of them was wrong, or something is.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.about import about
from benchmarks.gpu_rows import ROWS, parser_of

# Longest first to be known: what decides the defaults, then the peer, then the rest.
ORDER = (
    "train-eager",
    "train-graph",
    "train-compiled",
    "train-compiled-graph",
    "train-diffusers",
    "train-diffusers-compiled",
    "sample-eager",
    "sample-graph",
    "sample-compiled-graph",
    "sample-diffusers",
    "sample-diffusers-compiled",
    "train-eager-16",
    "train-compiled-graph-16",
    "train-compiled-graph-512",
    "sample-compiled",
    "train-float32",
    "train-graph-cudnn-benchmark",
    "train-graph-attention-math",
    "sample-compiled-graph-250",
)
CEILINGS = ("matmul", "copy")
# Compiling keeps the processor busy, not the GPU: these run beside each other and the ceilings.
COMPILED = (
    "train-compiled",
    "sample-compiled",
    "train-diffusers-compiled",
    "sample-diffusers-compiled",
)
COMPILE_S = 150
ROW_S = 75
"""limit of one row, with what torch needs to start; about 25 are expected"""
LEAST_S = 15
"""left, for a row to begin"""

SPEED = "images_per_s"
RATIOS = (
    # name, numerator, denominator, value, expected
    ("busy share of a training step", "train-eager", None, "busy_share", (0.5, 0.9)),
    ("training, recorded", "train-graph", "train-eager", SPEED, (1.1, 1.45)),
    ("training, compiled", "train-compiled", "train-eager", SPEED, (2.2, 2.7)),
    ("training, compiled and recorded", "train-compiled-graph", "train-eager", SPEED, (2.6, 3.3)),
    ("training, eager, x diffusers", "train-eager", "train-diffusers", SPEED, (1.2, 1.6)),
    (
        "training, best, x compiled diffusers",
        "train-compiled-graph",
        "train-diffusers-compiled",
        SPEED,
        (1.1, 2.0),
    ),
    ("share of the matmul ceiling", "train-compiled-graph", "matmul", "tflops_per_s", (0.3, 0.45)),
    ("batch 16, best", "train-compiled-graph-16", "train-eager-16", SPEED, (5.0, 10.0)),
    ("sampling, compiled and recorded", "sample-compiled-graph", "sample-eager", SPEED, (1.5, 2.2)),
    (
        "sampling, best, x compiled diffusers",
        "sample-compiled-graph",
        "sample-diffusers-compiled",
        SPEED,
        (1.1, 2.0),
    ),
)


class Results:
    """What has been measured, in a file that grows by a line a row."""

    def __init__(self, folder, key):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._key = folder, key
        self.rows = {}
        if (path := folder / "results.jsonl").exists():
            for line in path.read_text().splitlines():
                try:
                    found = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the machine was taken away while it was written
                if found.pop("of", None) == key:
                    self.rows[found["row"]] = found

    def add(self, found):
        self.rows[found["row"]] = found
        with (self._folder / "results.jsonl").open("a") as file:
            file.write(json.dumps({**found, "of": self._key}) + "\n")
        lines = [*table(self.rows), "", *closing(self.rows)]
        (self._folder / "table.md").write_text("\n".join([*header(), "", *lines, ""]))


def header():
    return [
        "# Training and sampling on one GPU",
        "",
        *about("benchmarks.gpu_speed", num_cores=torch.get_num_threads()),
    ]


def table(rows):
    """The rows so far, as Markdown."""
    lines = [
        "| | images/s of a step | ms a step | GPU busy | kernels | TFLOP/s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        if (reason := found.get("skipped")) is not None:
            lines.append(f"| {name} | {reason} | | | | | |")
            continue
        if "gb_per_s" in found:
            lines.append(f"| {name} | {found['gb_per_s']:,.0f} GB/s | | | | | |")
            continue
        speed = found.get("images_per_s")
        cells = [
            name,
            "" if speed is None else f"{speed:,.4g}",
            "" if speed is None else f"{1e3 / found['steps_per_s']:.2f}",
            f"{found['busy_share']:.0%}" if "busy_share" in found else "",
            f"{found['kernels']:,.0f}" if "kernels" in found else "",
            f"{found['tflops_per_s']:,.3g}",
            f"{found['peak_mib']:,.0f}" if found.get("peak_mib") else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def closing(rows):
    """The ratios that the defaults are decided by."""
    lines = []
    for name, above, below, value, (low, high) in RATIOS:
        found = [rows.get(one, {}).get(value) for one in (above, below) if one is not None]
        if None in found:
            lines.append(f"ratio {name}: not measured (expected {low}-{high}) LOOK")
            continue
        ratio = found[0] / found[1] if below else found[0]
        word = "OK" if low <= ratio <= high else "LOOK"
        lines.append(f"ratio {name} {ratio:.2f} (expected {low}-{high}) {word}")
    return lines


def command(name, options, seconds):
    return [
        *(sys.executable, "-m", "benchmarks.gpu_rows", name),
        *("--recipe", options.recipe, "--batch", str(options.batch)),
        *("--device", options.device, "--seconds", str(seconds)),
    ]


def measured(name, options, limit_s):
    """What a row prints, or why it printed nothing."""
    try:
        ended = subprocess.run(  # noqa: S603 - this program
            command(name, options, options.row_seconds),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"row": name, "skipped": f"not done after {limit_s:.0f} s"}
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        return {"row": name, "skipped": f"failed: {last[:300]}"}
    return json.loads(ended.stdout.strip().splitlines()[-1])


def compile_beside(options, names):
    """Processes that fill Inductor's cache, which those that measure find."""
    return [
        subprocess.Popen(  # noqa: S603 - this program
            command(name, options, 0), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for name in names
    ]


def wait_for(processes, until):
    for process in processes:
        try:
            process.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(options, names):
    """Measure what there is time for; return the rows."""
    deadline = time.monotonic() + options.seconds
    key = [options.recipe, options.batch, options.device, about("", num_cores=0)[2]]
    results = Results(options.out, key)
    left = [name for name in names if name not in results.rows]
    device = torch.device(options.device)
    compiling = compile_beside(
        options, [name for name in COMPILED if name in left and not ROWS[name].needs(device)]
    )
    try:
        for name in left:
            if compiling and name not in CEILINGS:
                wait_for(compiling, min(deadline, time.monotonic() + COMPILE_S))
                compiling = []
            remaining = deadline - time.monotonic()
            if remaining < LEAST_S:
                print(f"no time for {name}", flush=True)
                continue
            results.add(measured(name, options, min(ROW_S, remaining)))
            print("\n".join(["", *table(results.rows)]), flush=True)
    finally:
        for process in compiling:
            process.kill()
    return results.rows


def main():
    parser = parser_of(__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=540.0, help="for all of it")
    parser.add_argument("--row-seconds", type=float, default=6.0, help="measured in each row")
    parser.add_argument("--only", nargs="+", choices=ROWS, help="these rows")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    options = parser.parse_args()
    rows = run(options, options.only or (*CEILINGS, *ORDER))
    print("", *closing(rows), sep="\n")


if __name__ == "__main__":
    main()
