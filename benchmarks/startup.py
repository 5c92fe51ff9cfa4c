"""What a pipeline spends beside its work: each part from the command to the end, by process.

    python -m benchmarks.startup                   # a minute, on a machine left alone

It runs `flows.train_ddpm digits` with 20 steps of training, in a folder of its own, and looks at
all its processes four times a second. A part ends at the line of output that is named. Seconds are
of the clock; CPU seconds are those of all processes together, also on other machines' terms: what
one waits for, where others use the machine, is in the first only.

A process that lives shorter than a quarter of a second is not seen.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from benchmarks.about import about

PARTS = (
    ("imports of the command, the configuration, what is there", r"starting Ray"),
    ("Ray, Prefect and the flow start", r"shard .*started as job"),
    ("the job starts and joins Ray", r"shard +0/"),
    ("images to shards", r"shard +done"),
    ("the group of workers starts", r"train +0/"),
    ("data, network, first step, and all steps", r"train +(\d+)/\1 "),
    ("the last checkpoint and the end of the group", r"train +done"),
    ("samples", r"sample +done"),
    ("feature network, likelihood, distance", r"evaluate +done"),
    ("the summary", r"look at it"),
    ("everything ends", None),
)
ROLES = (
    ("the command and the flow", r"flows\.train_ddpm"),
    ("Prefect's server", r"embedded_prefect|prefect\.server"),
    ("the job: stages, drivers", r"ddpm_core\.(several|__main__)|-m ddpm_core"),
    ("workers that train", r"ray::.*(RayTrainWorker|TrainWorker)"),
    ("workers of a pool", r"ray::.*PoolActor"),
    ("Ray Train's controller", r"ray::.*(Controller|Train)"),
    ("workers that Ray starts ahead", r"ray::IDLE|default_worker"),
    ("Ray itself", r"ray|gcs|JobSupervisor"),
    ("MLflow's server", r"mlflow"),
    ("other", r""),
)
MARK = "DDPM_BENCHMARK_STARTUP"
EVERY_S = 0.25


class Watch:
    """The CPU seconds of all processes that have a mark in their environment, by part and role."""

    def __init__(self, mark):
        self._mark, self._seen, self._roles = f"{MARK}={mark}".encode(), {}, {}
        self.part, self.seconds = 0, collections.Counter()
        self._foreign = set()
        self._tick = os.sysconf("SC_CLK_TCK")

    def look(self):
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or folder.name in self._foreign:
                continue
            try:
                if folder.name not in self._seen:
                    if self._mark not in (folder / "environ").read_bytes().split(b"\0"):
                        self._foreign.add(folder.name)
                        continue
                    self._seen[folder.name] = 0.0
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                name = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended
                continue
            if name:
                role = next(role for role, text in ROLES if re.search(text, name))
                self._roles[folder.name] = role
            used = (int(fields[11]) + int(fields[12])) / self._tick
            self.seconds[self.part, self._roles.get(folder.name, "other")] += (
                used - self._seen[folder.name]
            )
            self._seen[folder.name] = used


def measured(arguments):
    """Run the pipeline; return for each part its seconds, and the watch over its processes."""
    mark = uuid.uuid4().hex
    watch, began, times = Watch(mark), time.monotonic(), [0.0] * len(PARTS)
    process = subprocess.Popen(  # noqa: S603 - this interpreter, with arguments of ours
        [sys.executable, "-m", "flows.train_ddpm", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {MARK: mark},
    )  # fmt: skip

    def follow():
        for line in process.stdout:
            sys.stderr.write(line)
            for part in range(watch.part, len(PARTS) - 1):
                if re.match(PARTS[part][1], line):
                    times[part] = time.monotonic()
                    watch.part = part + 1
                    break

    reader = threading.Thread(target=follow)
    reader.start()
    while process.poll() is None:
        watch.look()
        time.sleep(EVERY_S)
    reader.join()
    if process.returncode or watch.part != len(PARTS) - 1:
        raise SystemExit(f"the pipeline ended with {process.returncode} in part {watch.part}")
    times[-1] = time.monotonic()
    seconds = [end - begin for begin, end in zip([began, *times], times, strict=False)]
    return seconds, watch


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the result to")
    options = parser.parse_args()
    steps = ["train.num_steps=20", "train.checkpoint_every=20", "train.warmup_steps=5"]
    changes = [text for one in [*steps, *options.set] for text in ("--set", one)]
    with tempfile.TemporaryDirectory(prefix="ddpm-startup-") as root:
        seconds, watch = measured(["digits", "--root", root, *changes])
    header = [
        "# From the command to the end of a pipeline of 20 steps, by part",
        "",
        *about("benchmarks.startup", num_cores=os.cpu_count()),
        "",
        "| part | seconds | CPU seconds | of these |",
        "|---|---|---|---|",
    ]
    total = collections.Counter()
    for number, ((name, _), one) in enumerate(zip(PARTS, seconds, strict=True)):
        by_role = {role: used for (part, role), used in watch.seconds.items() if part == number}
        total.update(by_role)
        header.append(f"| {name} | {one:.1f} | {sum(by_role.values()):.1f} | {shown(by_role)} |")
    header.append(
        f"| **in all** | {sum(seconds):.1f} | {sum(total.values()):.1f} | {shown(total)} |"
    )
    print(*header, sep="\n")
    if options.out:
        options.out.write_text("\n".join([*header, ""]))


def shown(by_role):
    found = sorted(by_role.items(), key=lambda item: -item[1])
    return ", ".join(f"{role} {used:.1f}" for role, used in found if used >= 0.1)


if __name__ == "__main__":
    main()
