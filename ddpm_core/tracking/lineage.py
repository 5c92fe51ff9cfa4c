"""What a run came from, in MLflow: tags, and a line with a link in its description."""

from ddpm_core.config import RunConfig
from ddpm_core.runs import going_on
from ddpm_core.store.storage import Store
from ddpm_core.tracking.mlflow_run import MlflowRun
from ddpm_core.tracking.receipts import place_of

FROM, FROM_RUN, WENT_ON = "ddpm.from", "ddpm.from.run_id", "ddpm.went_on"
_NOTE = "mlflow.note.content"
_OURS = "Begun from "


def log_lineage(run: MlflowRun, store: Store, config: RunConfig) -> None:
    """Log what the run began from, with the MLflow run of that, and when it went on.

    The description is written only where a user has not written another.

    Raises:
        Unreachable, Refused: as `MlflowRun`.
    """
    tags = {}
    if lines := list(going_on.history(config)):
        tags[WENT_ON] = "; ".join(lines)
    if (start := config.train.start) is not None:
        tags[FROM], words = str(start), start.name
        place = None if start.model.run is None else place_of(store, start.model.run)
        if place is not None:
            tags[FROM_RUN] = place.run_id
            words = f"[{words}](#/experiments/{place.experiment_id}/runs/{place.run_id})"
        if run.tags().get(_NOTE, _OURS).startswith(_OURS):
            tags[_NOTE] = f"{_OURS}{words}"
    run.set_tags(tags)
