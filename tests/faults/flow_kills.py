"""Kills for the campaign: one process of a whole flow, any of them, at a random moment.

Flow, guardian, Ray's servers, the job's driver, workers and actors, as a user's machine runs them.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ddpm_core.config import RunConfig
from ddpm_core.recipes import digits
from tests.end_to_end.conftest import SMALL, Shell, shell_in, small_sets

CONFIG: RunConfig = digits().replaced(SMALL)
END_WITHIN_S = 120
"""after a kill, for a flow that cannot go on; one that goes on may finish"""


def undisturbed(folder: Path) -> float:
    """Run the flow into `folder`/root; return how many seconds it took."""
    began = time.monotonic()
    with shell_in(folder) as shell:
        shell.run(*_flow(folder))
    return time.monotonic() - began


def kill_one(folder: Path, rng: random.Random, flow_s: float) -> tuple[str, str, float]:
    """Start the flow, kill one of its processes, and start it again.

    Args:
        folder: for root, home and logs; empty.
        rng: chooses moment and process.
        flow_s: how long the flow takes undisturbed.

    Returns:
        What was killed, how the flow ended, and how many seconds after that.
    """
    with shell_in(folder) as shell:
        flow = shell.start(*_flow(folder), log=folder / "flow.log")
        time.sleep(rng.uniform(0.05, 0.9) * flow_s)
        victim = _victim(shell, rng)
        if victim is None:
            return "nothing: the flow had ended", "", 0.0
        what, killed_at = _name_of(victim), time.monotonic()
        victim.kill()
        try:
            code = flow.wait(timeout=flow_s + END_WITHIN_S)
        except subprocess.TimeoutExpired:
            return what, "NO END", time.monotonic() - killed_at
        ended_s = time.monotonic() - killed_at
        log = (folder / "flow.log").read_text(errors="replace")
        if "Traceback (most recent call last)" in log and victim.pid != flow.pid:
            return what, "TRACEBACK", ended_s
        shell.run(*_flow(folder))
        return what, f"ended with {code}, then again: ", ended_s


def _flow(folder: Path) -> tuple[str, ...]:
    root = str(folder / "root")
    return (sys.executable, "-m", "flows.train_ddpm", "digits", "--root", root, *small_sets())


def _victim(shell: Shell, rng: random.Random) -> psutil.Process | None:
    found = sorted(shell.processes(), key=lambda process: process.pid)
    return rng.choice(found) if found else None


def _name_of(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return "a process that had just ended"
    return " ".join(Path(word).name if word.startswith("/") else word for word in words[:4])[:80]
