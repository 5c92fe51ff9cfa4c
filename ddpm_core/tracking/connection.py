"""The way to the MLflow run that stands for a run of ours: found by its identity, or made."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ddpm_core.config import RunConfig
from ddpm_core.errors import RunConflictError
from ddpm_core.runs import layout
from ddpm_core.store.storage import Store
from ddpm_core.tracking.identity import BIRTH, EXPERIMENT, RUN_URI, Identity, identify
from ddpm_core.tracking.mlflow_run import Listening, MlflowRun, answers
from ddpm_core.tracking.place import DATABASE_KEY, Home
from ddpm_core.tracking.receipts import write_place
from ddpm_core.tracking.receiver import Refused, Unreachable, Watch

_MAX_NAME_LENGTH = 250


def connect(
    home: Home,
    store: Store,
    config: RunConfig,
    changes: Mapping[str, Any],
    *,
    watch: Watch,
) -> MlflowRun:
    """Find the MLflow run of this identity, or make it.

    Args:
        home: which MLflow.
        store: the root.
        config: the run's.
        changes: what differs from run.json; if anything, the run is a child of the run's own.
        watch: to which each answer of the server is reported.

    Raises:
        Unreachable: for whatever reason.
    """
    try:
        with answers():
            if home.database is not None:
                _create_database(home.database)
            client = Listening(
                MlflowClient(tracking_uri=home.uri, registry_uri=home.registry_uri), watch.heard
            )
            finder = _Finder(client, _experiment(client, home), store, config)
            identity = identify(store, config, changes)
            run = finder.main_run(identity.recorded)
            write_place(
                store,
                config.name,
                home,
                experiment_id=run.info.experiment_id,
                run_id=run.info.run_id,
            )
            if changes:
                run = finder.variant(identity, parent=run)
            return MlflowRun(client, home, identity, run, watch=watch)
    except Refused as error:
        raise Unreachable(str(error)) from error


class _Finder:
    """Finds runs of an experiment by their tags; what is not there it makes."""

    def __init__(
        self,
        client: Listening,
        experiment_id: str,
        store: Store,
        config: RunConfig,
    ) -> None:
        self._client, self._experiment_id = client, experiment_id
        self._store, self._config = store, config

    def main_run(self, identity: Identity) -> Any:  # noqa: ANN401
        if (found := self._search(identity.tags)) is not None:
            return found
        if (older := self._from_before_births(identity)) is not None:
            tags = [RunTag(key, value) for key, value in identity.tags.items()]
            self._client.log_batch(older.info.run_id, tags=tags)
            return older
        return self._made(self._config.name, identity.tags, {})

    def variant(self, identity: Identity, *, parent: Any) -> Any:  # noqa: ANN401
        changes = " ".join(f"{key}={value}" for key, value in identity.changes.items())
        name = f"{self._config.name} {changes}"[:_MAX_NAME_LENGTH]
        return self._search(identity.tags) or self._made(
            name, identity.tags, {MLFLOW_PARENT_RUN_ID: parent.info.run_id}
        )

    def _from_before_births(self, identity: Identity) -> Any:  # noqa: ANN401
        """Return the run of this folder that an earlier version logged without an id, or None.

        A folder without a checkpoint begins from step 0, so it is not the one that was logged.
        """
        if not layout.committed_steps(self._store, self._config.name):
            return None
        known = {RUN_URI: identity.run_uri, EXPERIMENT: identity.experiment}
        found = self._search(known)
        return None if found is None or BIRTH in found.data.tags else found

    def _made(self, name: str, tags: Mapping[str, str], more: Mapping[str, str]) -> Any:  # noqa: ANN401
        made = self._client.create_run(self._experiment_id, run_name=name, tags={**tags, **more})
        # Until a stage begins it is at rest; MLflow makes it RUNNING.
        self._client.set_terminated(made.info.run_id, "FINISHED")
        first = self._search(tags)
        if first is not None and first.info.run_id != made.info.run_id:
            self._client.delete_run(made.info.run_id)  # another process was first
            return first
        return made

    def _search(self, tags: Mapping[str, str]) -> Any:  # noqa: ANN401
        """Return the oldest run with these tags."""
        words = []
        for key, value in tags.items():
            quote = "'" if '"' in value else '"'
            words.append(f"tags.`{key}` = {quote}{value}{quote}")
        found = self._client.search_runs(
            [self._experiment_id],
            " AND ".join(words),
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=1,
        )
        return found[0] if found else None


def _experiment(client: Listening, home: Home) -> str:
    found = client.get_experiment_by_name(home.experiment)
    if found is None:
        created: str = client.create_experiment(home.experiment, artifact_location=home.artifacts)
        return created
    if found.lifecycle_stage != "active":
        raise Unreachable(
            f"experiment {home.experiment!r} is deleted there; restore it, or choose another with "
            "MLFLOW_EXPERIMENT_NAME"
        )
    experiment_id: str = found.experiment_id
    return experiment_id


def _create_database(store: Store) -> None:
    """Put an empty database into the root, whole or not at all.

    MLflow builds it in place in some seconds, and one that was killed in between does not open
    any more (seen); nor may two processes build one at a time.
    """
    if store.exists(DATABASE_KEY):
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / DATABASE_KEY
        MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
        try:
            store.create(DATABASE_KEY, file.read_bytes())
        except RunConflictError:
            return  # another process was first
