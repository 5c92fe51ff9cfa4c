"""What a run consists of, what of it is done, and the command that does the rest.

Knows neither Prefect nor Ray: that a run is finished is seen without starting either.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ddpm_core import preflight
from ddpm_core.canonical import MAX_JSON_BYTES, fingerprint
from ddpm_core.config import RunConfig, identity
from ddpm_core.preflight import Findings
from ddpm_core.recipes import RECIPES, is_recipe, recipe
from ddpm_core.runs import layout
from ddpm_core.runs.run import configure, refuse_training_imported
from ddpm_core.runs.stages import RESULTS
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import KeyMissingError, Store, open_store
from ddpm_core.tracking.place import is_database, redacted
from ddpm_core.tracking.receipts import page_of
from flows.ray_address import require_answer

PIPELINE = ("shard", "train", "sample", "evaluate")
"""the stages of `train-ddpm`"""
PAPER = (*PIPELINE, "study", "ablations")
"""the stages of `paper`"""
UI_URL = "http://127.0.0.1:5000"
"""where `make ui` shows MLflow"""


def resolve(
    target: str, *, root: str | None, run: str | None, overrides: Mapping[str, Any] | None
) -> tuple[Store, RunConfig]:
    """Return the store and the configuration that these parameters name.

    Args:
        target: a recipe, perhaps with an ablation, or path or URI of a run.json.
        root: folder or s3://bucket/prefix; None: where the run.json lies, else ./runs.
        run: name of the run; None: the recipe's.
        overrides: `{"section.key": value}`.

    Raises:
        ConfigError: naming what is wrong with them.
        StorageError: the root does not answer.
    """
    where, config = configure(target, root=root, run=run, changes=overrides or {})
    refuse_training_imported(target, root=root, config=config)
    return open_store(where), config


def parameters_of(config: RunConfig, store: Store, target: str) -> dict[str, Any]:
    """Return the flow's parameters that resolve to `config` under `store`."""
    # An ablation is a recipe and what differs from it; a run.json is that of the nearest one.
    bases = [target.partition(":")[0]] if is_recipe(target) else RECIPES
    changes = {base: _changes(config, base) for base in bases}
    base = min(changes, key=lambda base: len(changes[base]))
    return {
        "recipe": base,
        "root": store.uri,
        "run": config.name,
        "overrides": changes[base],
    }


def _changes(config: RunConfig, base: str) -> dict[str, Any]:
    """Return the keys, without the name, in which `config` differs from the recipe `base`."""
    recipes, ours = recipe(base).flat(), config.flat()
    return {k: v for k, v in ours.items() if k != "name" and v != recipes[k]}


# -- jobs ------------------------------------------------------------------------------------


def run_prefix(store: Store, run: str, stage: str) -> str:
    """Return how the ids of all jobs of this stage of this run begin.

    It names the root too: the same name under another root is another run.
    """
    return f"{run}-{stage}-{hashlib.sha256(store.uri.encode()).hexdigest()[:6]}"


def job_prefix(store: Store, config: RunConfig, stage: str) -> str:
    """Return the id, without the number of the attempt, of the jobs that make this very result.

    A run may be sampled and evaluated in several ways, which are different jobs.
    """
    prefix = run_prefix(store, config.name, stage)
    if stage in ("shard", "train"):
        return prefix
    what = {"sample": identity.counted("sample", config.sample)}
    if stage != "sample":
        what["evaluate"] = identity.counted("evaluate", config.evaluate)
    if stage in ("study", "ablations"):
        what["study"] = identity.counted("study", config.study)
    return f"{prefix}-{fingerprint(what)[:6]}"


def job_command(store: Store, config: RunConfig, stage: str, *more: str, python: str) -> list[str]:
    """Return program and arguments of a stage: its run.json, and what differs from it.

    Of a run that has no run.json, since no stage of it has a result yet: the nearest recipe. With
    `more` stages it is one process that runs them after the first.
    """
    key = layout.run_json_key(config.name)
    try:
        data = store.read(key, at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        given = parameters_of(config, store, "")
        target = [given["recipe"], "--root", store.uri, "--run", config.name]
        changes = given["overrides"]
    else:
        recorded = RunConfig.from_json(data, origin=store.uri_of(key)).flat()
        target = [store.uri_of(key)]
        changes = {k: v for k, v in config.flat().items() if v != recorded[k]}
    options = [word for k, v in changes.items() for word in ("--set", f"{k}={json.dumps(v)}")]
    module = ["ddpm_core.several", ",".join([stage, *more])] if more else ["ddpm_core", stage]
    return [python, "-m", *module, *target, *options]


# -- for people ------------------------------------------------------------------------------


def whole_result_of(store: Store, config: RunConfig, stage: str) -> Manifest | None:
    """Return the result of a stage, or None while it is not complete.

    Raises:
        DamagedError: it is there, and what it was committed as it is not.
    """
    found = RESULTS[stage](store, config)
    if found is not None and stage == "evaluate":
        metrics_of(store, found)  # shown at the end: damage is to be known while it can be mended
    return found


def result_of(
    store: Store,
    config: RunConfig,
    stage: str,
    *,
    on_damage: Callable[[str], None] = lambda _: None,
) -> Manifest | None:
    """Return the result of a stage; None if there is none, or a damaged one: the stage mends it.

    Args:
        store: the root.
        config: of the run.
        stage: one of `RESULTS`.
        on_damage: called with a sentence about what is damaged, and what comes of it.
    """
    try:
        return whole_result_of(store, config, stage)
    except DamagedError as error:
        on_damage(f"{error}\n{stage} runs again, sets it aside and makes it anew")
        return None


def is_done(store: Store, config: RunConfig, stages: Sequence[str] = PIPELINE) -> bool:
    """Return whether nothing is left to do."""
    return all(result_of(store, config, stage) is not None for stage in stages)


def check(
    store: Store,
    config: RunConfig,
    stages: Sequence[str],
    ray_address: str | None,
    *,
    look: bool = True,
) -> Findings:
    """Refuse now what any of these stages would refuse after the stages before it.

    What a cluster holds, and which files are there, only a stage on it can say.

    Raises:
        PipelineError: see `ddpm_core.preflight.preflight`.
        ClusterError: no cluster answers at `ray_address`.
    """

    def command(stage: str) -> str:
        return shlex.join(job_command(store, config, stage, python="python"))

    here = ray_address is None
    found = preflight.preflight(store, config, stages, command=command, here=here, look=look)
    if ray_address is not None and found.missing:
        require_answer(ray_address)
    return found


def describe(
    store: Store, config: RunConfig, ray_address: str | None, stages: Sequence[str] = PIPELINE
) -> str:
    """Return a line for each stage: done and where, or what would run."""
    where = ray_address or "an embedded Ray on this machine"
    workers, lines = config.compute.num_workers, [f"plan for run {config.name!r}:"]
    for stage in stages:
        found = result_of(store, config, stage)
        state = (
            f"done: {store.uri_of(found.folder)}"
            if found is not None
            else f"would run with {workers} worker{'s' if workers > 1 else ''} on {where}"
        )
        lines.append(f"  {stage:<9} {state}")
    return "\n".join(lines)


def headline(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of the numbers to look at first, each with what it was measured on."""
    bits, distance = metrics["bits_per_dim"], metrics["frechet_distance"]
    error = bits.get("standard_error")
    spread = "" if error is None else f" ± {error:.3f}"
    rows = [
        (
            "bits/dim",
            f"{bits['value']:.3f}{spread}  (bound, {bits['protocol']['num_images']} held-out "
            "images)",
        ),
        ("Frechet distance", _distance(distance)),
    ]
    if (score := metrics.get("inception_score")) is not None:
        classes = score["protocol"]["num_classes"]
        rows.append(
            (
                "inception score",
                f"{score['value']:.2f}  (at most {classes}; held-out images {score['test']:.2f})",
            )
        )
    return rows


def _distance(distance: Mapping[str, Any]) -> str:
    if distance["value"] is None:
        return f"not measured: {distance['reason']}"
    counts = distance["protocol"]["num_images"]
    return (
        f"{distance['value']:.2f}  (floor {distance['test_train']:.2f}; {counts['samples']} "
        f"samples, {counts['test']} held-out images)"
    )


def metrics_of(store: Store, evaluation: Manifest) -> dict[str, Any]:
    """Return the numbers of an evaluation, verified."""
    numbers: dict[str, Any] = json.loads(evaluation.read(store, "metrics"))
    return numbers


def file_uri(store: Store, result: Manifest, role: str) -> str | None:
    """Return where the file of that role lies; None if the result has none."""
    record = result.files.get(role)
    return None if record is None else store.uri_of(f"{result.folder}/{record.name}")


def summary(store: Store, config: RunConfig) -> str:
    """Return what there is now: places, numbers, and how to look at them."""
    found = {stage: result_of(store, config, stage) for stage in RESULTS}
    rows = []
    for stage, name in (
        ("shard", "shards"), ("train", "checkpoint"), ("sample", "samples"),
        ("evaluate", "figures"), ("study", "study"), ("ablations", "ablations"),
    ):  # fmt: skip
        if (result := found[stage]) is not None:
            rows.append((name, store.uri_of(result.folder)))
    if (samples := found["sample"]) is not None and (grid := file_uri(store, samples, "grid")):
        rows.append(("grid", grid))
    if (evaluation := found["evaluate"]) is not None:
        rows += headline(metrics_of(store, evaluation))
    rows.append(("look at it", _look(store, config.name)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _look(store: Store, run: str) -> str:
    found = mlflow_page(store, run)
    if found is None:
        configured = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        return redacted(configured) or "no MLflow: set MLFLOW_TRACKING_URI for a root on S3"
    page, when = found
    return f"{page}   ({when})"


def mlflow_page(store: Store, run: str) -> tuple[str, str] | None:
    """Return the URL of the run's page in MLflow, and when it is there; None if there is none.

    There is none without MLflow, and none that is known for a service like Azure ML. As long as
    nothing of the run has reached MLflow, the URL is that of its first page.
    """
    configured = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    page = page_of(store, run) or ""
    if configured.startswith(("http://", "https://")):
        return without_password(configured).rstrip("/") + page, "the server of MLFLOW_TRACKING_URI"
    if not is_database(configured) if configured else store.local_path("mlflow.db") is None:
        return None
    return UI_URL + page, f"there while `{_make_ui(store)}` runs"


def _make_ui(store: Store) -> str:
    """Return the command that shows MLflow, as a shell takes it."""
    if os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return "make ui"
    return f"make ui ROOT={shlex.quote(store.uri)}"


def without_password(uri: str) -> str:
    """Return the URI as it may be shown."""
    parts = urlsplit(uri)
    return redacted(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
