"""The stages of the pipeline: all that flows, command lines and tables know of each.

A new stage is an entry here and the module that makes its result (docs/decisions/0016). Knows no
torch: that module is imported when the stage runs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal, NoReturn

from ddpm_core.config import Role, RunConfig
from ddpm_core.errors import CheckpointError, ConfigError, DataError, PipelineError
from ddpm_core.runs import layout, refusals, results
from ddpm_core.runs.numbers import EVALUATION, Numbers
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store

Pipeline = Literal["train-ddpm", "paper"]
Section = Literal["sample", "evaluate", "study"]
"""of a configuration: may differ between the results of one trained run"""
Check = Literal["images", "cores", "features", "ablations"]
"""what is looked at before a stage, or one before it, begins:

images: the source of the images, unless they are sharded already: the stage can be a run's first
cores: whether the workers have room on this machine
features: the feature network that the stage, or a later one after its days of work, measures with
ablations: the six runs that are made of this one
"""
Absence = tuple[type[PipelineError], str]
"""the error that refuses a stage without this input, and what follows "STAGE needs " in it"""


def _not_there(store: Store, config: RunConfig) -> Absence:
    return DataError, f"a result that run {config.name!r} below {store.uri} lacks; make it first"


def _not_trained(store: Store, config: RunConfig) -> Absence:
    if config.sample.model is not None:
        absence = refusals.absence(store, config)
        return CheckpointError, f"its weights, and {absence}; name one of them, or train further"
    found = f"no run {config.name!r} below {store.uri}"
    folder = layout.run_folder(config.name)
    places = {"run.json", *(stage.place for stage in STAGES.values())}
    if not places.isdisjoint(store.names(folder)):
        found = f"no checkpoint of step {config.train.num_steps} in {store.uri_of(folder)}"
    return CheckpointError, f"a trained run, and there is {found}; train it first"


def _not_drawn(_store: Store, config: RunConfig) -> Absence:
    return DataError, (
        f"the samples of run {config.name!r} that sample={{...}} of this configuration asks for, "
        "and they are not there; draw them first"
    )


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline."""

    name: str
    """the verb of the command line"""
    help: str
    entry: str
    """module:function, called with the store and the configuration"""
    result: Callable[[Store, RunConfig], Manifest | None]
    """returns it; None while it is not complete; raises if it is damaged or another's"""
    place: str
    """what it leaves in the run's folder: a file, or the folder of its results"""
    absence: Callable[[Store, RunConfig], Absence] = _not_there
    """returns why a stage is refused that needs this one's result and finds none"""
    serves: Callable[[Store, RunConfig], object | None] | None = None
    """returns what later stages need of it, None while that is not there; by default its result"""
    needs: tuple[str, ...] = ()
    """stages whose results must be there, or be made before it by the same command, as far as the
    run has them"""
    roles: tuple[Role, ...] = ("denoiser",)
    """of the networks whose runs have it"""
    checks: tuple[Check, ...] = ()
    sections: tuple[Section, ...] = ()
    """which, beside the experiment, determine its result. With any, a run may have several, each in
    a folder of its fingerprint under `place`"""
    numbers: Numbers = field(default_factory=Numbers)
    cover: str | None = None
    """role of the picture that a summary of the whole run shows"""
    pictures: tuple[str, ...] = ()
    """roles of the pictures on its own page in Prefect's UI"""
    pipelines: tuple[Pipeline, ...] = ("train-ddpm", "paper")
    """which run it"""
    flow: str = ""
    """the name of its flow in Prefect; by default its own"""
    label: str = ""
    """what a summary calls its result; by default its own name"""
    is_delivered: bool = True
    """whether MLflow gets its result: the data set it gets as an input of the run"""
    is_training: bool = False
    """whether it draws curves in MLflow, and says itself how long it will take"""

    @property
    def uses_weights(self) -> bool:
        """Whether it takes `sample.model`."""
        return any(STAGES[need].is_training for need in self.needs)

    def load(self) -> Callable[[Store, RunConfig], object]:
        """Import the function of this stage, and no other's: each brings its own vendors."""
        module, _, name = self.entry.partition(":")
        function: Callable[[Store, RunConfig], object] = getattr(import_module(module), name)
        return function


_EVERY_ROLE: tuple[Role, ...] = ("denoiser", "classifier", "clip", "text")

_ENTRIES = (
    Stage(
        name="shard",
        help="write the data set as WebDataset shards with an index",
        entry="ddpm_core.sharding.stage:run_shard",
        result=results.dataset_of,
        place="dataset.json",
        label="shards",
        roles=_EVERY_ROLE,
        checks=("images",),
        flow="shard-dataset",
        is_delivered=False,
    ),
    Stage(
        name="train",
        help="train the network with Ray Train; continues from the newest checkpoint",
        entry="ddpm_core.training.stage:run_train",
        result=results.final_checkpoint,
        serves=results.weights_of,
        place="checkpoints",
        label="checkpoint",
        absence=_not_trained,
        roles=_EVERY_ROLE,
        checks=("images", "cores", "features"),
        is_training=True,
    ),
    Stage(
        name="sample",
        help="draw images from the moving average of the weights on a pool of Ray actors",
        entry="ddpm_core.sampling.stage:run_sample",
        result=results.samples_of,
        place="samples",
        label="samples",
        absence=_not_drawn,
        needs=("train",),
        checks=("cores",),
        sections=("sample",),
        cover="grid",
        pictures=("grid",),
    ),
    Stage(
        name="evaluate",
        help="measure bits/dim, Frechet distance and inception score; of what guides its accuracy",
        entry="ddpm_core.evaluation.stage:run_evaluate",
        result=results.evaluation_of,
        place="evaluation",
        label="figures",
        needs=("train", "sample"),
        roles=_EVERY_ROLE,
        checks=("cores", "features"),
        sections=("sample", "evaluate"),
        numbers=EVALUATION,
    ),
    Stage(
        name="study",
        help="measure and draw what else the paper claims: coding, samplers, trajectories, memory",
        entry="ddpm_core.study.stage:run_study",
        result=results.study_of,
        place="study",
        needs=("train", "sample"),
        checks=("cores", "features"),
        sections=("sample", "evaluate", "study"),
        pictures=("coding-figure", "samplers-figure"),
        pipelines=("paper",),
    ),
    Stage(
        name="ablations",
        help="train, sample and measure the paper's six ablations, and set them side by side",
        entry="ddpm_core.study.ablations:run_ablations",
        result=results.ablations_of,
        place="ablations",
        checks=("cores", "features", "ablations"),
        sections=("sample", "evaluate", "study"),
        pictures=("distances-figure", "samples-sheet"),
        pipelines=("paper",),
    ),
)
STAGES = {stage.name: stage for stage in _ENTRIES}
"""name -> stage, in the order of the pipeline"""


def stages_of(pipeline: Pipeline, role: Role = "denoiser") -> tuple[str, ...]:
    """Return the names of the stages that a pipeline runs, in their order.

    Args:
        pipeline: which.
        role: of the run's network: of those that are not the pipeline's, the run has no results.
    """
    return tuple(
        name
        for name, stage in STAGES.items()
        if pipeline in stage.pipelines and role in stage.roles
    )


def needs_of(stage: str, role: Role) -> tuple[str, ...]:
    """Return the stages that a stage of such a run needs."""
    return tuple(need for need in STAGES[stage].needs if role in STAGES[need].roles)


def require_stages(config: RunConfig, stages: Iterable[str]) -> None:
    """Refuse stages that a run of this network does not have.

    Raises:
        ConfigError: with those that it has.
    """
    for stage in stages:
        if config.role not in STAGES[stage].roles:
            refuse_role(config, stage)


def require_denoiser(config: RunConfig, command: str) -> None:
    """Refuse a command that is of networks that draw images, for a run of another.

    Raises:
        ConfigError: with the stages that it has.
    """
    if config.role != "denoiser":
        refuse_role(config, command)


def refuse_role(config: RunConfig, what: str) -> NoReturn:
    has = ", ".join(stages_of("train-ddpm", config.role))
    said = (
        f"{what} is of networks that draw images, and run {config.name!r} draws none (model.kind="
        f"{config.model.kind}): it has the stages {has}"
    )
    if config.role == "text":
        raise ConfigError(said)
    raise ConfigError(
        f"{said}. To draw with it, give another run --set sample.guidance_by={config.name}"
    )


def any_checks(stages: Iterable[str], check: Check) -> bool:
    """Return whether one of these stages is to be checked so before it begins."""
    return any(check in STAGES[name].checks for name in stages)
