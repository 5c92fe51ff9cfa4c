"""What MLflow lacks of a run that is done: sent by its stages, which find their results made."""

from collections.abc import Sequence

from ddpm_core.config import RunConfig
from ddpm_core.output import say
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.storage import Store
from ddpm_core.tracking.receipts import has_arrived


def send_missing(store: Store, config: RunConfig, stages: Sequence[str]) -> None:
    """Run the done stages of which a server is not known to have the result; Ray is not started.

    The last first: it sends what the stages before it made too. One that does not get through ends
    it: the server is still away.

    Raises:
        PipelineError: as the stage.
    """
    for stage in reversed(stages):
        if not _is_unsent(store, config, stage):
            continue
        say(f"{stage}: MLflow is not known to have all of its result; it is sent now")
        STAGES[stage].load()(store, config)
        if _is_unsent(store, config, stage):
            return


def _is_unsent(store: Store, config: RunConfig, stage: str) -> bool:
    if not STAGES[stage].is_delivered:
        return False
    result = STAGES[stage].result(store, config)
    return result is not None and not has_arrived(store, config, stage, result)
