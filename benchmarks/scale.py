"""What a data set costs by its number of images: making it, using it, and what grows with it.

    python -m benchmarks.scale --images 10000,100000,1000000 --out benchmarks/results/scale.md

It makes its images itself (16x16, PNG, in tars of 1000), each row in a process of its own, and
keeps what is done in `--work`: cut off, it goes on with the next row. `--peers` is the Python of an
environment with benchmarks/peers.txt, in which the rows of others run. Of each row: seconds, the
most memory that its processes had together (pages that they share count for each), images/s where
it trains, and the exponent of its growth, the slope of log seconds over log images.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil

from benchmarks.about import about
from benchmarks.scale_peers import PEER_ROWS
from benchmarks.scale_rows import names, run_row

SIMULATED = "10^9 simulated"


def main(arguments=None):
    """Measure what is not done yet, and write the page."""
    options = _options(arguments)
    folder = options.row_folder
    if folder is not None:
        print(json.dumps(run_row(options.row, folder, options.images[0])))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    state = options.work / "rows.json"
    done = json.loads(state.read_text()) if state.exists() else {}
    plan = [(name, count) for count in options.images for name in names()]
    plan += [(SIMULATED, count) for count in options.simulated]
    for name, count in plan:
        key = f"{name}|{count}"
        if key in done or (options.only and name not in options.only):
            continue
        done[key] = _measured(name, count, options)
        print(f"{name}, {count}: {done[key]}", flush=True)
        state.with_suffix(".part").write_text(json.dumps(done, indent=1))
        state.with_suffix(".part").rename(state)
        options.out.write_text("\n".join(_page(done)) + "\n")
    options.out.write_text("\n".join(_page(done)) + "\n")
    if not options.keep:
        for count in {*options.images, *options.simulated}:
            shutil.rmtree(options.work / str(count), ignore_errors=True)


def _options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    numbers = {"type": lambda text: [int(float(one)) for one in text.split(",") if one]}
    parser.add_argument("--images", default=[10**4, 10**5, 10**6], **numbers)
    parser.add_argument("--simulated", default=[10**7, 10**8, 10**9], **numbers)
    parser.add_argument("--only", type=lambda text: text.split(";"), help="rows; default: all")
    parser.add_argument("--work", type=Path, default=Path("scale"), help="room for the images")
    parser.add_argument("--out", type=Path, default=Path("scale.md"))
    parser.add_argument("--peers", default=sys.executable, help="the Python of the others' rows")
    parser.add_argument("--keep", action="store_true", help="leave the images and data sets")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--row-folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _measured(name, count, options):
    """Run a row in a process; return its numbers, and the most memory that was used."""
    folder = (options.work / str(count)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    python = options.peers if name in PEER_ROWS else sys.executable
    command = [python, "-m", "benchmarks.scale", "--row", name, "--row-folder", str(folder)]
    own = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH", "")]))
    # What a row decodes stays for the row after it, and meets nothing of other measurements.
    environment = os.environ | {"DDPM_CACHE": str(folder / "cache"), "PYTHONPATH": paths}
    process = subprocess.Popen(  # noqa: S603 - a Python, and a module of ours
        [*command, "--images", str(count)], env=environment, stdout=subprocess.PIPE, text=True
    )
    peak = _Peak(process.pid)
    output, _ = process.communicate()
    peak.close()
    if process.returncode:
        return {"failed": process.returncode}
    found = json.loads(output.splitlines()[-1])
    return {"absent": True} if found is None else found | {"peak MB": peak.num_bytes / 2**20}


class _Peak:
    """The most memory that a process and its descendants have at a time, looked at each 50 ms."""

    def __init__(self, pid):
        self.num_bytes, self._is_over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, args=(psutil.Process(pid),))
        self._thread.start()

    def close(self):
        self._is_over.set()
        self._thread.join()

    def _look(self, process):
        while not self._is_over.wait(0.05):
            try:
                tree = [process, *process.children(recursive=True)]
            except psutil.Error:
                continue
            self.num_bytes = max(self.num_bytes, sum(map(_resident, tree)))


def _resident(process):
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _page(done):
    rows = {}
    for key, found in done.items():
        name, _, count = key.rpartition("|")
        rows.setdefault(name, {})[int(count)] = found
    real = {name: found for name, found in rows.items() if name != SIMULATED}
    lines = ["# What a data set costs by its number of images", ""]
    lines += about("benchmarks.scale", num_cores=min(2, os.cpu_count() or 1))
    lines += [
        "",
        "Seconds, most memory, and images/s of a loader; x of seconds = c * images^x. Of a new run",
        "also the seconds from the moment at which the process that trains is there.",
        "",
    ]
    lines += _table(real)
    if SIMULATED in rows:
        lines += ["", "A worker on simulated data sets, in shards of 1000:", ""]
        parts = {
            "open the index, s": "s",
            "first batch at step 10^6, s": "resume s",
            "memory of the index, MB": "MB",
            "memory with that batch, MB": "resumed MB",
        }
        simulated = {
            text: {n: {"s": one[word]} for n, one in rows[SIMULATED].items() if word in one}
            for text, word in parts.items()
        }
        lines += _table(simulated)
    return lines


def _table(rows):
    counts = sorted({count for found in rows.values() for count in found})
    head = ["what", *(f"{count:,}" for count in counts), "x"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, found in rows.items():
        cells = [_cell(found.get(count)) for count in counts]
        lines.append(f"| {' | '.join([name, *cells, _exponent(found)])} |")
    return lines


def _cell(found):
    if found is None:
        return ""
    if "s" not in found:
        return "not installed" if "absent" in found else "failed"
    text = f"{found['s']:.3g}"
    if "peak MB" in found:
        text += f" s, {found['peak MB']:,.0f} MB"
    text += f", {found['images/s']:,.0f}/s" if "images/s" in found else ""
    return text + (f", {found['group s']:.3g} s of the group" if "group s" in found else "")


def _exponent(found):
    points = [(count, one["s"]) for count, one in found.items() if one.get("s", 0) > 0]
    if len(points) < 2:
        return ""
    x, y = np.log(np.array(points, float)).T
    return f"{np.polyfit(x, y, 1)[0]:.2f}"


if __name__ == "__main__":
    main()
