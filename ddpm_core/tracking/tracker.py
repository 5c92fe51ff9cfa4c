"""What a stage holds while it runs: every method returns at once and none raises for MLflow."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ddpm_core import layout
from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.storage import Store
from ddpm_core.tracking import place
from ddpm_core.tracking.machine import MachineSampler
from ddpm_core.tracking.outbox import Outbox, say

if TYPE_CHECKING:
    from ddpm_core.tracking.mlflow_run import MlflowRun

CLOSE_TIMEOUT_S = 30.0
FAILED_TIMEOUT_S = 10.0  # somebody may be waiting to stop the process for good
MACHINE_EVERY_S = 10.0
_LAST_STAGE = "evaluate"


class Tracker:
    """One stage's line to the MLflow run; a context manager that closes it, failed or not."""

    def __init__(
        self, outbox: "Outbox[MlflowRun] | None", stage: str, *, machine_every_s: float | None
    ) -> None:
        """See `open_tracker`; without an outbox everything is thrown away."""
        self._outbox, self._stage = outbox, stage
        self._machine: MachineSampler | None = None
        if outbox is not None and machine_every_s is not None:
            self._machine = MachineSampler(outbox.put_sample, every_s=machine_every_s)

    def log_points(self, points: Sequence[Mapping[str, float]]) -> None:
        """Queue points of the training curve, each with its "step", in order.

        Whole curves may be handed in again, after a resume or at the end: what MLflow has is
        skipped. Values that are not finite are left out.
        """
        if self._outbox is not None:
            self._outbox.put_curve(points)

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Queue single numbers, such as an evaluation's; those MLflow has at `step` are skipped."""
        wanted = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        if left_out := sorted(set(values) - set(wanted)):
            say(f"MLflow: {', '.join(left_out)}: not finite, not logged")
        self._put(
            "the metrics " + ", ".join(wanted), lambda run: run.log_metrics(wanted, step=step)
        )

    def log_artifact_bytes(self, path: str, data: bytes) -> None:
        """Queue a file, e.g. "evaluation/metrics.json"; replaces one of that name."""
        self._put(path, lambda run: run.log_file(path, data), num_bytes=len(data))

    def log_image_bytes(self, name: str, png: bytes) -> None:
        """Queue a PNG as `images/<name>`, which MLflow's UI shows in the run's artifacts."""
        self.log_artifact_bytes(f"images/{name}", png)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags of the run; a later value replaces an earlier one."""
        wanted = dict(tags)
        self._put("the tags " + ", ".join(wanted), lambda run: run.set_tags(wanted))

    def register_model(self, config: RunConfig, ema: bytes, *, step: int) -> None:
        """Queue the averaged weights as a version of the registered model `ddpm-<run name>`.

        The version gets the alias `champion` and the run's metrics at `step`. Weights that have
        a version already are not registered twice. Building it imports torch in the thread.

        Args:
            config: the run's.
            ema: the safetensors file of the averaged weights.
            step: the optimiser step they are of.
        """

        def register(run: "MlflowRun") -> None:
            from ddpm_core.tracking.model import register_model

            register_model(run, config, ema, step=step)

        self._put(f"the model ddpm-{config.name}", register, num_bytes=len(ema))

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S, *, failed: bool = False) -> bool:
        """Send what waits, note how the stage ended, and say in one line what did not arrive.

        Args:
            timeout_s: how long at most; while MLflow answers, a second more for each MiB.
            failed: the stage did not reach its end.

        Returns:
            Whether everything arrived; True if tracking is off.
        """
        if self._outbox is None:
            return True
        if self._machine is not None:
            self._machine.close()
        stage, last = self._stage, self._stage == _LAST_STAGE
        status = "FAILED" if failed else "FINISHED" if last else None
        tags = {f"ddpm.stage.{stage}": "failed" if failed else "done"}
        self._put(f"the end of {stage}", lambda run: run.end_stage(tags, status=status))
        outbox, self._outbox = self._outbox, None
        return outbox.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.close(FAILED_TIMEOUT_S, failed=True)

    def _put(
        self, label: str, action: "Callable[[MlflowRun], None]", *, num_bytes: int = 0
    ) -> None:
        if self._outbox is not None:
            self._outbox.put_errand(label, action, num_bytes=num_bytes)


def open_tracker(
    store: Store,
    config: RunConfig,
    *,
    stage: str,
    machine_every_s: float | None = MACHINE_EVERY_S,
) -> Tracker:
    """Return the tracker of this run; its MLflow run is found again, or made, in the background.

    MLflow is where MLFLOW_TRACKING_URI says, else `mlflow.db` and `mlartifacts` in a local root;
    with neither, or without the package, the tracker is off and a line says why.

    Args:
        store: the root; the run is known by its place in it.
        config: the run's; logged as parameters and as run.json, and its data set, once there is
            one, as an input.
        stage: shard, train, sample or evaluate; the last one finishes the MLflow run.
        machine_every_s: seconds between readings of this machine's load; None for none.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI cannot be used by every process of a run.
    """
    home = place.find_home(store)
    if home is None:
        say(f"MLflow: off; {store.uri} is no local root and MLFLOW_TRACKING_URI is not set")
        return Tracker(None, stage, machine_every_s=None)
    if find_spec("mlflow") is None:
        say("MLflow: off; it is not installed (pip install 'ddpm-pipeline[mlflow]')")
        return Tracker(None, stage, machine_every_s=None)
    place.prepare_environment()
    # Imports mlflow here and not in the thread: two threads that import big packages with common
    # parts at the same time can see each other's unfinished modules.
    from ddpm_core.tracking.mlflow_run import connect

    run_uri = store.uri_of(layout.run_folder(config.name))
    outbox = Outbox(
        lambda: connect(home, run_uri=run_uri, run_name=config.name),
        server=f"MLflow ({place.redacted(home.uri)})",
        remedy=_remedy(store, config, stage),
    )
    tracker = Tracker(outbox, stage, machine_every_s=machine_every_s)
    _describe(tracker, outbox, store, config, stage)
    return tracker


def _remedy(store: Store, config: RunConfig, stage: str) -> str:
    run_json = shlex.quote(store.uri_of(layout.run_json_key(config.name)))
    # Not the pipeline's command: it sees that all is done, and starts no stage.
    return (
        f"`python -m ddpm_core {stage} {run_json}`, with the same --set if there was one, sends it"
    )


def _describe(
    tracker: Tracker, outbox: "Outbox[MlflowRun]", store: Store, config: RunConfig, stage: str
) -> None:
    """Queue what the run is."""
    from ddpm_core.tracking.mlflow_run import answers

    def log_dataset(run: "MlflowRun") -> None:
        with answers():
            index = layout.dataset_of(store, config)
        if index is not None:
            run.log_dataset(config.data.name, store.uri_of(index.folder), index.body)

    tags = {
        "ddpm.experiment": fingerprint(config.experiment()),
        f"ddpm.stage.{stage}": "running",
    }
    if commit := place.git_commit():
        tags["mlflow.source.git.commit"] = commit
    tracker.set_tags(tags)
    flat = config.flat()
    outbox.put_errand("the parameters", lambda run: run.log_params(flat))
    outbox.put_errand("the data set", log_dataset)
    tracker.log_artifact_bytes("run.json", config.to_json().encode())
