"""One stage: its job on Ray, followed by a task of Prefect's, or without Prefect.

    finished result there   -> return it; no cluster is touched
    its job is alive        -> attach: a flow that died, or ran twice, is no second training
    otherwise               -> submit the next attempt

Cancelling the flow, and Ctrl-C, stop the job. Losing the flow's process does not: a job on a
cluster goes on, and the next run of the flow attaches to it.
"""

import inspect
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.exceptions import PrefectException, TerminationSignal
from prefect.runtime import flow_run as current_flow_run

from ddpm_core import progress
from ddpm_core.config import RunConfig
from ddpm_core.errors import RETRYABLE_EXIT_CODES, PipelineError
from ddpm_core.runs import chosen
from ddpm_core.runs.run import begin_stage
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from flows import artifacts, console, together
from flows.attempt import make_result, stop_alive
from flows.embedded import Cluster, cluster_at
from flows.links import job_page
from flows.plan import changes_of, job_prefix, resolve, result_of, run_prefix, whole_result_of
from flows.ray_jobs import Job, RayJobs
from flows.record import error_of, explained, logger, say
from flows.together import Together

RETRY_DELAYS_S = [5.0, 30.0]
"""waits before the second and the third attempt; this is the only place that tries again"""
_ENDINGS = (KeyboardInterrupt, TerminationSignal)
"""what ends a flow from outside"""


def is_retryable(_task: Any, task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ANN401
    """Return whether the same again may succeed: storage, cluster; never our errors."""
    error = error_of(state)
    return isinstance(error, PipelineError) and _may_pass(error, attempt=task_run.run_count)


def _may_pass(error: PipelineError, *, attempt: int) -> bool:
    if error.exit_code not in RETRYABLE_EXIT_CODES:
        return False
    if attempt <= len(RETRY_DELAYS_S):
        say(f"{error}\ntrying again in {RETRY_DELAYS_S[attempt - 1]:.0f} s")
    return True


def make_stage(
    stage: str,
    recipe: str,
    root: str,
    run: str | None,
    overrides: dict[str, Any] | None,
    ray_address: str | None,
) -> dict[str, str]:
    """Return where the result of the stage lies, made now if it was not there.

    Raises:
        PipelineError: what ended the stage.
    """
    store, config = resolve(recipe, root=root, run=run, overrides=overrides)
    if STAGES[stage].uses_weights:
        config = chosen.pinned(store, config)  # once: a newer checkpoint may come meanwhile
    begin_stage(store, config)
    result, began = _looked_for(store, config, stage), time.monotonic()
    done, shared = "done already", _together(ray_address)
    if result is None or (shared is not None and shared.is_awaited(stage)):
        with cluster_at(ray_address) as cluster:
            _run_job(cluster, store, config, stage, shared)
        result = whole_result_of(store, config, stage)
        done = f"done in {console.duration(time.monotonic() - began)}"
    if result is None:
        raise PipelineError(f"the result of {stage} under {store.uri} is gone again; run again")
    where = store.uri_of(result.folder)
    say(f"{stage:<9}  {done}: {where}")
    artifacts.publish(store, config, stage, result)
    return {"stage": stage, "result": where}


run_stage = task(
    name="run_stage",
    task_run_name="{stage}",
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=is_retryable,
    cache_policy=NO_CACHE,  # what is done is known by its manifest, also to the next process
    persist_result=False,
)(explained(make_stage))


def make_stage_unrecorded(stage: str, *parameters: Any) -> dict[str, str]:  # noqa: ANN401
    """Do what the task does, with its attempts, where Prefect's API is gone."""
    for attempt, delay_s in enumerate(RETRY_DELAYS_S, start=1):
        try:
            return make_stage(stage, *parameters)
        except PipelineError as error:
            if not _may_pass(error, attempt=attempt):
                raise
        time.sleep(delay_s)
    return make_stage(stage, *parameters)


def _looked_for(store: Store, config: RunConfig, stage: str) -> Manifest | None:
    return result_of(
        store, config, stage, on_damage=lambda words: say(f"{progress.WARNING}{stage}: {words}")
    )


def _together(ray_address: str | None) -> Together | None:
    """Return the stages that share a job with this one: a cluster's jobs have one stage each."""
    return together.current() if ray_address is None else None


def _run_job(
    cluster: Cluster, store: Store, config: RunConfig, stage: str, shared: Together | None
) -> None:
    jobs = RayJobs(cluster)
    log, terminal = logger(), console.shown()
    bar = artifacts.ProgressArtifact(config.name, stage)

    def on_start(job: Job, attached: bool, path: Path | None) -> None:
        first = job.prefix == job_prefix(store, config, stage)
        verb = "attached to the running job" if attached else "started as job"
        verb = verb if first else "runs in job"
        say(f"{stage:<9}  {verb} {job.submission_id}" + (f"  (log: {path})" if path else ""))
        artifacts.publish_job(config.name, stage, job_page(cluster, job.submission_id))

    def on_line(line: str) -> None:
        log.info("%s", line)
        if (found := progress.parse(line, STAGES)) is not None:
            bar.show(found)
            if terminal is not None:
                terminal.progress(found)
        elif terminal is not None and line.startswith(progress.WARNING):
            terminal.warn(line)

    def stops(ending: BaseException) -> bool:
        is_meant = isinstance(ending, _ENDINGS) and _is_meant_for_the_job(ending)
        if is_meant:
            say(f"{stage:<9}  stopping the job")
        return is_meant

    python = sys.executable if cluster.is_embedded else "python"
    try:
        make_result(
            jobs, store, config, stage,
            python=python, on_start=on_start, on_line=on_line, stops=stops, together=shared,
        )  # fmt: skip
    except _ENDINGS as ending:
        if _is_meant_for_the_job(ending):  # also of one that was submitted and is not followed yet
            mine = job_prefix(store, config, stage)
            stop_alive(jobs, mine if shared is None or shared.job is None else shared.job)
        raise


def stop_shared_job(ending: BaseException, ray_address: str | None) -> None:
    """Stop the job that the stages of a flow share, if it is still at work and is to end."""
    shared = _together(ray_address)
    if shared is None or shared.job is None or not _is_meant_for_the_job(ending):
        return
    with cluster_at(ray_address) as cluster:
        stop_alive(RayJobs(cluster), shared.job)


def _is_meant_for_the_job(ending: BaseException) -> bool:
    """Tell "stop this training" from "this process must go".

    A signal from Prefect's runner means the former only if the run is being cancelled; Ctrl-C
    does if a person typed it at our own command line, not at a worker's.
    """
    runner_s_flow_run = os.environ.get("PREFECT__FLOW_RUN_ID")
    if isinstance(ending, KeyboardInterrupt):
        return runner_s_flow_run is None
    ids = {str(one) for one in (runner_s_flow_run, current_flow_run.id) if one}
    try:
        with get_client(sync_client=True) as client:
            states = [client.read_flow_run(UUID(one)).state for one in ids]
    except (httpx.HTTPError, PrefectException, OSError):
        return False
    return any(state is not None and state.is_cancelling() for state in states)


def stop_jobs(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ANN401, ARG001
    """Stop what a cancelled flow run left on its cluster: the second line, run by the worker."""
    declared = inspect.signature(flow.fn).parameters.values()
    # A flow run has on record what it was given, and not what it left to the defaults.
    given = {one.name: one.default for one in declared} | flow_run.parameters
    if given["ray_address"] is None:
        return  # the embedded Ray ended with the flow's process
    recipe = given["recipe"]
    said = {key: given[key] for key in ("overrides", "size", "scale", "data")}
    changes = changes_of(recipe, **said)
    store, config = resolve(recipe, root=given["root"], run=given["run"], overrides=changes)
    jobs = RayJobs(Cluster(given["ray_address"]))
    for stage in STAGES:
        stop_alive(jobs, run_prefix(store, config.name, stage) + "-")
