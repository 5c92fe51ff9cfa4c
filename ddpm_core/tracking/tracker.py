"""The tracker of a stage: every method returns at once and none raises for MLflow."""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ddpm_core.config import RunConfig
from ddpm_core.config.model_ref import RAW
from ddpm_core.errors import ConfigError
from ddpm_core.runs.weights import Weights
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.tracking import place
from ddpm_core.tracking.curves import open_curves, require_writers
from ddpm_core.tracking.identity import MODEL_KEY, changes_of, drawn_otherwise
from ddpm_core.tracking.machine import MachineSampler, require_interval
from ddpm_core.tracking.opening import open_outbox
from ddpm_core.tracking.outbox import SILENCE_S, Outbox, say
from ddpm_core.tracking.receipts import place_of
from ddpm_core.tracking.receiver import Receiver
from ddpm_core.tracking.subject import Subject

if TYPE_CHECKING:
    from ddpm_core.tracking.mlflow_run import MlflowRun

MACHINE_EVERY_S = 10.0
_RUNNING, _DONE, _DONE_BEFORE = "running", "done", "done before"
_FAILED, _INTERRUPTED = "failed", "interrupted"
_STATUS = {_DONE: "FINISHED", _FAILED: "FAILED", _INTERRUPTED: "KILLED"}


class Tracker:
    """One stage's connection to the MLflow run; a context manager that closes it, failed or not.

    Nothing is connected before there is something to say.
    """

    def __init__(
        self,
        subject: Subject | None,
        *,
        machine_every_s: float | None,
        why_off: str = "",
        open_curves: Callable[[], list[Outbox[Receiver]]] = list,
    ) -> None:
        """See `open_tracker`; without a subject all but curves is thrown away, for a reason."""
        self._subject, self._machine_every_s = subject, machine_every_s
        self._why_off = why_off
        self._open_curves, self._curves = open_curves, list[Outbox[Receiver]]()
        self._outbox: Outbox[MlflowRun] | None = None
        self._machine: MachineSampler | None = None
        self._tags: dict[str, str] = {}
        self._state = _DONE_BEFORE
        self._results: list[Manifest] = []

    @property
    def is_variant(self) -> bool:
        """Whether this is another sampling or evaluation than the one in run.json.

        Such a one is a child run of its own in MLflow. The training's curves and the registered
        model stay with the run.
        """
        return self._subject is not None and bool(self._subject.changes)

    @property
    def registers(self) -> bool:
        """Whether the weights become a version of the registered model once they are measured.

        Those of another step do too, without the alias. Another measurement adds to what the
        version says; another sampling makes no other model.
        """
        return self._subject is None or drawn_otherwise(self._subject.changes) <= {MODEL_KEY}

    def begin(self) -> None:
        """Show that the stage is at work, and how busy this machine is."""
        subject = self._subject
        self._say_if_off()
        if subject is None or self._state == _RUNNING:
            return
        self._state, outbox = _RUNNING, self._started(subject)
        outbox.put_errand(f"the start of {subject.stage}", self._state_sender(subject))
        if self._machine_every_s is not None:
            self._machine = MachineSampler(outbox.put_sample, every_s=self._machine_every_s)

    def deliver(self, result: Manifest, log: Callable[[], None]) -> None:
        """Call `log`, which logs all of a committed result, unless the server is known to have it.

        Raises:
            StorageError: the storage does not answer.
        """
        subject = self._subject
        self._say_if_off()
        if subject is None:
            return
        key = subject.receipt_key(result)
        if key is None or not subject.store.exists(key):
            log()
            self._results.append(result)

    def log_points(self, points: Sequence[Mapping[str, float]]) -> None:
        """Queue points of the training curve, each with its "step", in order.

        Whole curves may be handed in again, after a resume or at the end: what MLflow has is
        skipped. Values that are not finite are left out.
        """
        if self._subject is not None:
            self._started(self._subject).put_curve(points)
        self._curves = self._curves or self._open_curves()
        for curve in self._curves:
            curve.put_curve(points)

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Queue single numbers, such as an evaluation's; those MLflow has at `step` are skipped."""
        wanted = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        if left_out := sorted(set(values) - set(wanted)):
            say(f"MLflow: {', '.join(left_out)}: not finite, not logged")
        first, more = next(iter(wanted), ""), len(wanted) - 1
        label = f"the metric {first}" + (f" and {more} more" if more > 0 else "")
        self._put(label, lambda run: run.log_metrics(wanted, step=step))

    def log_artifact(self, path: str, result: Manifest, role: str) -> None:
        """Queue a committed file as `path`, e.g. "evaluation/metrics.json", to be read then."""
        if (subject := self._subject) is None:
            return

        def log(run: "MlflowRun") -> None:
            run.log_file(path, run.made(lambda: result.read(subject.store, role)))

        self._put(path, log)

    def log_made(self, path: str, make: Callable[[], bytes]) -> None:
        """Queue a file that is made when it is sent, e.g. of all results that are there by then."""
        self._put(path, lambda run: run.log_file(path, run.made(make)))

    def log_image(self, name: str, result: Manifest, role: str) -> None:
        """Queue a committed PNG as `pictures/<name>`, which MLflow's UI shows among the artifacts.

        Not in `images`: one file there that MLflow did not name hides its chart of images by step.
        """
        self.log_artifact(f"pictures/{name}", result, role)

    def log_previews(self) -> None:
        """Queue what MLflow lacks of the run's previews, as they are when it is sent."""
        if (subject := self._subject) is None:
            return

        def log(run: "MlflowRun") -> None:
            from ddpm_core.tracking.preview_log import send_previews

            send_previews(run, subject.store, subject.config.name)

        self._put("the previews", log)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags of the run; a later value replaces an earlier one."""
        self._tags |= tags
        # All of them as they are when they are sent: after an outage an older delivery may come
        # later, and must not bring back an older value.
        self._put("the tags " + ", ".join(tags), lambda run: run.set_tags(dict(self._tags)))

    def describe(self) -> None:
        """Queue the run's description anew: it shows the samples that are there by then."""
        if (subject := self._subject) is None or subject.changes:
            return

        def send(run: "MlflowRun") -> None:
            from ddpm_core.tracking.description import log_description

            log_description(run, subject.store, subject.config)

        self._put("the description", send)

    def adopt(self, runs: Sequence[str]) -> None:
        """Queue that runs of these names below the same root are shown below this one."""
        if (subject := self._subject) is None:
            return

        def send(run: "MlflowRun") -> None:
            found = (place_of(subject.store, name) for name in runs)
            run.adopt([one.run_id for one in found if one is not None])

        self._put("the runs below it", send)

    def register_model(self, weights: Weights, numbers: Mapping[str, Any]) -> None:
        """Queue weights as a version of the registered model of the run's data set.

        The version gets the run's metrics at their step, and the alias `champion` if they measured
        better than the version that has it, unless they are other weights than run.json names.
        Weights that have a version already are neither read nor registered again. Building it
        imports torch in the thread.

        Args:
            weights: an average; others are not registered.
            numbers: metrics.json of their evaluation.
        """
        if (subject := self._subject) is None:
            return
        if weights.average == RAW:
            say(f"MLflow: {weights.name} is not registered: only averages are; see export-weights")
            return
        is_champion = not drawn_otherwise(subject.changes)

        def register(run: "MlflowRun") -> None:
            from ddpm_core.tracking.champion import score_of
            from ddpm_core.tracking.model import register_model

            register_model(
                run,
                subject.store,
                subject.config,
                weights,
                score=score_of(numbers),
                is_champion=is_champion,
            )

        size = weights.checkpoint.files[weights.role].size
        self._put(f"the model of {subject.config.name} ({size / 1e6:.3g} MB)", register)

    def close(self, timeout_s: float | None = None, *, error: BaseException | None = None) -> bool:
        """Send what waits, note how the stage ended, and say in one line what did not arrive.

        Args:
            timeout_s: how long at most; None: as long as MLflow answers. A server that gives no
                answer is given up after five seconds.
            error: what ended the stage, if it did not reach its end.

        Returns:
            Whether everything arrived; True if there was nothing to send.
        """
        subject, self._subject = self._subject, None
        closed = [curve.close(timeout_s) for curve in self._curves]  # all, whatever one says
        arrived = all(closed)
        if self._machine is not None:
            self._machine.close()
        if subject is None or not self._has_end(error):
            return arrived
        outbox = self._started(subject)
        if error is not None:
            self._state = _FAILED if isinstance(error, Exception) else _INTERRUPTED
        elif self._state == _RUNNING:
            self._state = _DONE
        outbox.put_errand(f"the end of {subject.stage}", self._state_sender(subject))
        arrived = outbox.close(timeout_s) and arrived
        if arrived and error is None:
            subject.keep_receipts(self._results)
        return arrived

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the process may be about to be killed.
        self.close(None if kind is None else SILENCE_S, error=error)

    def _say_if_off(self) -> None:
        if self._why_off:
            say(f"MLflow: off; {self._why_off}")
        self._why_off = ""

    def _has_end(self, error: BaseException | None) -> bool:
        """Return whether there is an end to note; not of what was refused before it began."""
        refused = isinstance(error, ConfigError)
        return self._outbox is not None or (error is not None and not refused)

    def _state_sender(self, subject: Subject) -> "Callable[[MlflowRun], None]":
        """Return what sends the stage's state as it is by then; see `set_tags`."""

        def send(run: "MlflowRun") -> None:
            from ddpm_core.tracking.ending import process_tag

            state, tag = self._state, f"ddpm.stage.{subject.stage}"
            if state == _RUNNING:
                run.set_tags(process_tag(subject.stage))  # before it can be taken for a dead one's
                run.begin()
            elif state == _DONE_BEFORE:
                run.settle(subject.stage)
            else:
                run.end(_STATUS[state])
            run.set_tags({tag: _DONE if state == _DONE_BEFORE else state})

        return send

    def _started(self, subject: Subject) -> "Outbox[MlflowRun]":
        """Return the outbox; the first that it gets is what the run is."""
        if self._outbox is None:
            self._outbox = open_outbox(subject)
        return self._outbox

    def _put(self, label: str, action: "Callable[[MlflowRun], None]") -> None:
        if self._subject is not None:
            self._started(self._subject).put_errand(label, action)


def open_tracker(
    store: Store,
    config: RunConfig,
    *,
    stage: str,
    machine_every_s: float | None = MACHINE_EVERY_S,
) -> Tracker:
    """Return the tracker of this run; its MLflow run is found again, or made, in the background.

    MLflow is where MLFLOW_TRACKING_URI says, else `mlflow.db` and `mlartifacts` in a local root;
    with neither, or without the package, the tracker is off, and a line says why once a stage
    begins or delivers.

    Args:
        store: the root.
        config: the run's; logged as parameters and as run.json, and its data set, once there is
            one, as an input. Where it differs from run.json in what the stage measures or draws,
            the stage is logged to a child run.
        stage: its name, one of `STAGES`.
        machine_every_s: seconds between readings of this machine's load while the stage is at
            work; None for none.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI cannot be used by every process of a run; `machine_every_s`
            is not above 0.
        StorageError: the storage does not answer.
    """
    if machine_every_s is not None:
        require_interval(machine_every_s)
    require_writers()

    def curves() -> list[Outbox[Receiver]]:
        return open_curves(store, config)

    home = place.find_home(store)
    if home is None:
        why_off = f"{store.uri} is no local root and MLFLOW_TRACKING_URI is not set"
        return Tracker(None, machine_every_s=None, why_off=why_off, open_curves=curves)
    if find_spec("mlflow") is None:
        why_off = "it is not installed (pip install 'ddpm-pipeline[mlflow]')"
        return Tracker(None, machine_every_s=None, why_off=why_off, open_curves=curves)
    subject = Subject(home, store, config, stage, changes_of(store, config, stage))
    return Tracker(subject, machine_every_s=machine_every_s, open_curves=curves)
