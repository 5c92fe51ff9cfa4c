"""The command ddpm: `ddpm run`, which is `flows.train_ddpm`, and each command of `ddpm_core`.

It stands here, since the library does not know its flows.
"""

import sys
from collections.abc import Mapping
from functools import partial

from ddpm_core.__main__ import Outer
from ddpm_core.__main__ import main as stage_main
from flows.command_line import TRAIN_DDPM, main

FLOWS: Mapping[str, Outer] = {
    "run": Outer(
        "run the whole pipeline: shard, train, sample and evaluate, each as a job on Ray",
        partial(main, TRAIN_DDPM, prog="ddpm run"),
    ),
}


def script() -> None:
    """Be the command `ddpm`."""
    sys.exit(stage_main(outer=FLOWS))
