"""What each rank of the training group runs: data, state, loop; rank 0 also logs and stores."""

import time
from contextlib import closing
from typing import Any

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError
from ddpm_core.loading.batches import Batches
from ddpm_core.loading.loader import Images, load_split
from ddpm_core.progress import Progress
from ddpm_core.runs import layout, places, results
from ddpm_core.shards.index import load_index
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store, open_store
from ddpm_core.tracking import Tracker, open_tracker
from ddpm_core.training import checkpoint
from ddpm_core.training.checkpoint import Checkpoint, Curve, Origin
from ddpm_core.training.loop import Commit, Point, run_steps
from ddpm_core.training.peers import Peers
from ddpm_core.training.step import Learner

_SHOW_EVERY_S = 2.0


def payload_of(store: Store, config: RunConfig) -> dict[str, Any]:
    """Return what `train_worker` needs to know, as JSON values."""
    return {"store": store.uri, "config": config.model_dump(mode="json")}


def train_worker(payload: dict[str, Any]) -> None:
    """Train to the last step as this rank of a group; called by `cluster.group.train_group`.

    Raises:
        PipelineError: see `train_rank`.
    """
    config = RunConfig.from_dict(payload["config"], origin="the payload of the group")
    train_rank(open_store(payload["store"]), config, cluster.place())


def train_rank(store: Store, config: RunConfig, place: cluster.Place) -> None:
    """Train from the newest checkpoint, or step 0, to the last step.

    Raises:
        DataError: the run has no data set, or it cannot be used.
        CheckpointError: there are checkpoints, and none to continue from.
        DivergenceError: see `run_steps` and `checkpoint.require_equal`.
        StorageError: the storage refuses or does not answer.
    """
    peers = Peers(place.world_size)
    images, origin = _data(store, config)
    with closing(images):
        learner, start, curve = _learner(store, config, origin, place, peers)
        batches = Batches(
            images,
            config.train,
            start=start,
            rank=place.rank,
            world_size=place.world_size,
            pinned=place.device.type == "cuda",
            accepts=learner.accepts,
        )
        with batches:
            if place.rank:
                _follow(learner, batches, config, peers, start)
            else:
                with open_tracker(store, config, stage="train") as tracker:
                    host = _Host(store, config, origin, learner, peers, tracker, curve)
                    host.lead(batches, start)


def _data(store: Store, config: RunConfig) -> tuple[Images, Origin]:
    """Return the training images, and what the run's checkpoints belong to."""
    pointer = results.dataset_pointer(store, config.name)
    if pointer is None:
        raise DataError(
            f"run {config.name!r} has no data set yet ({layout.dataset_pointer_key(config.name)} "
            "is not there); run the shard stage first"
        )
    index = load_index(store, pointer.folder, pointer.fingerprint)
    results.require_data(store, config, index.manifest)
    cores = config.compute.cpus_per_worker
    images = load_split(store, index, "train", num_decoders=cores)
    return images, Origin(places.experiment(store, config), pointer.fingerprint)


def _learner(
    store: Store, config: RunConfig, origin: Origin, place: cluster.Place, peers: Peers
) -> tuple[Learner, int, Curve]:
    """Return the state to go on from, the steps it has behind it, and the curves up to there."""
    found = _resume(store, config.name, origin, place.rank, peers)
    # The ranks have just met: from here on they wait for each other for seconds only.
    learner = Learner(config, rank=place.rank, world_size=place.world_size, device=place.device)
    if found is None:
        return learner, 0, []
    learner.load(found.state, found.ema)
    return learner, found.step, found.history


def _resume(store: Store, run: str, origin: Origin, rank: int, peers: Peers) -> Checkpoint | None:
    """Return the checkpoint that rank 0 chooses, on every rank, or None to begin."""
    if rank == 0:
        found = checkpoint.newest(store, run, origin)
        peers.from_rank_0(found.step if found else 0)
    else:
        step = peers.from_rank_0(0)
        found = checkpoint.of_step(store, run, step) if step else None
    peers.wait()
    return found


def _follow(
    learner: Learner, batches: Batches, config: RunConfig, peers: Peers, start: int
) -> None:
    peers.wait()
    for event in run_steps(learner, batches, config.train, start=start):
        if isinstance(event, Commit):
            _require_sound(learner, peers, event.step)
            peers.wait()


def _require_sound(learner: Learner, peers: Peers, step: int) -> None:
    state = learner.state()
    averages = {f"ema.{name}": tensor for name, tensor in learner.ema.state_dict().items()}
    checkpoint.require_finite(state | averages, step=step)
    checkpoint.require_equal(peers.gather(checkpoint.weights_digest(state)), step=step)


class _Host:
    """Rank 0: trains like the others, and prints, tracks and stores what comes of it."""

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        origin: Origin,
        learner: Learner,
        peers: Peers,
        tracker: Tracker,
        curve: Curve,
    ) -> None:
        self._store, self._config, self._origin = store, config, origin
        self._learner, self._peers, self._tracker = learner, peers, tracker
        self._curve = curve
        self._shown_s = -_SHOW_EVERY_S

    def lead(self, batches: Batches, start: int) -> None:
        """Run the steps from `start` completed ones on."""
        self._tracker.begin()
        log_curve(self._tracker, self._curve)
        note = f"continues from the checkpoint of step {start}" if start else "begins"
        self._show(start, note)
        self._peers.wait()
        for event in run_steps(self._learner, batches, self._config.train, start=start):
            match event:
                case Point():
                    self._take(event)
                case Commit():
                    self._store_checkpoint(event.step)
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
                f"loss {point.values['loss']:.4f}  {point.timing['images_per_s']:.0f} images/s"
                f"  eta {_duration(left_s)}",
            )

    def _store_checkpoint(self, step: int) -> None:
        config, learner = self._config, self._learner
        _require_sound(learner, self._peers, step)
        checkpoint.commit(
            self._store,
            config.name,
            self._origin,
            step=step,
            images_seen=step * config.train.global_batch_size,
            state=learner.state(),
            ema=learner.ema.state_dict(),
            history=self._curve,
        )
        checkpoint.prune(self._store, config.name, config.train.keep_checkpoints)
        self._peers.wait()

    def _show(self, step: int, note: str) -> None:
        Progress("train", step, self._config.train.num_steps, "steps", note).show()


def deliver_curve(tracker: Tracker, store: Store, checkpoint_: Manifest) -> None:
    """Log the curves of a committed checkpoint, unless MLflow is known to have them."""
    tracker.deliver(
        checkpoint_, lambda: log_curve(tracker, checkpoint.load_history(store, checkpoint_))
    )


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
