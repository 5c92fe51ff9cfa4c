"""The program of each rank of a training: data, state, loop; rank 0 also logs and stores."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.config.needs import memory_text, rate_text, speed_text
from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.inference.replay import off_the_default_stream
from ddpm_core.loading.batches import Batches
from ddpm_core.loading.loader import Images, load_split
from ddpm_core.loading.texts import Texts, texts_of
from ddpm_core.progress import WARNING, Progress
from ddpm_core.runs import layout, places, previews, results
from ddpm_core.shards.classes import require_classes
from ddpm_core.shards.index import load_index
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store, open_store
from ddpm_core.tracking import Tracker, open_tracker
from ddpm_core.training import memory
from ddpm_core.training.first_steps import FirstSteps
from ddpm_core.training.interleaved import Interleaved
from ddpm_core.training.loop import Commit, Point, Training, run_steps
from ddpm_core.training.preview import Preview, Seen, load_preview
from ddpm_core.training.stepping.kinds import training_of
from ddpm_core.training.stepping.parallel import Parallel
from ddpm_core.training.stepping.trainee import Trainee
from ddpm_core.training.storing import checkpoint
from ddpm_core.training.storing.beside import Storing
from ddpm_core.training.storing.checkpoint import Begun, Curve, Origin
from ddpm_core.training.storing.elsewhere import absent

_log = logging.getLogger(__name__)

_SHOW_EVERY_S = 2.0
_SMALL = 2 * 10**6
"""parameters up to which every machine has the memory, and the seconds of counting are not spent"""
_NONE = -1
"""in place of the step of a checkpoint: that of step 0 is what a run begins from"""


def payload_of(store: Store, config: RunConfig) -> dict[str, Any]:
    """Return the payload of `train_worker`, as JSON values."""
    return {"store": store.uri, "config": config.model_dump(mode="json")}


def train_worker(payload: dict[str, Any]) -> None:
    """Train to the last step as this rank of a group; called by `cluster.group.train_group`.

    Raises:
        PipelineError: see `train_rank`.
    """
    config = RunConfig.from_dict(payload["config"], origin="the payload of the group")
    train_rank(open_store(payload["store"]), config, cluster.place())


def train_rank(
    store: Store,
    config: RunConfig,
    place: cluster.Place,
    kind: Callable[[RunConfig, Parallel], Training] | None = None,
) -> None:
    """Train from the newest checkpoint, or step 0, to the last step.

    Args:
        store: where the run lies.
        config: the run.
        place: this rank.
        kind: builds what is trained, as it is before the first step: the same on every rank; None:
            as goes with the role of the run's network.

    Raises:
        DataError: the run has no data set, or it cannot be used.
        ConfigError: it has another number of classes than the network; or what a step computes
            cannot be compiled or recorded.
        CheckpointError: there are checkpoints, and none to continue from.
        DivergenceError: see `run_steps` and `soundness`.
        StorageError: the storage refuses or does not answer.
    """
    parallel = Parallel(place)
    images, texts, origin = _data(store, config)
    stream = off_the_default_stream(place.device, wanted=config.compute.cuda_graphs)
    with closing(images), stream:
        preview = None
        if config.train.preview_every is not None and not place.rank:
            preview = load_preview(store, config, place)
        # Once all are here: from then on the ranks wait for each other for seconds only.
        parallel.wait()
        training = (kind or training_of)(config, parallel)
        begun = _resume(store, config.name, origin, training.trainee, parallel)
        if begun is None and config.train.start is not None:
            raise CheckpointError(
                f"the weights that run {config.name!r} begins from are no longer in "
                f"{store.uri_of(layout.checkpoint_folder(config.name, 0))}; run the train stage "
                "again, which copies them"
            )
        start, curve = (begun.step, begun.history) if begun is not None else (0, [])
        batches = Batches(
            images,
            config.train,
            start=start,
            rank=place.rank,
            world_size=place.world_size,
            pinned=place.device.type == "cuda",
            accepts=training.accepts,
            texts=texts,
        )
        with batches:
            if place.rank:
                _follow(store, config, origin, training, parallel, batches, start)
            else:
                with open_tracker(store, config, stage="train") as tracker, ExitStack() as stack:
                    host = _Host(store, config, origin, training, parallel, tracker, curve)
                    if preview is not None:
                        stack.enter_context(host.interleave(preview, start))
                    host.lead(batches, start)


def _data(store: Store, config: RunConfig) -> tuple[Images, Texts | None, Origin]:
    """Return the training images and their texts, and what the run's checkpoints belong to."""
    pointer = results.dataset_pointer(store, config.name)
    if pointer is None:
        raise DataError(
            f"run {config.name!r} has no data set yet ({layout.dataset_pointer_key(config.name)} "
            "is not there); run the shard stage first"
        )
    index = load_index(store, pointer.folder, pointer.fingerprint)
    results.require_data(store, config, index.manifest)
    require_classes(config, index.label.names)
    before = places.experiments_before(store, config)
    origin = Origin(places.experiment(store, config), pointer.fingerprint, before)
    cores = config.compute.cpus_per_worker
    texts = texts_of(config, index)
    # Last: whoever gets it closes it, and nothing else ends its threads.
    images = load_split(store, index, "train", num_decoders=cores, stage="train", beside=True)
    return images, texts, origin


def _resume(
    store: Store, run: str, origin: Origin, trainee: Trainee, parallel: Parallel
) -> Begun | None:
    """Read the checkpoint that rank 0 chooses, on every rank; return None to begin."""
    parts = trainee.parts()
    if parallel.rank == 0:
        begun = checkpoint.resume(store, run, origin, parts)
        parallel.from_rank_0(begun.step if begun else _NONE)
    else:
        step = parallel.from_rank_0(_NONE)
        begun = checkpoint.resume_at(store, run, step, parts) if step != _NONE else None
    if begun is None:
        # Two kinds of processors may draw other initial weights.
        divided = set().union(*absent(parts, parallel))
        parallel.share(
            tensor
            for role, part in sorted(parts.items())
            for name, tensor in part.items()
            if (role, name) not in divided
        )
        if divided:
            trainee.begin_averages()
    trainee.settle()
    parallel.wait()
    return begun


def _follow(
    store: Store,
    config: RunConfig,
    origin: Origin,
    training: Training,
    parallel: Parallel,
    batches: Batches,
    start: int,
) -> None:
    with Storing(store, config, origin, training.trainee, parallel) as storing:
        parallel.wait()
        for event in run_steps(training, batches, config.train, start=start):
            storing.check()
            if isinstance(event, Commit):
                storing.take(event.step, history=[])
        storing.finish()


class _Host:
    """Rank 0: trains like the others, and prints, tracks and stores what comes of it."""

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        origin: Origin,
        training: Training,
        parallel: Parallel,
        tracker: Tracker,
        curve: Curve,
    ) -> None:
        self._store, self._config, self._origin = store, config, origin
        self._parallel, self._tracker = parallel, tracker
        self._training = FirstSteps(training, parallel.device, self._measured)
        self._curve = curve
        self._shown_s = -_SHOW_EVERY_S
        self._interleaved: Interleaved | None = None

    def interleave(self, preview: Preview, start: int) -> Interleaved:
        """Have previews made between the steps from `start` completed ones on; to be closed."""
        store, run, origin = self._store, self._config.name, self._origin

        def publish(step: int, average: str, seen: Seen) -> None:
            preview.publish(store, origin, step, average, seen)
            self._tracker.log_previews()

        made = previews.intact(store, run, origin.experiment_of, since=start)
        self._interleaved = Interleaved(self._training, self._config, preview, publish, made=made)
        return self._interleaved

    def lead(self, batches: Batches, start: int) -> None:
        """Run the steps from `start` completed ones on."""
        self._tracker.begin()
        log_curve(self._tracker, self._curve)
        if previews.steps(self._store, self._config.name):
            self._tracker.log_previews()
        note = f"continues from the checkpoint of step {start}" if start else "begins"
        self._show(start, note)
        if self._config.num_parameters > _SMALL:
            self._say_memory(start)
        training, store, config = self._training, self._store, self._config
        with Storing(store, config, self._origin, training.trainee, self._parallel) as storing:
            self._parallel.wait()
            steps = self._interleaved or training
            for event in run_steps(steps, batches, config.train, start=start):
                storing.check()
                match event:
                    case Point():
                        self._take(event)
                    case Commit(step):
                        # Nothing before a checkpoint is made again.
                        drawn = self._interleaved.settle(step) if self._interleaved else []
                        storing.take(step, self._curve, after=drawn)
            storing.finish()
        if (done := results.final_checkpoint(self._store, self._config)) is not None:
            # Most of it is there already, with the times of its steps.
            deliver_curve(self._tracker, self._store, done)

    def _take(self, point: Point) -> None:
        values = {"step": float(point.step), **point.values}
        self._curve.append(values)
        self._tracker.log_points([_tracked(values, point.timing)])
        now, num_steps = time.monotonic(), self._config.train.num_steps
        if now - self._shown_s >= _SHOW_EVERY_S or point.step == num_steps:
            self._shown_s = now
            left_s = (num_steps - point.step) * point.timing["step_s"]
            self._show(
                point.step,
                f"loss {point.values['loss']:.4f}  {rate_text(point.timing['images_per_s'])}"
                f"  eta {_duration(left_s)}",
            )

    def _say_memory(self, start: int) -> None:
        """Show what a step takes, before the first one may find that there is not as much."""
        config, device = self._config, self._parallel.device
        world_size, room = self._parallel.world_size, memory.available(device)
        needs = memory.needs(config, device, world_size=world_size)
        self._show(start, memory_text(needs, world_size=world_size))
        lack = memory.lack(config, device, needs, world_size=world_size, room=room)
        if lack is not None:
            _log.warning("%s%s", WARNING, lack)

    def _measured(self, step: int, step_s: float) -> None:
        self._show(step, f"measured: {speed_text(self._config, step_s, begun=step)}")

    def _show(self, step: int, note: str) -> None:
        Progress("train", step, self._config.train.num_steps, "steps", note).show()


def deliver_curve(tracker: Tracker, store: Store, checkpoint_: Manifest) -> None:
    """Log the curves of a committed checkpoint, and the run's previews, unless MLflow is known to
    have them.
    """
    run = checkpoint_.folder.removeprefix("runs/").partition("/")[0]

    def log() -> None:
        log_curve(tracker, checkpoint.load_history(store, checkpoint_))
        if previews.steps(store, run):
            tracker.log_previews()

    tracker.deliver(checkpoint_, log)


def log_curve(tracker: Tracker, curve: Curve) -> None:
    """Hand in what MLflow may have missed while it, or this program, was down.

    What it has is not sent again.
    """
    tracker.log_points([_tracked(point, {}) for point in curve])


def _tracked(values: dict[str, float], timing: dict[str, float]) -> dict[str, float]:
    named = {f"train/{key}": value for key, value in (values | timing).items() if key != "step"}
    return {"step": values["step"], **named}


def _duration(seconds: float) -> str:
    """Return e.g. 45s, 1m20s, 3h05m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
