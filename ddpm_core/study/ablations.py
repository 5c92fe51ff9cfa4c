"""The ablations stage: the paper's six ways to train, run one after the other, and its table 2.

Each is a run of its own beside the base run, made by the same four stages, and is continued where
it was killed. One whose training diverges is a row of the table that says so, as two are in the
paper.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError, DivergenceError
from ddpm_core.evaluation.delivery import METRICS_ROLE
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.progress import Progress
from ddpm_core.recipes import PAPER_TABLE_2, Table2Row, ablation_runs
from ddpm_core.runs import going_on, places, results
from ddpm_core.runs.places import Place
from ddpm_core.runs.run import check_stage, open_stage
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sampling.units import first_images
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_files
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store
from ddpm_core.study import figures, sheets
from ddpm_core.study.drawings import title_of
from ddpm_core.study.tables import ablation_markdown
from ddpm_core.tracking import Tracker, open_tracker
from ddpm_core.training.stage import run_train

NUMBERS_ROLE = "numbers"
_NUM_SHOWN = 12
_PREDICTIONS = {"x_prev": "μ", "eps": "ε"}
_LOSSES = {"vlb": "L", "simple": "L_simple"}
_RANKINGS = {"frechet_distance_train": "Frechet distance", "bits_per_dim": "bits/dim"}
_MEASURES = {
    "frechet_distance_train": "Fréchet distance to the training images",
    "bits_per_dim": "bits/dim of held-out images",
}


def run_ablations(store: Store, config: RunConfig) -> list[dict[str, Any]]:
    """Run what is missing of the six, and return the rows of the table.

    Raises:
        ConfigError: an ablation does not go with the rest of the configuration.
        DataError, CheckpointError, StorageError, ClusterError: as the stages of a run.
    """
    runs = {name: going_on.as_on_record(store, run) for name, run in ablation_runs(config).items()}
    with open_tracker(store, config, stage="ablations") as tracker:
        place = places.ablations(store, config)
        committed = manifest.intact(store, place.folder, place.expected)
        note = f"done already: {store.uri_of(committed.folder)}" if committed else ""
        if committed is None:
            tracker.begin()
            committed = _publish(store, config, place, _outcomes(store, config, runs))
        rows: list[dict[str, Any]] = json.loads(committed.read(store, NUMBERS_ROLE))["rows"]
        tracker.deliver(committed, lambda: _log(tracker, store, committed, rows))
        Progress("ablations", len(runs), len(runs), "runs", note or summary(rows)).show()
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the ranking in one line."""
    key = _ranked_by(rows)
    known = sorted((row for row in rows if row[key] is not None), key=lambda row: float(row[key]))
    words = [f"{row['name']} {row[key]:.2f}" for row in known]
    words += [f"{row['name']} unstable" for row in rows if row not in known]
    return f"{_RANKINGS[key]}: " + ", ".join(words)


def _ranked_by(rows: list[dict[str, Any]]) -> str:
    """Return by which number the ablations are compared: bits/dim if there is no distance."""
    trained = [row for row in rows if row["diverged"] is None]
    measured = all(row["frechet_distance_train"] is not None for row in trained)
    return "frechet_distance_train" if measured else "bits_per_dim"


@dataclass(frozen=True)
class _Outcome:
    """How an ablation ended: its evaluation and first samples, or why its training did not."""

    run: RunConfig
    numbers: dict[str, Any] | None
    diverged: str | None
    shown_u8: NDArray[np.uint8] | None


def _outcomes(store: Store, config: RunConfig, runs: dict[str, RunConfig]) -> dict[str, _Outcome]:
    found: dict[str, _Outcome] = {}
    # One connection for all: a stage that finds one leaves it open.
    with cluster.connect(config.compute):
        for number, (name, run) in enumerate(runs.items()):
            Progress("ablations", number, len(runs), "runs", f"next: {name}").show()
            found[name] = _outcome(store, run)
    return found


def _outcome(store: Store, run: RunConfig) -> _Outcome:
    # What is damaged the stages make again, each its own part.
    with suppress(DamagedError):
        if (done := _done(store, run)) is not None:
            return done
    check_stage(store, run)
    run_shard(store, run)
    open_stage(store, run)
    try:
        run_train(store, run)
    except DivergenceError as error:
        return _Outcome(run, None, str(error), None)
    run_sample(store, run)
    run_evaluate(store, run)
    if (done := _done(store, run)) is None:
        raise DataError(f"the results of run {run.name!r} are gone again; run again")
    return done


def _done(store: Store, run: RunConfig) -> _Outcome | None:
    """Return how a finished run ended; None while its samples or its evaluation are not there."""
    evaluation, samples = results.evaluation_of(store, run), results.samples_of(store, run)
    if evaluation is None or samples is None:
        return None
    numbers = json.loads(evaluation.read(store, METRICS_ROLE))
    shown_u8 = first_images(store, samples, run.sample, run.data.shape, _NUM_SHOWN)
    return _Outcome(run, numbers, None, shown_u8)


def row_of(name: str, paper: Table2Row, outcome: _Outcome) -> dict[str, Any]:
    """Return a row of the table: what was measured here, and the paper's values on CIFAR-10."""
    diffusion, train = outcome.run.diffusion, outcome.run.train
    row: dict[str, Any] = {
        "name": name,
        "run": outcome.run.name,
        "prediction": diffusion.prediction,
        "loss": train.loss,
        "variance": diffusion.variance,
        "num_steps": train.num_steps,
        "diverged": outcome.diverged,
        "bits_per_dim": None,
        "frechet_distance_train": None,
        "frechet_distance_test": None,
        "inception_score": None,
        "num_samples": outcome.run.sample.num_images,
        "paper": {"inception_score": paper.inception_score, "fid": paper.fid},
    }
    if (numbers := outcome.numbers) is not None:
        score = numbers.get("inception_score")
        row |= {
            "bits_per_dim": numbers["bits_per_dim"]["value"],
            "frechet_distance_train": numbers["frechet_distance"]["samples_train"],
            "frechet_distance_test": numbers["frechet_distance"]["samples_test"],
            "inception_score": score["value"] if score else None,
        }
    return row


def label_of(row: dict[str, Any]) -> str:
    """Return what an ablation is, as the table of the paper has it."""
    learned = "learned" if row["variance"] == "learned" else "fixed"
    return f"{_PREDICTIONS[row['prediction']]}, {_LOSSES[row['loss']]}, {learned} Σ"


def _publish(
    store: Store, config: RunConfig, place: Place, outcomes: dict[str, _Outcome]
) -> Manifest:
    data = title_of(config)
    rows = [row_of(name, PAPER_TABLE_2[name], outcome) for name, outcome in outcomes.items()]
    contents = {
        NUMBERS_ROLE: (".json", (json.dumps({"rows": rows}, indent=2) + "\n").encode()),
        "table": (".md", ablation_markdown(rows, [label_of(row) for row in rows], data).encode()),
        "distances-figure": (
            ".png",
            figures.ablations_figure(
                {label_of(row): row[_ranked_by(rows)] for row in rows},
                measure=_MEASURES[_ranked_by(rows)],
                data=data,
                num_images=config.sample.num_images,
                num_steps=rows[0]["num_steps"],
            ),
        ),
        "samples-sheet": (".png", _samples_sheet(outcomes, rows, data)),
    }
    files = write_files(store, place.folder, contents)
    body = {**place.expected.body, "summary": summary(rows)}
    return commit(store, place.folder, files, body)


def _samples_sheet(outcomes: dict[str, _Outcome], rows: list[dict[str, Any]], data: str) -> bytes:
    """Return the first samples of every ablation: the same noise in each column."""
    strips = []
    for outcome in outcomes.values():
        channels, height, width = outcome.run.data.shape
        shown = np.zeros((_NUM_SHOWN, height, width, channels), np.uint8)
        if outcome.shown_u8 is not None:
            shown[: len(outcome.shown_u8)] = outcome.shown_u8
        strips.append(shown)
    return sheets.ablations_sheet(
        np.stack(strips),
        labels=[label_of(row) for row in rows],
        data=data,
        num_steps=rows[0]["num_steps"],
    )


def _log(tracker: Tracker, store: Store, committed: Manifest, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        keys = ("frechet_distance_train", "frechet_distance_test", "inception_score",
                "bits_per_dim")  # fmt: skip
        known = {key: row[key] for key in keys if row[key] is not None}
        tracker.log_metrics({f"ablations/{row['name']}/{k}": v for k, v in known.items()})
    for role, record in committed.files.items():
        if record.name.endswith(".png"):
            tracker.log_image(f"ablations/{role}.png", committed, role)
        else:
            suffix = record.name.rpartition(".")[2]
            tracker.log_artifact(f"ablations/{role}.{suffix}", committed, role)
    tracker.adopt([row["run"] for row in rows])
    tracker.set_tags({"ddpm.ablations_uri": store.uri_of(committed.folder)})
