"""One MLflow run, spoken to from the outbox's thread: MLflow's errors become two kinds of no."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from ddpm_core.errors import PipelineError, RunConflictError, StorageError
from ddpm_core.storage import Store
from ddpm_core.tracking.outbox import Measurement, Refused, Unreachable
from ddpm_core.tracking.place import DATABASE_KEY, Home, redacted

_UPLOAD_TIMEOUT_S = 120  # a server that passes a file on answers when its storage has it
_DIGEST_LENGTH = 36  # MLflow's limits from here on
_MAX_PARAM_LENGTH = 6000
_MAX_PARAMS = 100
_REFUSALS = frozenset(
    {
        "BAD_REQUEST",
        "CUSTOMER_UNAUTHORIZED",
        "ENDPOINT_NOT_FOUND",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)


@contextmanager
def answers() -> Iterator[None]:
    """Turn what MLflow and its storages raise into Unreachable or Refused."""
    try:
        yield
    except MlflowException as error:
        refused = error.error_code in _REFUSALS
        raise (Refused if refused else Unreachable)(_brief(error)) from error
    except HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        refused = 400 <= status < 500 and status not in (408, 429)
        raise (Refused if refused else Unreachable)(_brief(error)) from error
    except (OSError, SQLAlchemyError, StorageError) as error:
        refused = isinstance(error, PermissionError)
        raise (Refused if refused else Unreachable)(_brief(error)) from error
    except (ImportError, ValueError, TypeError, PipelineError) as error:
        raise Refused(_brief(error)) from error


@contextmanager
def patience() -> Iterator[None]:
    """Give the server the time that a big file takes."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]  # `place.prepare_environment` has set it
    os.environ[name] = str(max(_UPLOAD_TIMEOUT_S, int(before)))
    try:
        yield
    finally:
        os.environ[name] = before


class MlflowRun:
    """The receiver of `outbox`, and what else a run is told; every method may be repeated."""

    def __init__(self, client: MlflowClient, home: Home, experiment_id: str, run: Any) -> None:  # noqa: ANN401
        """Wrap the `mlflow.entities.Run` that was found."""
        self.client, self.home = client, home
        self.experiment_id: str = experiment_id
        self.run_id: str = run.info.run_id
        self._start_ms: int = run.info.start_time
        self._status_before: str = run.info.status

    def last_steps(self) -> dict[str, int]:
        with answers():
            metrics = self.client.get_run(self.run_id).to_proto().data.metrics
            return {metric.key: metric.step for metric in metrics}

    def step_at(self, timestamp_ms: int) -> int:
        """Return whole seconds since the run began."""
        return max(0, (timestamp_ms - self._start_ms) // 1000)

    def send(self, measurements: Sequence[Measurement]) -> None:
        metrics = [Metric(one.key, one.value, one.timestamp_ms, one.step) for one in measurements]
        with answers():
            self.client.log_batch(self.run_id, metrics=metrics)

    def log_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log each value whose key the run does not have at `step`."""
        now = time.time_ns() // 1_000_000
        with answers():
            metrics = [
                Metric(key, value, now, step)
                for key, value in values.items()
                if all(
                    known.step != step for known in self.client.get_metric_history(self.run_id, key)
                )
            ]
            self.client.log_batch(self.run_id, metrics=metrics)

    def log_params(self, values: Mapping[str, object]) -> None:
        """Log parameters; what a later attempt changes (they are write-once) becomes a tag."""
        texts = {key: _text(value)[:_MAX_PARAM_LENGTH] for key, value in values.items()}
        with answers():
            known = self.client.get_run(self.run_id).data.params
            new = [Param(key, text) for key, text in texts.items() if key not in known]
            for start in range(0, len(new), _MAX_PARAMS):
                self.client.log_batch(self.run_id, params=new[start : start + _MAX_PARAMS])
            changed = {key: text for key, text in texts.items() if known.get(key, text) != text}
            self.set_tags({f"ddpm.changed.{key}": text for key, text in changed.items()})

    def log_file(self, path: str, data: bytes) -> None:
        """Put `data` under `path` in the run's artifacts."""
        folder, _, name = path.rpartition("/")
        with answers(), patience(), tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / name
            file.write_bytes(data)
            self.client.log_artifact(self.run_id, str(file), folder or None)

    def log_dataset(self, name: str, uri: str, index: Mapping[str, Any]) -> None:
        """Make the data set an input of the run; MLflow keeps one of each name and digest.

        Args:
            name: e.g. "digits".
            uri: the folder that it lies in.
            index: what its index.json says; `fingerprint`, `shape` and `num_images` are shown.
        """
        dataset = Dataset(
            name=name,
            digest=index["fingerprint"][:_DIGEST_LENGTH],
            source_type="s3" if urlsplit(uri).scheme == "s3" else "local",
            source=json.dumps({"uri": uri}),
            schema=json.dumps({"shape": index["shape"], "dtype": "uint8"}),
            profile=json.dumps(index["num_images"]),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        with answers():
            self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with answers():
            self.client.log_batch(
                self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()]
            )

    def end_stage(self, tags: Mapping[str, str], *, status: str | None) -> None:
        """Set `tags`, and end the run with `status`; None leaves it as this stage found it."""
        self.set_tags(tags)
        if status is None and self._status_before == "FINISHED":
            status = "FINISHED"  # an earlier stage repeated does not open the run for good
        if status is not None:
            with answers():
                self.client.set_terminated(self.run_id, status)


def connect(home: Home, *, run_uri: str, run_name: str) -> MlflowRun:
    """Find the run with the tag `ddpm.run_uri`, or make it; it is RUNNING then.

    Raises:
        Unreachable: for whatever reason.
    """
    try:
        with answers():
            return _connect(home, run_uri=run_uri, run_name=run_name)
    except Refused as error:
        raise Unreachable(str(error)) from error


def _connect(home: Home, *, run_uri: str, run_name: str) -> MlflowRun:
    if home.database is not None:
        _create_database(home.database)
    client = MlflowClient(tracking_uri=home.uri, registry_uri=home.uri)
    experiment_id = _experiment(client, home)
    quote = "'" if '"' in run_uri else '"'
    found = client.search_runs(
        [experiment_id],
        f"tags.`ddpm.run_uri` = {quote}{run_uri}{quote}",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    if not found:
        run = client.create_run(experiment_id, run_name=run_name, tags={"ddpm.run_uri": run_uri})
    else:
        run = found[0]
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
    return MlflowRun(client, home, experiment_id, run)


def _experiment(client: MlflowClient, home: Home) -> str:
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


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _brief(error: Exception) -> str:
    """Return the first line of an error without passwords, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return redacted(f"{type(error).__name__}: {lines[0] if lines else ''}")[:300]
