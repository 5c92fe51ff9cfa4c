"""Runs the command line many times in children of one process that has imported it.

    python -m tests.corpus.server

Imports take seconds and the cases milliseconds, so each case is a fork. That is safe as long as
this process has one thread, which it checks. A child has 1 GiB of address space beyond what
the imports took, 64 MiB of any one file, 10 s of a processor and 60 s by the clock (other tests
share the processors); then the kernel ends it. Ray would start processes
of its own: here its pools share out their work in the child itself.

Requests and answers are JSON, one a line; see `Answer`.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import traceback
import types
from dataclasses import asdict, dataclass
from pathlib import Path

LIMIT_S = 10
CLOCK_S = 60
LIMIT_BYTES = 2**30
_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Answer:
    """What became of one command."""

    code: int | None
    """exit code; None if a signal ended it"""
    signal: int | None
    peak_bytes: int
    """resident memory at its peak, beyond what the imports took"""
    seconds: float
    """of both processors' time"""


def main() -> None:
    _import_all()
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise RuntimeError("an import started a thread: a fork would inherit its locks")
    imports_bytes = _status("VmHWM")
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        _, status, usage = os.wait4(child, 0)
        ended = os.WIFSIGNALED(status)
        answer = Answer(
            code=None if ended else os.WEXITSTATUS(status),
            signal=os.WTERMSIG(status) if ended else None,
            peak_bytes=usage.ru_maxrss * 1024 - imports_bytes,
            seconds=usage.ru_utime + usage.ru_stime,
        )
        print(json.dumps(asdict(answer)), flush=True)


def _import_all() -> None:
    # Ray would bring a thread (jemalloc's, of its Arrow), and half of the time of the imports.
    alone = types.ModuleType("ddpm_core.cluster")
    alone.connect = lambda *_: contextlib.nullcontext()
    alone.map_units, alone.GetDevice = _map_units_here, object
    sys.modules["ddpm_core.cluster"] = alone
    for name in (
        "ddpm_core.__main__",
        "ddpm_core.sharding.stage",
        "ddpm_core.sharding.collection",
        "ddpm_core.import_export",
    ):
        importlib.import_module(name)


def _map_units_here(make_worker, payload, units, compute, *, on_done):
    work = make_worker(json.loads(json.dumps(payload)), None)
    for unit in units:
        on_done(unit, work(unit))


def _run(request) -> None:
    code = 70
    try:
        confine(request)
        from ddpm_core.__main__ import main as command

        code = command(request["arguments"])
    except SystemExit as stop:  # argparse
        code = stop.code
    except BaseException:  # noqa: BLE001 - what a process of its own would show
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def confine(request, *, limit_s: int = LIMIT_S, clock_s: int = CLOCK_S) -> None:
    """Bound what this process may take from now on, and send what it says to a file."""
    os.chdir(request["folder"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    os.environ.update(request["environment"])
    space = _status("VmSize") + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
    signal.alarm(clock_s)


def _status(name) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(name)


if __name__ == "__main__":
    main()
