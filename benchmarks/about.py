"""What a measurement must say of itself."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch


def about(module, *, num_cores, packages=""):
    """Machine, versions, commit and command of a benchmark, as lines.

    Args:
        module: its name, as after `python -m`.
        num_cores: how many it used.
        packages: further versions that count, beside Python's and torch's.
    """
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}"
    lines = [f"- machine: {num_cores} of {os.cpu_count()} cores, {cpus[0] if cpus else '?'}"]
    if torch.cuda.is_available():
        lines[0] += f"; {torch.cuda.get_device_name()}"
        versions += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    versions += f", {packages}" if packages else ""
    command = " ".join(["python -m", module, *sys.argv[1:]])
    return [
        *lines,
        f"- {versions}, load {os.getloadavg()[0]:.1f} at the end",
        f"- commit {_commit() or '?'}, {datetime.now(UTC).date()}",
        f"- command: `{command}`",
    ]


def _commit():
    git = shutil.which("git")
    if git is None:
        return ""
    return subprocess.run(  # noqa: S603 - git, with arguments of ours
        [git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
