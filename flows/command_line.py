"""python -m flows.{train_ddpm,paper}, or ddpm run: a flow as a command; Prefect only to run it."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from ddpm_core.cli import (
    TARGET_HELP,
    add_run_arguments,
    changes_of,
    describe_keys,
    exit_code_of,
)
from ddpm_core.config import Role, RunConfig
from ddpm_core.extras import require_packages
from ddpm_core.output import command_output, printable, say
from ddpm_core.preflight import Findings
from ddpm_core.runs import begun, going_on
from ddpm_core.runs.run import begin_stage, check_run, open_run
from ddpm_core.runs.stages import Pipeline, stages_of
from ddpm_core.servers.server import use_directly
from ddpm_core.store.storage import Store
from flows import plan
from flows.console import Console, duration, show_on
from flows.embedded import shared_ray
from flows.prefect_api import PrefectApi
from flows.redelivery import send_missing

_EXAMPLES = """\
examples:
  {command} digits
  {command} digits --run short --set train.num_steps=500
  {command} mnist --set data.source=/data/mnist --set compute.num_workers=4
  {command} images --size 64 --scale S --run photos --set data.source=/data/photos --dry-run
  {command} cifar10 --root s3://bucket/ddpm --ray-address http://ray-head:8265
  {command} runs/runs/short/run.json

exit codes:
  0 done   2 configuration, or a cluster that is too small for it   3 data   4 checkpoint
  5 divergence   6 storage   7 Ray or Prefect's API   130 interrupted, or the job was stopped
"""


@dataclass(frozen=True)
class Command:
    """A flow that can be run from the command line."""

    name: Pipeline
    """the flow's"""
    module: str
    description: str

    def stages(self, role: Role = "denoiser") -> tuple[str, ...]:
        """Return the names of those of a run of such a network, in the order in which they run."""
        return stages_of(self.name, role)

    def load(self) -> Callable[..., Any]:
        """Import the flow, and with it Prefect."""
        flow: Callable[..., Any] = getattr(import_module(self.module), self.name.replace("-", "_"))
        return flow


TRAIN_DDPM = Command(
    name="train-ddpm",
    module="flows.train_ddpm",
    description="Shard, train, sample and evaluate, each as a job on Ray.",
)
PAPER = Command(
    name="paper",
    module="flows.paper",
    description="Shard, train, sample and evaluate, measure and draw what else the paper claims, "
    "and run its six ablations, each as a job on Ray.",
)


def main(
    command: Command, arguments: Sequence[str] | None = None, *, prog: str | None = None
) -> int:
    """Run the flow and return the process's exit code; `prog` is what help calls the command."""
    with command_output():
        options = _parser(command, prog).parse_args(arguments)
        return exit_code_of(command.name, partial(_run, command, options))


def _run(command: Command, options: argparse.Namespace) -> None:
    changes = changes_of(options, options.target)
    store, config = plan.resolve(
        options.target, root=options.root, run=options.run, overrides=changes
    )
    check_run(store, config)
    use_directly()
    found = plan.check(store, config, command.stages(config.role), options.ray_address)
    if options.dry_run:
        say(config.to_json(), end="")
        say(printable(_dry(command, options, store, config, found)), stream=sys.stderr)
        return
    console, began = Console(), time.monotonic()
    if not found.missing:
        open_run(store, config)
        console.say(f"run {config.name!r} is done already; nothing was started")
        send_missing(store, config, command.stages(config.role))
    else:
        require_packages("prefect", "ray")  # whose servers would end in a traceback
        begin_stage(store, config)
        parameters = plan.parameters_of(config, store, options.target)
        parameters["ray_address"] = options.ray_address
        _run_flow(command, parameters, console, command.stages(config.role))
        console.say(f"run {config.name!r} is done, in {duration(time.monotonic() - began)}")
    say(plan.summary(store, config))
    for line in console.unsent:
        say(line)


def _dry(
    command: Command,
    options: argparse.Namespace,
    store: Store,
    config: RunConfig,
    found: Findings,
) -> str:
    lines = [plan.describe(store, config, options.ray_address, command.stages(config.role))]
    lines += found.lines(config) if found.missing else []
    changes = [begun.changes_of(store, config.name), begun.housekeeping_of(store, config)]
    changes.append(going_on.said_of(store, config))
    return "\n".join(filter(None, [*lines, *changes]))


def _run_flow(
    command: Command, parameters: dict[str, Any], console: Console, stages: Sequence[str]
) -> None:
    """Start what is not configured, and run the flow."""
    # Our own lines say what happens; Prefect's would say it again, with tracebacks.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    # 2 + 4 + 8 + 16 s for a server that starts again; after that the work goes on without it.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "4")
    api = PrefectApi()
    try:
        api.find()  # a configured one that is dead is refused before Ray is started
        with shared_ray() as ray:
            if parameters["ray_address"] is None:
                ray.start()  # while Prefect starts
                console.say("starting Ray on this machine")
            if api.use():
                console.say("no PREFECT_API_URL: this flow's record in Prefect ends with it")
            from flows.stages import run_flow

            with show_on(console):
                run_flow(command.load(), stages, parameters)
            api.begin_close()  # while Ray ends
    finally:
        api.close()


def _parser(command: Command, prog: str | None = None) -> argparse.ArgumentParser:
    prog = prog or f"python -m {command.module}"
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{command.description} What is done is not done again; the same command "
        "continues what was killed.",
        epilog=f"{_EXAMPLES.format(command=prog)}\n{describe_keys()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="RECIPE[:ABLATION]|RUN", help=TARGET_HELP)
    add_run_arguments(parser)
    parser.add_argument(
        "--ray-address",
        metavar="URL",
        help="dashboard of a Ray cluster, e.g. http://ray-head:8265 (default: a Ray of its own on "
        "this machine, ended with the flow)",
    )
    return parser
