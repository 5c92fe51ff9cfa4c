"""What a run consists of, what of it is done, and the command that does the rest.

Knows neither Prefect nor Ray: that a run is finished is seen without starting either.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_core import preflight
from ddpm_core.canonical import MAX_JSON_BYTES, fingerprint
from ddpm_core.config import RunConfig, identity
from ddpm_core.errors import ConfigError
from ddpm_core.preflight import Findings
from ddpm_core.recipes import RECIPES, is_recipe, recipe
from ddpm_core.recipes.sizes import dialled
from ddpm_core.runs import chosen, layout
from ddpm_core.runs.reference import given, is_own, keys_given
from ddpm_core.runs.run import configure, refuse_training_imported
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import KeyMissingError, Store, open_store
from ddpm_core.tracking.place import is_database, redacted, without_user
from ddpm_core.tracking.receipts import page_of
from flows.ray_address import require_answer

UI_URL = "http://127.0.0.1:5000"
"""where `make ui` shows MLflow"""
PROJECT = Path(__file__).resolve().parents[1]


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


def changes_of(
    recipe: str,
    *,
    overrides: Mapping[str, Any] | None,
    size: int | None,
    scale: str | None,
    data: str | None,
) -> dict[str, Any]:
    """Return the changes that a flow's parameters make to its recipe, as `{"section.key": value}`.

    Raises:
        ConfigError: two of them say different things.
    """
    given = dict(overrides or {})
    if data is not None and given.setdefault("data.sets", data) != data:
        raise ConfigError(
            f"data={data!r}, and overrides give data.sets={given['data.sets']!r}; leave one out"
        )
    return dialled(recipe, size=size, scale=scale, changes=given)


def with_weights(
    store: Store, config: RunConfig, overrides: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return the overrides with which all stages of a flow use the same weights.

    Those of another run are named by step and SHA-256: each stage resolves a reference when it
    begins, and the other run's training may go on between two of them.

    Raises:
        PipelineError: they are not there.
    """
    others = [key for key in keys_given(config) if not is_own(config, key)]
    if not others:
        return overrides
    named = {key: chosen.require_named(store, config, key).pinned for key in others}
    return {**(overrides or {}), **{f"sample.{key}": text for key, text in named.items()}}


def parameters_of(config: RunConfig, store: Store, target: str) -> dict[str, Any]:
    """Return the flow's parameters that resolve to `config` under `store`."""
    # An ablation is a recipe and what differs from it; a run.json is that of the nearest one.
    bases = [target.partition(":")[0]] if is_recipe(target) else RECIPES
    changes = {base: _changes(config, base) for base in bases}
    base = min(changes, key=lambda base: len(changes[base]))
    return {"recipe": base, "root": store.uri, "run": config.name, "overrides": changes[base]}


def _changes(config: RunConfig, base: str) -> dict[str, Any]:
    """Return the keys, without the name, in which `config` differs from the recipe `base`."""
    changed = _changed(recipe(base), config)
    return {key: value for key, value in changed.items() if key != "name"}


def _changed(base: RunConfig, config: RunConfig) -> dict[str, Any]:
    """Return the changes that make `config` of `base`: a section of another kind is given whole."""
    before, now = base.flat(), config.flat()
    kinds = [key for key in now if key.endswith(".kind") and now[key] != before[key]]
    whole = tuple(kind.removesuffix("kind") for kind in kinds)
    return {
        key: value for key, value in now.items() if key.startswith(whole) or value != before[key]
    }


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
    sections: set[str] = set(STAGES[stage].sections)
    if not sections:
        return prefix
    what = {name: identity.counted(name, getattr(config, name)) for name in sorted(sections)}
    if STAGES[stage].uses_weights and (keys := keys_given(config)):
        what["weights"] = {key: given(config, key) for key in keys}
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
        target = [store.uri_of(key)]
        changes = _changed(RunConfig.from_json(data, origin=store.uri_of(key)), config)
    options = [word for k, v in changes.items() for word in ("--set", f"{k}={json.dumps(v)}")]
    module = ["ddpm_core.several", ",".join([stage, *more])] if more else ["ddpm_core", stage]
    return [python, "-m", *module, *target, *options]


# -- for people ------------------------------------------------------------------------------


def whole_result_of(store: Store, config: RunConfig, stage: str) -> Manifest | None:
    """Return the result of a stage, or None while it is not complete.

    Raises:
        DamagedError: it is there, and what it was committed as it is not.
    """
    found = STAGES[stage].result(store, config)
    if found is not None:
        # They are shown at the end: damage is to be known while it can be mended.
        STAGES[stage].numbers.read(store, found)
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
        stage: one of `STAGES`.
        on_damage: called with a sentence about what is damaged, and what comes of it.
    """
    try:
        return whole_result_of(store, config, stage)
    except DamagedError as error:
        on_damage(f"{error}\n{stage} runs again, sets it aside and makes it anew")
        return None


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
    store: Store, config: RunConfig, ray_address: str | None, stages: Sequence[str]
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


def summary(store: Store, config: RunConfig) -> str:
    """Return what there is now: places, numbers, and how to look at them."""
    made = {stage: result_of(store, config, name) for name, stage in STAGES.items()}
    found = {stage: result for stage, result in made.items() if result is not None}
    rows = [
        (stage.label or stage.name, store.uri_of(result.folder)) for stage, result in found.items()
    ]
    for stage, result in found.items():
        if stage.cover is not None and (picture := result.files.get(stage.cover)) is not None:
            rows.append((stage.cover, store.uri_of(f"{result.folder}/{picture.name}")))
        rows += [(one.name, one.text) for one in stage.numbers.read(store, result)]
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
        return without_user(configured).rstrip("/") + page, "the server of MLFLOW_TRACKING_URI"
    if not is_database(configured) if configured else store.local_path("mlflow.db") is None:
        return None
    return UI_URL + page, f"there while `{_make_ui(store)}` runs"


def _make_ui(store: Store) -> str:
    """Return the command that shows MLflow, quoted for a shell."""
    if not (PROJECT / "Makefile").exists():  # an installed wheel
        return f"python -m ddpm_core.tracking.ui {shlex.quote(store.uri)}"
    if os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return "make ui"
    return f"make ui ROOT={shlex.quote(store.uri)}"
