"""Runs that MLflow shows as RUNNING although nothing works on them: each gets the end it had.

A stage notes in a tag which process begins it. After `kill -9` of everything, or if the server was
away at its end, the next stage below this root, or `make ui`, ends the run: of a process of this
machine as soon as it is gone, of another machine's after an hour in which MLflow got nothing of the
run, to which a stage at work reports the load of its machine every ten seconds.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddpm_core.config import RunConfig
from ddpm_core.errors import PipelineError
from ddpm_core.runs import layout
from ddpm_core.runs.process import Process, this_process
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.storage import Store
from ddpm_core.tracking.identity import RUN_URI, is_of_folder
from ddpm_core.tracking.mlflow_run import STAGE_TAG, answers
from ddpm_core.tracking.receiver import Refused

SILENCE_S = 3600.0
"""how long a run of another machine may be silent: longer than two clocks differ, and than a server
is restarted"""
_PROCESS_TAG = "ddpm.process."
_MAX_RUNS = 1000


def process_tag(stage: str) -> dict[str, str]:
    """Return the tag that says that this process begins `stage` now."""
    return {_PROCESS_TAG + stage: json.dumps({**asdict(this_process()), "since": time.time()})}


def end_killed(client: Any, experiment_id: str, store: Store) -> list[str]:  # noqa: ANN401
    """End the runs below this root that are RUNNING and that no process works on.

    A stage whose result is there is done, and its run FINISHED: only its end did not arrive. Else
    the run was KILLED. Both end when MLflow got the last of it.

    Args:
        client: a `MlflowClient`.
        experiment_id: of the experiment there.
        store: the root.

    Returns:
        A line for each run that was ended.

    Raises:
        Unreachable, Refused: the server or the storage does not answer, or refuses.
    """
    above = store.uri_of(layout.run_folder("r")).removesuffix("r")
    with answers():
        running = client.search_runs(
            [experiment_id], "attributes.status = 'RUNNING'", max_results=_MAX_RUNS
        )
        lines = []
        for run in running:
            place = run.data.tags.get(RUN_URI, "")
            if place.startswith(above):
                # Another machine may have a folder of this path too.
                is_ours = is_of_folder(store, place.removeprefix(above), run.data.tags)
                lines.append(_end(client, store if is_ours else None, run))
    return [line for line in lines if line is not None]


def _end(client: Any, store: Store | None, run: Any) -> str | None:  # noqa: ANN401
    """End one run if it has no process; return what is to be said of it.

    Args:
        client: a `MlflowClient`.
        store: the root; None where the run's folder is not below it, or not any more.
        run: as it was found.
    """
    last_ms = _last_sign_ms(run)
    may_be_at_work = store is None or time.time() - last_ms / 1000 < SILENCE_S
    at_work = _stages(run, "running")
    noted = [_noted(run.data.tags, stage) for stage in at_work]
    alive = [one[0].is_running if one and one[0].is_here else may_be_at_work for one in noted]
    if any(alive or [may_be_at_work]):
        return None
    config = _config(client, run)
    states = {one: "done" if _is_done(store, config, one) else "interrupted" for one in at_work}
    is_done = "interrupted" not in states.values() and bool(at_work or _stages(run, "done"))
    status = "FINISHED" if is_done else "KILLED"
    # It may have ended, or been begun anew, since it was read; a process that is gone writes no
    # more.
    now = client.get_run(run.info.run_id)
    if now.info.status != "RUNNING" or _begun(now) != _begun(run):
        return None
    for stage, state in states.items():
        client.set_tag(run.info.run_id, STAGE_TAG + stage, state)
    client.set_terminated(run.info.run_id, status, last_ms)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(last_ms / 1000))
    return f"MLflow: {run.info.run_name}: nothing works on it any more; {status} at {when} UTC"


def _stages(run: Any, state: str) -> list[str]:  # noqa: ANN401
    """Return the stages that MLflow shows in this state."""
    names = {key.removeprefix(STAGE_TAG): v for key, v in run.data.tags.items()}
    return [name for name in STAGES if names.get(name) == state]


def _begun(run: Any) -> dict[str, str]:  # noqa: ANN401
    """Return what the stages of a run, and their processes, are."""
    tags = run.data.tags.items()
    return {key: value for key, value in tags if key.startswith((_PROCESS_TAG, STAGE_TAG))}


def _last_sign_ms(run: Any) -> int:  # noqa: ANN401
    """Return when MLflow got the last that tells the time: a metric, or the start of a stage."""
    times = [int(metric.timestamp) for metric in run.to_proto().data.metrics]
    noted = (_noted(run.data.tags, stage) for stage in STAGES)
    times += [int(1000 * one[1]) for one in noted if one is not None]
    return max([int(run.info.start_time), *times])


def _noted(tags: Mapping[str, str], stage: str) -> tuple[Process, float] | None:
    """Return which process began a stage, and when, in seconds since the epoch."""
    with suppress(KeyError, ValueError, TypeError):
        values = json.loads(tags[_PROCESS_TAG + stage])
        since = float(values.pop("since"))
        return Process(**values), since
    return None


def _config(client: Any, run: Any) -> RunConfig | None:  # noqa: ANN401
    """Return the configuration that was logged to a run; None if it did not arrive."""
    with suppress(Refused), answers(), tempfile.TemporaryDirectory() as scratch:
        file = client.download_artifacts(run.info.run_id, "run.json", scratch)
        return RunConfig.from_json(Path(file).read_bytes(), origin="run.json")
    return None


def _is_done(store: Store | None, config: RunConfig | None, stage: str) -> bool:
    if store is None or config is None:
        return False
    try:
        return STAGES[stage].result(store, config) is not None
    except PipelineError:  # damaged: the stage makes it anew
        return False
