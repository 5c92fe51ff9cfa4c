"""Work on the missing units of a whole with a pool of actors, which publish unit after unit."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ddpm_core import cluster
from ddpm_core.cluster import GetDevice
from ddpm_core.config import ComputeConfig
from ddpm_core.progress import Progress
from ddpm_core.units.units import U


def _one(_unit: object) -> int:
    return 1


def work_on(
    make_worker: Callable[[dict[str, Any], GetDevice], Callable[[U], object]],
    payload: Mapping[str, Any],
    missing: Sequence[U],
    compute: ComputeConfig,
    *,
    whole: Progress,
    size: Callable[[U], int] = _one,
    note: Callable[[U, float], str],
) -> None:
    """Work on the missing units on actors, which publish them, and show the progress.

    Args:
        make_worker: as `cluster.map_units`; its function publishes what a unit comes to.
        payload: JSON values.
        missing: of all units, those that are not finished; with none nothing is started.
        compute: how many workers, and with what.
        whole: how far the stage is once everything is finished.
        size: how much of that a unit is.
        note: returns what to say of the unit that was finished last, given how much is done in a
            second.

    Raises:
        PipelineError, ClusterError: as `cluster.map_units`; what was published is kept.
    """
    kept = whole.total - sum(map(size, missing))
    replace(whole, done=kept).show()
    if not missing:
        return
    done, started = 0, time.monotonic()

    def on_done(unit: U, _result: object) -> None:
        nonlocal done
        done += size(unit)
        rate = done / (time.monotonic() - started)
        replace(whole, done=kept + done, note=note(unit, rate)).show()

    with cluster.connect(compute):
        cluster.map_units(make_worker, dict(payload), missing, compute, on_done=on_done)
