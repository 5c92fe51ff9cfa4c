"""python -m ddpm_core.several shard,train,sample RUN: stages in one process, for a flow.

One job for each costs every time what is the same: Ray's supervisor, an interpreter, the imports
of torch and Ray, and joining the cluster. The first stage that fails ends the process with its
exit code, and what it said; what stands between two marks of `progress` is the stage's.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from functools import partial

from ddpm_core import __main__ as one
from ddpm_core import cluster
from ddpm_core.cli import changes_of, exit_code_of, options_again
from ddpm_core.output import command_output, say
from ddpm_core.progress import BEGINS, ENDS
from ddpm_core.runs.run import configure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages one after the other; return the exit code of the last one that ran."""
    options = _parser().parse_args(arguments)
    with command_output(), contextlib.ExitStack() as joined:
        for number, stage in enumerate(options.stages):
            say(f"{BEGINS}{stage}")
            if number == 0 and (code := exit_code_of(stage, partial(_join, options, joined))):
                return code
            if code := one.main([stage, options.target, *options_again(options)]):
                return code
            say(f"{ENDS}{stage}")
    return 0


def _join(options: argparse.Namespace, joined: contextlib.ExitStack) -> None:
    """Join the cluster for all stages: one that finds a connection leaves it open."""
    changes = changes_of(options, options.target)
    _, config = configure(options.target, root=options.root, run=options.run, changes=changes)
    joined.enter_context(cluster.connect(config.compute))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ddpm_core.several")
    parser.add_argument("stages", metavar="STAGE,STAGE...", type=lambda text: text.split(","))
    parser.add_argument("target", metavar="RECIPE|RUN")
    for option in ("--root", "--run", "--scale"):
        parser.add_argument(option)
    parser.add_argument("--size", type=int)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    return parser


if __name__ == "__main__":
    sys.exit(main())
