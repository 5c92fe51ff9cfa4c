"""The evaluate stage: bits/dim and Frechet distance on held-out images, figures, the model."""

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

from ddpm_core import cluster
from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.evaluation import figures, metrics
from ddpm_core.evaluation.desk import payload_of
from ddpm_core.evaluation.features import (
    FeatureRecipe,
    describe_network,
    feature_recipe,
    keep_foreign_network,
)
from ddpm_core.evaluation.metrics import Collector
from ddpm_core.evaluation.worker import (
    Result,
    Unit,
    feature_units,
    likelihood_units,
    make_worker,
)
from ddpm_core.loading.loader import load_split
from ddpm_core.progress import Progress
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.places import Place
from ddpm_core.sampling.stage import deliver_samples
from ddpm_core.sampling.units import first_images
from ddpm_core.shards.index import Index, load_index
from ddpm_core.shards.one_class import why_no_distance
from ddpm_core.store import manifest
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.tracking import Tracker, open_tracker
from ddpm_core.training.checkpoint import Curve, load_history
from ddpm_core.training.worker import deliver_curve

METRICS_ROLE = "metrics"
_NUM_COMPARED = 100


@dataclass(frozen=True)
class Inputs:
    """What is measured, all of it committed."""

    store: Store
    config: RunConfig
    checkpoint: Manifest
    index: Index
    samples: Manifest

    @classmethod
    def of(cls, store: Store, config: RunConfig) -> Self:
        checkpoint = results.final_checkpoint(store, config)
        if checkpoint is None:
            raise CheckpointError(
                f"run {config.name!r} has no checkpoint of step {config.train.num_steps} below "
                f"{store.uri_of(layout.checkpoints_folder(config.name))}; run the train stage first"
            )
        found, samples = results.dataset_of(store, config), results.samples_of(store, config)
        if found is None or samples is None:
            what, stage = ("data set", "shard") if found is None else ("samples", "sample")
            command = layout.stage_command(store, config.name, stage)
            raise DataError(
                f"run {config.name!r} has no complete {what}; run the {stage} stage first: "
                f"{command}"
            )
        index = load_index(store, found.folder, found.body["fingerprint"])
        return cls(store, config, checkpoint, index, samples)

    @property
    def place(self) -> Place:
        """Where the evaluation lies, or will."""
        return places.evaluation(self.store, self.config, self.checkpoint, self.index.fingerprint)

    @property
    def why_no_distance(self) -> str | None:
        """Why there is no feature network to measure a distance with; None if there is one."""
        return why_no_distance(self.config, self.index)

    @property
    def recipe(self) -> FeatureRecipe | None:
        """Of the feature network, if there is one."""
        index = self.index
        if self.why_no_distance is not None:
            return None
        return feature_recipe(self.config.evaluate, index.manifest.folder, index.fingerprint)

    @property
    def units(self) -> list[Unit]:
        """The bound first: its units take longest, and those that come last should be short."""
        num_train, num_test = (self.index.num_images[split] for split in ("train", "test"))
        return [
            *likelihood_units(self.config.evaluate, num_test),
            *(feature_units(self.config, num_train, num_test) if self.recipe else []),
        ]

    @property
    def history(self) -> Curve:
        """The curves of the training."""
        return load_history(self.store, self.checkpoint)

    @property
    def weights(self) -> dict[str, Any]:
        """Which weights these are, for the protocols."""
        return places.measured_weights(self.config, self.checkpoint, self.index.fingerprint)


def run_evaluate(store: Store, config: RunConfig) -> dict[str, Any]:
    """Measure the run's final weights and its samples, and return the numbers.

    What was measured before is read, and what MLflow may have missed is sent.

    Returns:
        `{"bits_per_dim": {"value": ..., "protocol": ...}, "frechet_distance": {...},
        "inception_score": {...}}`, as in the file of the role `metrics`; the last is None where
        the feature network has no classes. Where there is no feature network the distance has the
        value None and a `reason`.

    Raises:
        CheckpointError: the training is not finished.
        DataError: the data set or the samples are not there.
        ClusterError: workers were lost too often.
    """
    inputs = Inputs.of(store, config)
    with open_tracker(store, config, stage="evaluate") as tracker:
        committed = _intact(inputs)
        note = f", done already: {store.uri_of(committed.folder)}" if committed else ""
        if committed is None:
            tracker.begin()
            committed = _measure(inputs)
        numbers: dict[str, Any] = json.loads(committed.read(store, METRICS_ROLE))
        if not tracker.is_variant:
            # A training that was killed after its last checkpoint has nobody else who does.
            deliver_curve(tracker, store, inputs.checkpoint)
        deliver_samples(tracker, store, config, inputs.samples)
        deliver_evaluation(tracker, inputs, committed)
    total = len(inputs.units)
    Progress("evaluate", total, total, "units", summary(numbers) + note).show()
    return numbers


def summary(numbers: dict[str, Any]) -> str:
    """Return the numbers in one line."""
    bits, distance = numbers["bits_per_dim"], numbers["frechet_distance"]
    score = numbers.get("inception_score")
    error = f" ± {bits['standard_error']:.3f}" if bits["standard_error"] is not None else ""
    if distance["value"] is None:
        return f"{bits['value']:.3f}{error} bits/dim, no Frechet distance: {distance['reason']}"
    return (
        f"{bits['value']:.3f}{error} bits/dim, Frechet distance {distance['value']:.2f} "
        f"(floor {distance['test_train']:.2f})"
        + (f", inception score {score['value']:.2f}" if score else "")
    )


def _intact(inputs: Inputs) -> Manifest | None:
    """Return what was measured before, if every file of it is whole; else it is set aside."""
    place = inputs.place
    return manifest.intact(inputs.store, place.folder, place.expected)


def _measure(inputs: Inputs) -> Manifest:
    """Have all units worked on, and publish numbers, curves and figures."""
    store, config = inputs.store, inputs.config
    if inputs.recipe is not None:
        keep_foreign_network(store, config, inputs.recipe)
    units, collector, done = inputs.units, Collector(), 0

    def on_done(unit: Unit, result: Result) -> None:
        nonlocal done
        collector.add(unit, result)
        done += 1
        Progress("evaluate", done, len(units), "units").show()

    Progress("evaluate", 0, len(units), "units").show()
    payload = payload_of(store.uri, config, inputs.index.pointer, inputs.recipe)
    with cluster.connect(config.compute):
        cluster.map_units(make_worker, payload, units, config.compute, on_done=on_done)
    return _publish(inputs, collector)


def _publish(inputs: Inputs, collector: Collector) -> Manifest:
    store, config, weights = inputs.store, inputs.config, inputs.weights
    bound = collector.bound()
    num_test = inputs.index.num_images["test"]
    numbers = {
        "bits_per_dim": metrics.bits_per_dim_metric(
            bound, config, weights, num_test_images=num_test
        ),
        **_of_features(inputs, collector),
    }
    contents = {
        METRICS_ROLE: (".json", _json(numbers)),
        "likelihood": (".json", _json(metrics.likelihood_artifact(bound))),
        "likelihood-figure": (".png", figures.likelihood_figure(bound)),
        "rate-distortion-figure": (".png", figures.rate_distortion_figure(bound)),
        "loss-figure": (
            ".png",
            figures.loss_figure(inputs.history, label=figures.loss_label(config)),
        ),
        "comparison-figure": (".png", _comparison(inputs)),
    }
    place = inputs.place
    folder, expected = place.folder, place.expected
    files = {
        role: manifest.write_file(store, folder, role, suffix, data)
        for role, (suffix, data) in contents.items()
    }
    body = {**expected.body, **expected.if_written, "summary": summary(numbers)}
    return manifest.commit(store, folder, files, body)


def _of_features(inputs: Inputs, collector: Collector) -> dict[str, Any]:
    if inputs.recipe is None:
        reason = str(inputs.why_no_distance)
        return {
            "frechet_distance": metrics.no_frechet_metric(inputs.weights, reason=reason),
            "inception_score": None,
        }
    network = describe_network(inputs.store, inputs.recipe)
    config, weights = inputs.config, inputs.weights
    return {
        "frechet_distance": metrics.frechet_metric(
            collector.moments(), config, weights, network=network
        ),
        "inception_score": metrics.inception_metric(
            collector.probabilities(), config, weights, network=network
        ),
    }


def _comparison(inputs: Inputs) -> bytes:
    store, config = inputs.store, inputs.config
    samples = first_images(store, inputs.samples, config.sample, config.data.shape, _NUM_COMPARED)
    with closing(load_split(store, inputs.index, "test")) as held_out:
        held_out_u8 = held_out.images(0, _NUM_COMPARED).permute(0, 2, 3, 1).numpy()
    return figures.comparison_figure(samples, held_out_u8, num_images=_NUM_COMPARED)


def deliver_evaluation(tracker: Tracker, inputs: Inputs, committed: Manifest) -> None:
    """Log what was measured and register the model, unless MLflow is known to have it."""
    tracker.deliver(committed, lambda: _log(tracker, inputs, committed))


def _log(tracker: Tracker, inputs: Inputs, committed: Manifest) -> None:
    store, step = inputs.store, inputs.config.train.num_steps
    numbers: dict[str, Any] = json.loads(committed.read(store, METRICS_ROLE))
    bits, distance = numbers["bits_per_dim"], numbers["frechet_distance"]
    score = numbers.get("inception_score") or {"value": None, "test": None}
    values = {
        "eval/bits_per_dim": bits["value"],
        "eval/bits_per_dim_standard_error": bits["standard_error"],
        "eval/bits_per_dim_prior": bits["prior"],
        "eval/bits_per_dim_rate": bits["rate"],
        "eval/bits_per_dim_decoder": bits["decoder"],
        "eval/frechet_distance_test": distance["samples_test"],
        "eval/frechet_distance_train": distance["samples_train"],
        "eval/frechet_distance_floor": distance["test_train"],
        "eval/inception_score": score["value"],
        "eval/inception_score_test": score["test"],
    }
    tracker.log_metrics({k: v for k, v in values.items() if v is not None}, step=step)
    for role, record in committed.files.items():
        if record.name.endswith(".png"):
            tracker.log_image(f"{role}.png", committed, role)
        else:
            tracker.log_artifact(f"evaluation/{role}.json", committed, role)
    tracker.set_tags({"ddpm.evaluation_uri": store.uri_of(committed.folder)})
    if not tracker.is_variant:
        # Last, so that the model gets the numbers that describe it.
        tracker.register_model(inputs.checkpoint, step=step)


def _json(values: dict[str, Any]) -> bytes:
    canonical_json(values)  # refuses NaN and infinity, which are no JSON
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
