"""What a dry run says of memory and time: counted, and measured by workers of this machine's own.

A worker is a process of `training.rehearsal`, with as many threads as in a training: torch is not
loaded here, the memory is free again afterwards, and a worker that finds none ends no dry run.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO, Any

from ddpm_core import machine
from ddpm_core.config import RunConfig
from ddpm_core.config.needs import Needs, gib, memory_text, speed_text
from ddpm_core.output import printable
from ddpm_core.progress import WARNING

_LIMIT_S = 180.0
ELSEWHERE = ["memory and time: not known here; the training says them, on its cluster"]
SMALL = ["memory and time: less than 1 GiB a worker, and minutes; the training says how many"]


def rehearsed(config: RunConfig) -> list[str]:
    """Return lines about the memory and the time of the training, on this machine."""
    compute = config.compute
    count = max(1, min(compute.num_workers, machine.cores() // compute.cpus_per_worker))
    with ExitStack() as stack:
        said = [stack.enter_context(TemporaryFile("w+", errors="replace")) for _ in range(count)]
        return _measured(config, [_started(compute.cpus_per_worker, one) for one in said], said)


def _measured(
    config: RunConfig, workers: "list[subprocess.Popen[str]]", said: Sequence[IO[str]]
) -> list[str]:
    count, limit = len(workers), threading.Timer(_LIMIT_S, _end, [workers])
    limit.start()
    try:
        asked = {"config": config.model_dump(mode="json")}
        prepared = _answers(workers, [asked] * count)
        on_card = prepared[0] is not None and prepared[0]["device"] == "cuda"
        timed = workers[:1] if on_card else workers
        speeds: list[dict[str, Any] | None] = [None]
        if None not in prepared:
            speeds = _answers(timed, [None] * len(timed))
    finally:
        limit.cancel()
        _end(workers)
        for one in workers:
            one.communicate()
    if prepared[0] is None:
        return [_ended(workers[0].returncode, said[0])]
    return _lines(config, prepared[0], speeds)


def _ended(code: int, said: IO[str]) -> str:
    """Return what to say where a worker has counted nothing; one that is killed says nothing."""
    said.seek(0)
    last = (said.read().strip().splitlines() or [f"exit code {code}"])[-1]
    killed = f"it found no memory, or took longer than {_LIMIT_S:.0f} s"
    why = killed if code < 0 else printable(last[:300])
    return (
        f"memory and time: not known, since the process that was to count them ended: {why}; "
        "python -m ddpm_core doctor examines this machine"
    )


def _started(num_threads: int, said: IO[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "ddpm_core.training.rehearsal"],
        env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
    )


def _end(workers: list["subprocess.Popen[str]"]) -> None:
    for one in workers:
        one.kill()


def _answers(workers: list[Any], asked: list[Any]) -> list[dict[str, Any] | None]:
    """Return the answer of each, or None of one that has ended; all work at the same time."""
    for one, words in zip(workers, asked, strict=True):
        try:
            one.stdin.write(f"{json.dumps(words)}\n")
            one.stdin.flush()
        except BrokenPipeError:
            continue  # it has no answer either
    lines = [one.stdout.readline() for one in workers]
    return [json.loads(line) if line.endswith("\n") else None for line in lines]


def _lines(
    config: RunConfig, prepared: dict[str, Any], speeds: list[dict[str, Any] | None]
) -> list[str]:
    needs, world_size = Needs(**prepared["needs"]), prepared["world_size"]
    is_card, room = prepared["device"] == "cuda", prepared["room"]
    where = "the card" if is_card else "this machine"
    has = "" if room is None else f"; {where} has {gib(room * (1 if is_card else world_size))}"
    lines = [f"memory: {memory_text(needs, world_size=world_size)}{has}"]
    if prepared["lack"] is not None:
        lines.append(f"{WARNING}{prepared['lack']}")
    known = [one for one in speeds if one is not None]
    if len(known) < len(speeds):
        return [*lines, "time: not known, since a step could not be measured here"]
    passes = -(-needs.images // needs.at_once)
    step_s = max(
        one["update_s"] + passes * one["pass_s"] + needs.images * one["image_s"] for one in known
    )
    how = "measured" if all(one["images"] for one in known) else "estimated by a smaller image"
    said = f"time: {speed_text(config, step_s)}, {how} on {where}"
    return [*lines, f"{said}, {needs.flops / 1e9:,.3g} GFLOP an image"]
