"""The stages as flows of Prefect, and what a flow of several stages does; see `one_stage`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from pydantic import TypeAdapter, WithJsonSchema

from ddpm_core.config.run import RUN_NAME_PATTERN
from ddpm_core.recipes import recipe
from ddpm_core.runs.run import DEFAULT_ROOT, check_run
from ddpm_core.servers.server import use_directly
from flows import artifacts
from flows.embedded import shared_ray
from flows.one_stage import make_stage_unrecorded, run_stage, stop_jobs, stop_shared_job
from flows.plan import check, resolve
from flows.record import explained, one_record
from flows.together import one_job

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


def _shown_as(kind: str, **rules: Any) -> WithJsonSchema:  # noqa: ANN401
    """Return the form of a parameter that may be left out.

    The rules stand beside the choice of types, not within it: of what stands there Prefect says
    only that it is not valid, and not why.
    """
    return WithJsonSchema({"anyOf": [{"type": kind}, {"type": "null"}], **rules})


RunName = Annotated[str | None, _shown_as("string", pattern=RUN_NAME_PATTERN)]
"""a wrong name is refused by Prefect's form, and by its server, before there is a flow run"""
Value = bool | int | float | str | list[int] | None
Overrides = Annotated[
    dict[str, Value] | None,
    _shown_as(
        "object",
        propertyNames={"enum": list(recipe("digits").flat())},
        additionalProperties=TypeAdapter(Value).json_schema(),
        examples=[{"train.num_steps": 500, "compute.num_workers": 4}],
    ),
]
"""section.key -> value; a form or a command that gives anything else, such as a nested section or
a wrong key, is refused by Prefect before there is a flow run"""
Stage = Callable[..., dict[str, str]]

T = TypeVar("T")


class _NameOfRun(str):
    """What Prefect formats, with a flow's parameters, to the name of its flow run.

    A plain template would call a run without a name "None"; a function is not given the parameters.
    """

    def format(self, *_: object, **parameters: object) -> str:
        return str(parameters["run"] or parameters["recipe"])


def recorded(name: str) -> Callable[[Callable[..., T]], Flow[..., T]]:
    """Return the decorator that makes a flow of this name of a function with our parameters."""
    made = flow(
        name=name,
        flow_run_name=_NameOfRun("{run}"),
        on_cancellation=[stop_jobs],
        persist_result=False,
    )
    return lambda function: made(explained(function))


def run_all(
    stages: Sequence[Stage],
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
    check_run(store, config)
    check(store, config, names, ray_address, look=False)
    parameters = (recipe, store.uri, config.name, overrides, ray_address)
    results = []
    use_directly()
    with shared_ray(), one_record() as record, one_job(names):
        try:
            for stage, name in zip(stages, names, strict=True):
                without = partial(make_stage_unrecorded, name, *parameters)
                results.append(record.of(name, partial(stage, *parameters), without))
        except (KeyboardInterrupt, TerminationSignal) as ending:
            # Between two stages nobody else does: the job is in the next one by then.
            stop_shared_job(ending, ray_address)
            raise
    artifacts.publish_run(store, config)
    return results


def _stage_in_prefect(stage: str, *parameters: Any) -> dict[str, str]:  # noqa: ANN401
    """Return what the task of the stage does.

    Raises:
        PipelineError: what its state says; Prefect would make "1/1 states failed" of it.
    """
    made: Any = run_stage(stage, *parameters)
    if isinstance(made, State):
        made.result()
    result: dict[str, str] = made
    return result


def run_flow(
    called: Callable[..., Any], names: Sequence[str], parameters: dict[str, Any]
) -> list[dict[str, str]]:
    """Run the flow of these stages; if Prefect's API is lost, finish them without it.

    Raises:
        PipelineError: what ended it.
    """
    given = [parameters[key] for key in ("recipe", "root", "run", "overrides", "ray_address")]
    with one_record() as record:

        def rest() -> list[dict[str, str]]:
            done = record.results
            with shared_ray(), one_job(names):
                return [done.get(name) or make_stage_unrecorded(name, *given) for name in names]

        return record.of("all", partial(called, **parameters), rest)


@recorded("shard-dataset")
def shard_dataset(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: RunName = None,
    overrides: Overrides = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Write the data set as WebDataset shards with an index; parameters as of `train-ddpm`."""
    return _stage_in_prefect("shard", recipe, root, run, overrides, ray_address)


@recorded("train")
def train(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: RunName = None,
    overrides: Overrides = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Train the U-Net, from the newest checkpoint on; parameters as of `train-ddpm`."""
    return _stage_in_prefect("train", recipe, root, run, overrides, ray_address)


@recorded("sample")
def sample(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: RunName = None,
    overrides: Overrides = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Draw images from the trained model; parameters as of `train-ddpm`."""
    return _stage_in_prefect("sample", recipe, root, run, overrides, ray_address)


@recorded("evaluate")
def evaluate(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: RunName = None,
    overrides: Overrides = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Measure bits/dim and Frechet distance; parameters as of `train-ddpm`."""
    return _stage_in_prefect("evaluate", recipe, root, run, overrides, ray_address)


@recorded("study")
def study(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: RunName = None,
    overrides: Overrides = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Measure and draw what else the paper claims; parameters as of `train-ddpm`."""
    return _stage_in_prefect("study", recipe, root, run, overrides, ray_address)


@recorded("ablations")
def ablations(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: RunName = None,
    overrides: Overrides = None,
    ray_address: str | None = None,
) -> dict[str, str]:
    """Run the paper's six ablations and draw its table 2; parameters as of `train-ddpm`."""
    return _stage_in_prefect("ablations", recipe, root, run, overrides, ray_address)
