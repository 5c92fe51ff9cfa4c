"""Requests to one MLflow run, from the outbox's thread; errors become Unreachable or Refused."""

import io
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from ddpm_core.errors import PipelineError, StorageError
from ddpm_core.shards.index import entries
from ddpm_core.tracking.identity import Identity
from ddpm_core.tracking.place import Home, redacted
from ddpm_core.tracking.receiver import Measurement, Refused, Unreachable, Watch

T = TypeVar("T")
STAGE_TAG = "ddpm.stage."
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_STALL_S = (
    120  # without a byte taken; a server that passes a file on answers when its storage has it
)
_PASSED_ON_BYTES_PER_S = 2**20
_SLOWEST_BYTES_PER_S = 2**16  # of an upload that is still waited for: half of a slow line
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


class Listening:
    """A client of MLflow of which each answer is reported: a version of a model takes ten."""

    def __init__(self, client: Any, heard: Callable[[], None]) -> None:  # noqa: ANN401
        """Wrap a `MlflowClient`."""
        self._client, self._heard = client, heard

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the client's
        """Return the client's method, which reports its answer."""
        method = getattr(self._client, name)

        def request(*given: Any, **named: Any) -> Any:  # noqa: ANN401
            answer = method(*given, **named)
            self._heard()
            return answer

        return request


class MlflowRun:
    """The receiver of `outbox`, and what else is logged to a run; every method may be repeated."""

    def __init__(
        self,
        client: Listening,
        home: Home,
        identity: Identity,
        run: Any,  # noqa: ANN401 - the `mlflow.entities.Run` that was found
        *,
        watch: Watch,
    ) -> None:
        """Wrap a run that was found; what takes long is reported to `watch`."""
        self.client, self.home, self.identity, self._watch = client, home, identity, watch
        self.experiment_id: str = run.info.experiment_id
        self.run_id: str = run.info.run_id
        self._start_ms: int = run.info.start_time

    def made(self, make: Callable[[], T]) -> T:
        """Return what is made here to be sent, however long that takes on a busy machine.

        Raises:
            Unreachable: the storage does not answer.
            Refused: it cannot be made.
        """
        self._watch.allow(math.inf)
        try:
            with answers():
                return make()
        finally:
            self._watch.allow(0.0)

    @contextmanager
    def uploading(self, num_bytes: int) -> Iterator[None]:
        """Give the server the time that so many bytes take: by the client, and by who waits."""
        before = os.environ[_TIMEOUT]  # `place.prepare_environment` has set it
        timeout_s = max(_STALL_S, num_bytes // _PASSED_ON_BYTES_PER_S, int(before))
        os.environ[_TIMEOUT] = str(timeout_s)
        self._watch.allow(timeout_s + num_bytes / _SLOWEST_BYTES_PER_S)
        try:
            yield
        finally:
            os.environ[_TIMEOUT] = before

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
        """Log each value that the run does not have at `step`.

        One that was measured anew and differs is logged beside the old one: MLflow shows the later.
        """
        now = time.time_ns() // 1_000_000
        known_keys = self.last_steps()
        with answers():
            metrics = [
                Metric(key, value, now, step)
                for key, value in values.items()
                if key not in known_keys or self._latest_at(key, step) != value
            ]
            if metrics:
                self.client.log_batch(self.run_id, metrics=metrics)

    def _latest_at(self, key: str, step: int) -> float | None:
        history = self.client.get_metric_history(self.run_id, key)
        at_step = [(one.timestamp, one.value) for one in history if one.step == step]
        return float(max(at_step)[1]) if at_step else None

    def log_params(self, values: Mapping[str, object]) -> None:
        """Log parameters; what a later attempt changes (they are write-once) becomes a tag."""
        texts = {key: _text(value)[:_MAX_PARAM_LENGTH] for key, value in values.items()}
        with answers():
            known = self.client.get_run(self.run_id).data.params
            new = [Param(key, text) for key, text in texts.items() if key not in known]
            for start in range(0, len(new), _MAX_PARAMS):
                self.client.log_batch(self.run_id, params=new[start : start + _MAX_PARAMS])
            changed = {key: text for key, text in texts.items() if known.get(key, text) != text}
            if changed:
                self.set_tags({f"ddpm.changed.{key}": text for key, text in changed.items()})

    def log_file(self, path: str, data: bytes) -> None:
        """Put `data` under `path` in the run's artifacts."""
        folder, _, name = path.rpartition("/")
        with (
            answers(),
            self.uploading(len(data)),
            tempfile.TemporaryDirectory() as scratch,
        ):
            file = Path(scratch) / name
            file.write_bytes(data)
            self.client.log_artifact(self.run_id, str(file), folder or None)

    def has_file(self, path: str) -> bool:
        """Return whether the run has an artifact of this path."""
        with answers():
            files = self.client.list_artifacts(self.run_id, path.rpartition("/")[0])
        return path in [file.path for file in files]

    def image_steps(self, name: str) -> set[int]:
        """Return the steps of which the run has an image of this name."""
        with answers():
            files = self.client.list_artifacts(self.run_id, "images")
        # The smaller copy, which is sent last.
        pattern = (
            rf"images/{re.escape(name.replace('/', '~'))}\+step\+([0-9]+)\+.*\+compressed\.webp"
        )
        found = (re.fullmatch(pattern, file.path) for file in files)
        return {int(one[1]) for one in found if one is not None}

    def log_image(self, name: str, png: bytes, *, step: int) -> None:
        """Log an image of a step, which MLflow's page shows beside those of other steps."""
        with answers(), self.uploading(len(png)), Image.open(io.BytesIO(png)) as image:
            self.client.log_image(self.run_id, image, key=name, step=step, synchronous=True)

    def metric_steps(self, key: str) -> set[int]:
        """Return the steps of which the run has a value of this metric."""
        with answers():
            return {one.step for one in self.client.get_metric_history(self.run_id, key)}

    def log_dataset(self, name: str, uri: str, index: Mapping[str, Any]) -> None:
        """Make the data set an input of the run; MLflow keeps one of each name and digest.

        Args:
            name: e.g. "digits".
            uri: the folder that it lies in.
            index: what its index.json says; `fingerprint`, members and `num_images` are shown.
        """
        members = {
            member: {key: entry[key] for key in ("kind", "dtype", "shape")}
            for member, entry in entries(index).items()
        }
        dataset = Dataset(
            name=name,
            digest=index["fingerprint"][:_DIGEST_LENGTH],
            source_type="s3" if urlsplit(uri).scheme == "s3" else "local",
            source=json.dumps({"uri": uri}),
            schema=json.dumps(members),
            profile=json.dumps(index["num_images"]),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        with answers():
            self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def tags(self) -> dict[str, str]:
        with answers():
            found: dict[str, str] = self.client.get_run(self.run_id).data.tags
            return found

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with answers():
            self.client.log_batch(
                self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()]
            )

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Show other runs below this one."""
        with answers():
            for run_id in run_ids:
                self.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, self.run_id)

    def begin(self) -> None:
        """Show the run as RUNNING."""
        with answers():
            self.client.update_run(self.run_id, status="RUNNING")

    def end(self, status: str) -> None:
        """End the run now, as FINISHED, FAILED or KILLED."""
        with answers():
            self.client.set_terminated(self.run_id, status)

    def settle(self, stage: str) -> None:
        """Show the run as FINISHED if MLflow does not know yet that this stage is done.

        For a stage that found its result made. A run that has an end keeps it, and one that
        another stage is working on goes on.
        """
        with answers():
            run = self.client.get_run(self.run_id)
            stages = {
                key.removeprefix(STAGE_TAG): value
                for key, value in run.data.tags.items()
                if key.startswith(STAGE_TAG)
            }
            at_work = run.info.status == "RUNNING" and "running" in (
                value for name, value in stages.items() if name != stage
            )
            unknown = stages.get(stage) != "done" or run.info.status == "RUNNING"
            if unknown and not at_work:
                self.client.set_terminated(self.run_id, "FINISHED", run.info.end_time)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _brief(error: Exception) -> str:
    """Return the first line of an error without passwords, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return redacted(f"{type(error).__name__}: {lines[0] if lines else ''}")[:300]
