"""python -m ddpm_core.several shard,train,sample RUN: stages in one process, for a flow.

One job for each costs every time what is the same: Ray's supervisor, an interpreter, the imports
of torch and Ray, and joining the cluster. The first stage that fails ends the process with its
exit code, and what it said; what stands between two marks of
`progress` is the stage's.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from ddpm_core import __main__ as one
from ddpm_core import cluster
from ddpm_core.cli import parse_overrides
from ddpm_core.errors import PipelineError
from ddpm_core.output import command_output, printable, say
from ddpm_core.progress import BEGINS, ENDS
from ddpm_core.runs.run import configure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages one after the other; return the exit code of the last one that ran."""
    options = _parser().parse_args(arguments)
    given = [word for change in options.overrides for word in ("--set", change)]
    for name, value in (("--root", options.root), ("--run", options.run)):
        given += [name, value] if value is not None else []
    with command_output(), contextlib.ExitStack() as connected:
        for number, stage in enumerate(options.stages):
            say(f"{BEGINS}{stage}")
            try:
                if number == 0:
                    connected.enter_context(_connection(options))
            except PipelineError as error:
                say(printable(f"{stage}: {error}"), stream=sys.stderr)
                return error.exit_code
            code = one.main([stage, options.target, *given])
            if code != 0:
                return code
            say(f"{ENDS}{stage}")
    return 0


def _connection(options: argparse.Namespace) -> cluster.Connection:
    """Join the cluster for all stages: one that finds a connection leaves it open."""
    changes = parse_overrides(options.overrides)
    _, config = configure(options.target, root=options.root, run=options.run, changes=changes)
    return cluster.connect(config.compute)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ddpm_core.several")
    parser.add_argument("stages", metavar="STAGE,STAGE...", type=lambda text: text.split(","))
    parser.add_argument("target", metavar="RECIPE|RUN")
    parser.add_argument("--root")
    parser.add_argument("--run")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    return parser


if __name__ == "__main__":
    sys.exit(main())
