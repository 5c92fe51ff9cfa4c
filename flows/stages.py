"""The stages as flows. A stage is a job on Ray; its task only sees to it that there is one.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
from prefect import flow, get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.exceptions import PrefectException, TerminationSignal
from prefect.runtime import flow_run as current_flow_run

from ddpm_core import progress
from ddpm_core.config import RunConfig
from ddpm_core.errors import RETRYABLE_EXIT_CODES, PipelineError
from ddpm_core.runs import DEFAULT_ROOT, open_run, open_stage
from ddpm_core.storage import Store
from flows import artifacts, console
from flows.attempt import make_result, stop_alive
from flows.embedded import Cluster, cluster_at, shared_ray
from flows.plan import RESULTS, check_machine, is_done, job_prefix, resolve, run_prefix
from flows.ray_jobs import Job, RayJobs

RETRY_DELAYS_S = [5.0, 30.0]
"""waits before the second and the third attempt; this is the only place that tries again"""

Recipe = Literal[
    "digits",
    "mnist",
    "fashion-mnist",
    "images",
    "cifar10",
    "celebahq",
    "lsun-bedroom",
    "lsun-bedroom-large",
    "lsun-church",
    "lsun-cat",
]
"""the names in `ddpm_core.recipes`, spelt out so that Prefect's form offers them"""
Overrides = dict[str, bool | int | float | str | list[int] | None]
"""section.key -> value; a form or a command that gives anything else, such as a nested section, is
refused by Prefect before there is a flow run"""


def is_retryable(_task: Any, task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ANN401
    """Return whether the same again may succeed: storage, cluster; never our errors."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, PipelineError) or error.exit_code not in RETRYABLE_EXIT_CODES:
        return False
    number = task_run.run_count
    if number <= len(RETRY_DELAYS_S):
        _say(f"{error}\ntrying again in {RETRY_DELAYS_S[number - 1]:.0f} s")
    return True


@task(
    task_run_name="{stage}",
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=is_retryable,
    cache_policy=NO_CACHE,  # what is done is known by its manifest, also to the next process
    persist_result=False,
)
def run_stage(
    stage: str,
    recipe: str,
    root: str,
    run: str | None,
    overrides: dict[str, Any] | None,
    ray_address: str | None,
) -> dict[str, str]:
    """Return where the result of the stage lies, made now if it was not there."""
    store, config = resolve(recipe, root=root, run=run, overrides=overrides)
    config = open_stage(store, config)
    result, began = RESULTS[stage](store, config), time.monotonic()
    if result is None:
        with cluster_at(ray_address) as cluster:
            _run_job(cluster, store, config, stage)
        result = RESULTS[stage](store, config)
        _say(f"{stage:<9}  done in {console.duration(time.monotonic() - began)}")
    else:
        _say(f"{stage:<9}  done already")
    if result is None:
        raise PipelineError(f"the result of {stage} under {store.uri} is gone again; run again")
    artifacts.publish(store, config, stage, result)
    return {"stage": stage, "result": store.uri_of(result.folder)}


def _run_job(cluster: Cluster, store: Store, config: RunConfig, stage: str) -> None:
    jobs = RayJobs(cluster)
    logger, terminal = get_run_logger(), console.shown()
    bar = artifacts.ProgressArtifact(config.name, stage)

    def on_start(job: Job, attached: bool, log: Path | None) -> None:
        verb = "attached to the running job" if attached else "started as job"
        _say(f"{stage:<9}  {verb} {job.submission_id}" + (f"  (log: {log})" if log else ""))

    def on_line(line: str) -> None:
        logger.info("%s", line)
        if (found := progress.parse(line)) is not None:
            bar.show(found)
            if terminal is not None:
                terminal.progress(found)
        elif terminal is not None and line.startswith(progress.WARNING):
            terminal.say(line)

    python = sys.executable if cluster.is_embedded else "python"
    try:
        make_result(jobs, store, config, stage, python=python, on_start=on_start, on_line=on_line)
    except (KeyboardInterrupt, TerminationSignal) as ending:
        if _is_meant_for_the_job(ending):
            _say(f"{stage:<9}  stopping the job")
            stop_alive(jobs, job_prefix(store, config, stage))
        raise


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
    store, config = resolve(
        given["recipe"], root=given["root"], run=given["run"], overrides=given["overrides"]
    )
    jobs = RayJobs(Cluster(given["ray_address"]))
    for stage in RESULTS:
        stop_alive(jobs, run_prefix(store, config.name, stage) + "-")


def _say(text: str) -> None:
    if (terminal := console.shown()) is not None:
        terminal.say(text)
    get_run_logger().info("%s", text)


def run_all(
    stages: Sequence[Callable[..., dict[str, str]]],
    names: Sequence[str],
    recipe: str,
    root: str,
    run: str | None,
    overrides: dict[str, Any] | None,
    ray_address: str | None,
) -> list[dict[str, str]]:
    """Run these flows one after the other, on one Ray; parameters as of `train-ddpm`.

    Args:
        stages: the flows.
        names: of their stages; if all are done, nothing is checked and nothing starts.
        recipe: what they are given, as are the rest.
        root: of the run.
        run: its name.
        overrides: keys to change.
        ray_address: of a cluster.
    """
    store, config = resolve(recipe, root=root, run=run, overrides=overrides)
    if not is_done(store, config, names):
        check_machine(config, ray_address)
    open_run(store, config)
    with shared_ray():
        return [stage(recipe, store.uri, config.name, overrides, ray_address) for stage in stages]


@flow(name="shard-dataset", on_cancellation=[stop_jobs], persist_result=False)
def shard_dataset(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: str | None = None,
    overrides: Overrides | None = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Write the data set as WebDataset shards with an index; parameters as of `train-ddpm`."""
    return run_stage("shard", recipe, root, run, overrides, ray_address)


@flow(name="train", on_cancellation=[stop_jobs], persist_result=False)
def train(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: str | None = None,
    overrides: Overrides | None = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Train the U-Net, from the newest checkpoint on; parameters as of `train-ddpm`."""
    return run_stage("train", recipe, root, run, overrides, ray_address)


@flow(name="sample", on_cancellation=[stop_jobs], persist_result=False)
def sample(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: str | None = None,
    overrides: Overrides | None = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Draw images from the trained model; parameters as of `train-ddpm`."""
    return run_stage("sample", recipe, root, run, overrides, ray_address)


@flow(name="evaluate", on_cancellation=[stop_jobs], persist_result=False)
def evaluate(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: str | None = None,
    overrides: Overrides | None = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Measure bits/dim and Frechet distance; parameters as of `train-ddpm`."""
    return run_stage("evaluate", recipe, root, run, overrides, ray_address)


@flow(name="study", on_cancellation=[stop_jobs], persist_result=False)
def study(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: str | None = None,
    overrides: Overrides | None = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Measure and draw what else the paper claims; parameters as of `train-ddpm`."""
    return run_stage("study", recipe, root, run, overrides, ray_address)


@flow(name="ablations", on_cancellation=[stop_jobs], persist_result=False)
def ablations(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: str | None = None,
    overrides: Overrides | None = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Run the paper's six ablations and draw its table 2; parameters as of `train-ddpm`."""
    return run_stage("ablations", recipe, root, run, overrides, ray_address)
