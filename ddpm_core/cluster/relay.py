"""Relay to our output what the workers print, and no log lines of Ray's own."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import ray._private.worker

from ddpm_core.output import say

# A line of Ray's C++: [2026-01-31 12:00:00,000 W 123 456] file.cc:78: ... And torch's for each rank
# of a node whose address has no name, which nothing here needs.
_OF_RAY = re.compile(
    r"\[\d{4}-\d\d-\d\d [\d:,.]+ [A-Z] \d+ \d+\] |.*__ray_tqdm_magic_token__|:\w+:"
    r"|\[W\d{4} [\d:.]+ socket\.cpp:\d+\] \[c10d\] The hostname of the client socket cannot be retr"
)
_TALKATIVE = ("ray._private.worker", "ray.train", "ray.util.state")


def relay_worker_lines() -> None:
    """Print what workers print as it is, once: no colours, no process numbers, no advice of Ray's.

    Also from Ray's side: that a worker died is said by us, in one line, where it matters.
    """
    ray._private.worker.print_to_stdstream = _relay
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _relay(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:  # noqa: ARG001 - Ray's
    if data.get("pid") in ("autoscaler", "raylet"):
        return
    stream = sys.stderr if data["is_err"] else sys.stdout
    elsewhere = data["is_err"] and data.get("ip") != data.get("localhost")
    for line in data.get("lines", []):
        if not _OF_RAY.match(line):
            say(f"{data['ip']}: {line}" if elsewhere else line, stream=stream)
