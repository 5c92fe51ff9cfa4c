"""The same commands without Ray, Prefect and the imports of each: stages in a process made ready.

`python -m tests.docs.here` takes commands of `client.py` and forks for each: there a stage works in
that process, and a flow is its stages. It tests neither Ray nor Prefect; `make docs-commands` does.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ddpm_core import __main__ as stage
from ddpm_core import cluster
from ddpm_core.cluster import group
from ddpm_core.config import RunConfig
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.storage import open_store
from ddpm_core.training.worker import train_rank
from flows import command_line, plan
from tests.docs import small

HERE = torch.device("cpu")


def map_units(
    make_worker: Callable[..., Any],
    payload: dict[str, Any],
    units: Sequence[Any],
    _compute: object,
    *,
    on_done: Callable[..., None],
) -> None:
    """Do what a pool's actors would."""
    worker = make_worker(json.loads(json.dumps(payload)), lambda: HERE)
    for unit in units:
        on_done(unit, worker(unit))


def train_group(_worker: object, payload: dict[str, Any], _compute: object, *, name: str) -> None:
    """Do what the only rank of a group would; `name` is for Ray's page."""
    del name
    config = RunConfig.from_dict(payload["config"])
    train_rank(open_store(payload["store"]), config, cluster.Place(0, 1, HERE))


def run_flow(flow: command_line.Command, words: Sequence[str]) -> int:
    """Run the stages of a flow, one after the other, and say what it says when it ends."""
    options = command_line._parser(flow).parse_args(words)
    if options.dry_run:
        return command_line.main(flow, words)
    changes = command_line.changes_of(options, options.target)
    store, config = plan.resolve(
        options.target, root=options.root, run=options.run, overrides=changes
    )
    for name in flow.stages(config.role):
        if code := stage.main([name, *words]):
            return code
    print(f"run {config.name!r} is done\n{plan.summary(store, config)}")
    return 0


def run(program: str, given: Sequence[str]) -> int:
    """Return the exit code of the smaller twin of a command."""
    words = small.prepared(program, given)
    match words:
        case ["-m", module, *rest] if module in small.FLOWS:
            return run_flow(small.FLOWS[module], rest)
        case ["run", *rest] if program.endswith("/ddpm"):
            return run_flow(command_line.TRAIN_DDPM, rest)
        case ["-m", "ddpm_core", *rest]:
            return stage.main(rest)
        case rest if program.endswith("/ddpm"):
            return stage.main(rest)
        case [file, *rest] if file.endswith(".py"):
            sys.argv = [file, *rest]
            runpy.run_path(file, run_name="__main__")
            return 0
    return subprocess.call([program, *words])


def serve(connection: socket.socket) -> None:
    """Run one command here, with the streams, folder and environment of the client."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile().read())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["env"])
    program, *words = asked["words"]
    try:
        code = run(program, words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())


def main() -> None:
    """Take one command after the other; each is a fork."""
    cluster.connect = lambda _compute: nullcontext()  # type: ignore[assignment]
    cluster.map_units = map_units  # type: ignore[assignment]
    group.train_group = train_group
    for one in STAGES.values():
        one.load()
    listener = socket.socket(socket.AF_UNIX)
    path = Path(os.environ["TMPDIR"], "here")
    listener.bind(f"{path}-")
    listener.listen()
    Path(f"{path}-").rename(path)  # there when it listens
    children = 0
    while True:
        connection, _ = listener.accept()
        while children and os.waitpid(-1, os.WNOHANG)[0]:
            children -= 1
        if os.fork() == 0:
            serve(connection)
            return
        children += 1
        connection.close()


if __name__ == "__main__":
    main()
