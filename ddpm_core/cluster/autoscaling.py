"""Nodes that an autoscaler starts: requested and waited for, where the cluster says it has one.

    DDPM_WAIT_FOR_NODES_S   seconds that a stage waits for nodes which are started for it

Without it a cluster that is too small is refused within seconds, as Ray itself would wait for ever.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence

from ray.autoscaler.sdk import request_resources

from ddpm_core.errors import ConfigError
from ddpm_core.output import say

PATIENCE_VARIABLE = "DDPM_WAIT_FOR_NODES_S"
_LOOK_EVERY_S = 1.0


def patience_s() -> float | None:
    """Return what the environment of the cluster's head says; None: it says nothing.

    Raises:
        ConfigError: it is no number above 0.
    """
    text = os.environ.get(PATIENCE_VARIABLE, "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{PATIENCE_VARIABLE}={text} must be a number of seconds above 0")
    return seconds


def wait_for_nodes(
    needed: Sequence[Mapping[str, float]], are_there: Callable[[], bool], patience_s: float
) -> None:
    """Request nodes for all of `needed` at once, and wait until they are there, or no longer.

    Args:
        needed: for each worker what Ray calls its resources.
        are_there: called once a second.
        patience_s: seconds to wait.
    """
    say(f"waiting up to {patience_s:g} s for nodes with room for {len(needed)} worker(s)")
    deadline = time.monotonic() + patience_s
    try:
        while True:
            # Again each time: a cluster has one request, and that of another stage replaces ours.
            request_resources(bundles=[dict(one) for one in needed])
            if are_there() or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_EVERY_S)
    finally:
        request_resources(bundles=[])  # else it would hold the nodes when nobody needs them
