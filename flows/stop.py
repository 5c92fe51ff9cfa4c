"""Stop the jobs of a run on a cluster, when the flow that started them is gone.

python -m flows.stop --run digits --root s3://bucket/ddpm --ray-address http://ray-head:8265
"""

import argparse
import sys
from collections.abc import Sequence

from ddpm_core import output
from ddpm_core.errors import PipelineError
from ddpm_core.runs.run import DEFAULT_ROOT
from ddpm_core.runs.stages import RESULTS
from ddpm_core.store.storage import open_store
from flows.attempt import stop_alive
from flows.embedded import Cluster
from flows.plan import run_prefix
from flows.ray_jobs import RayJobs


def main(arguments: Sequence[str] | None = None) -> int:
    """Stop them and return the process's exit code: 0 also if there were none."""
    with output.command_output():
        return _main(_parser().parse_args(arguments))


def _main(options: argparse.Namespace) -> int:
    try:
        store, jobs = open_store(options.root), RayJobs(Cluster(options.ray_address))
        stopped = [
            job
            for stage in RESULTS
            for job in stop_alive(jobs, run_prefix(store, options.run, stage) + "-")
        ]
    except PipelineError as error:
        output.say(f"stop: {error}", stream=sys.stderr)
        return error.exit_code
    output.say(
        "\n".join(f"stopped {job}" for job in stopped) or f"no job of {options.run!r} is alive"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.stop",
        description="Stop the jobs of a run on a Ray cluster. What they saved is kept; running the "
        "flow again continues it.",
    )
    parser.add_argument("--run", required=True, metavar="NAME", help="name of the run")
    parser.add_argument(
        "--root", default=DEFAULT_ROOT, metavar="URI", help="its root (default: %(default)s)"
    )
    parser.add_argument(
        "--ray-address", required=True, metavar="URL", help="e.g. http://ray-head:8265"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
