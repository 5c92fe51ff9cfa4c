"""The stages as flows of Prefect, and what a flow of several stages does; see `one_stage`.

Each stage of the table is an attribute here: `flows/stages.py:train`, `:shard_dataset`, ...
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Annotated, Any, Literal, TypeVar

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from pydantic import TypeAdapter, WithJsonSchema

from ddpm_core.config import RUN_NAME_PATTERN, RunConfig
from ddpm_core.config.data_ref import SETS_PATTERN
from ddpm_core.recipes.sizes import SCALES, SIZES, Scale, Size
from ddpm_core.runs import prompt_file
from ddpm_core.runs.run import DEFAULT_ROOT, check_run
from ddpm_core.runs.stages import STAGES, Pipeline, Stage, stages_of
from ddpm_core.servers.server import use_directly
from flows import artifacts
from flows.embedded import shared_ray
from flows.one_stage import make_stage_unrecorded, run_stage, stop_jobs, stop_shared_job
from flows.plan import changes_of, check, resolve, with_weights
from flows.record import explained, one_record
from flows.together import one_job

Recipe = Literal[
    "digits",
    "digits-dit",
    "digits-classes",
    "digits-classifier",
    "digits-clip",
    "digits-ddim",
    "digits-upscale",
    "digits-4",
    "digits-cascade",
    "digits-vp",
    "digits-flow",
    "digits-edm",
    "digits-few",
    "glide-small",
    "mnist",
    "mnist-classes",
    "mnist-classifier",
    "fashion-mnist",
    "images",
    "heartbeat",
    "swiss-roll",
    "digits-2015",
    "mnist-2015",
    "cifar10",
    "cifar10-classes",
    "cifar10-classifier",
    "cifar10-ddim",
    "cifar10-2015",
    "cifar10-vp",
    "cifar10-subvp",
    "cifar10-ve",
    "cifar10-edm",
    "cifar10-edm-augmented",
    "celebahq",
    "lsun-bedroom",
    "lsun-bedroom-large",
    "lsun-church",
    "lsun-cat",
    "adm",
    "adm-classes",
    "glide",
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
DataSet = Annotated[str | None, _shown_as("string", pattern=SETS_PATTERN)]
"""of the data set that is there already; a wrong name is refused in the same way"""
ImageSize = Annotated[Size | None, _shown_as("integer", enum=[*SIZES, None])]
ImageScale = Annotated[Scale | None, _shown_as("string", enum=[*SCALES, None])]
"""of the recipe images; any other is refused in the same way"""
Value = bool | int | float | str | list[int | float | str | dict[str, int | float | str]] | None
Overrides = Annotated[
    dict[str, Value] | None,
    _shown_as(
        "object",
        propertyNames={"enum": RunConfig.keys()},
        additionalProperties=TypeAdapter(Value).json_schema(),
        examples=[{"train.num_steps": 500, "compute.num_workers": 4}],
    ),
]
"""section.key -> value; a form or a command that gives anything else, such as a nested section or
a wrong key, is refused by Prefect before there is a flow run"""

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
    pipeline: Pipeline,
    recipe: str,
    root: str,
    run: str | None,
    overrides: dict[str, Any] | None,
    ray_address: str | None,
) -> list[dict[str, str]]:
    """Run the flows of a pipeline's stages one after the other, on one Ray.

    Args:
        pipeline: which; if all its stages are done, nothing is checked and nothing starts.
        recipe: what their flows are given, as are the rest.
        root: of the run.
        run: its name.
        overrides: keys to change.
        ray_address: of a cluster.
    """
    store, config = resolve(recipe, root=root, run=run, overrides=overrides)
    names = stages_of(pipeline, config.role)
    check_run(store, config)
    check(store, config, names, ray_address, look=False)
    overrides = prompt_file.pinned(config, with_weights(store, config, overrides))
    parameters = (recipe, store.uri, config.name, overrides, ray_address)
    results = []
    use_directly()
    with shared_ray(), one_record() as record, one_job(names):
        try:
            for name in names:
                call = partial(flow_of(STAGES[name]), *parameters)
                without = partial(make_stage_unrecorded, name, *parameters)
                results.append(record.of(name, call, without))
        except (KeyboardInterrupt, TerminationSignal) as ending:
            # Between two stages no task does: the job is in the next one by then.
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


@cache
def flow_of(stage: Stage) -> Flow[..., dict[str, str]]:
    """Return the flow of one stage."""

    def make(
        recipe: Recipe = "digits",
        root: str = DEFAULT_ROOT,
        run: RunName = None,
        overrides: Overrides = None,
        ray_address: str | None = None,
        size: ImageSize = None,
        scale: ImageScale = None,
        data: DataSet = None,
    ) -> dict[str, str]:
        changes = changes_of(recipe, overrides=overrides, size=size, scale=scale, data=data)
        return _stage_in_prefect(stage.name, recipe, root, run, changes, ray_address)

    make.__name__ = make.__qualname__ = _attribute(stage)  # where Prefect finds it again
    make.__doc__ = f"{stage.help[0].upper()}{stage.help[1:]}; parameters as of `train-ddpm`."
    return recorded(stage.flow or stage.name)(make)


def __getattr__(name: str) -> Flow[..., dict[str, str]]:
    """Return the flow of a stage as an attribute, so that `flows/stages.py:train` names it."""
    for stage in STAGES.values():
        if _attribute(stage) == name:
            return flow_of(stage)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _attribute(stage: Stage) -> str:
    return (stage.flow or stage.name).replace("-", "_")
