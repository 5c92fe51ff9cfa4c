"""The averaged weights as a registered MLflow model: code, safetensors and JSON, no pickle."""

import hashlib
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

import ddpm_core
from ddpm_core.config import RunConfig
from ddpm_core.recipes.nearest import command_of
from ddpm_core.runs import results
from ddpm_core.runs.weights import Weights
from ddpm_core.shards.classes import Classes, labelled_classes
from ddpm_core.store.storage import Store
from ddpm_core.tracking.champion import Score, move_alias, owns
from ddpm_core.tracking.mlflow_run import MlflowRun, answers, patience
from ddpm_core.tracking.receiver import Refused

DIGEST_TAG, WEIGHTS = "ema_sha256", "weights"
"""what a version, and its files, say of the weights: SHA-256, and RUN@STEP:AVERAGE"""
GUIDE_TAG = "guide_sha256"
"""the same of the weights that guide them, if any do"""
_SHORT = 8
_REQUIREMENTS = (
    "jaxtyping",
    "mlflow",
    "numpy",
    "pillow",
    "pydantic",
    "safetensors",
    "torch",
    "webdataset",
)
_PACKAGE = Path(ddpm_core.__file__).parent


def model_name(store: Store, config: RunConfig) -> str:
    """Return the name under which the models of a run's data set are registered.

    That of a published data set; of images of somebody's with the beginning of its fingerprint.
    """
    if not config.data.is_collection:
        return f"ddpm-{config.data.name}"
    pointer = results.dataset_pointer(store, config.name)
    known = "" if pointer is None else f"-{pointer.fingerprint[:_SHORT]}"
    return f"ddpm-{config.data.name}{known}"


def register_model(
    run: MlflowRun,
    store: Store,
    config: RunConfig,
    weights: Weights,
    *,
    score: Score | None = None,
    is_champion: bool = True,
) -> None:
    """Upload the model, register it, and let it compete; what is done is not done again.

    Everybody's runs on a data set are versions of one model there.

    Args:
        run: the MLflow run that it belongs to.
        store: where the checkpoint lies.
        config: the run's.
        weights: an average; the run's metrics at their step go with the model.
        score: by which it is compared; None: nothing was measured.
        is_champion: whether these are weights that the alias may be for.

    Raises:
        Unreachable: the server did not answer.
        Refused: it answered no.
    """
    name, digests = model_name(store, config), _digests(weights)
    with answers(run.heard):
        versions = run.client.search_model_versions(f"name = '{name}'")
        run.heard()
        known = [one for one in versions if _is_of(one.tags, digests) and owns(run, one)]
        if known:
            newest = max(known, key=lambda one: int(one.version))
        else:
            model = _uploaded(run, store, config, weights)
            _log_metrics(run, model.model_id, weights.step)
            about = {**digests, "step": str(weights.step), WEIGHTS: weights.name}
            about |= {"guide": weights.weaker.name} if weights.weaker is not None else {}
            about |= run.identity.recorded.tags
            newest = _new_version(
                run, name, model, about, _description(name, config, weights, score)
            )
        for key, value in ({} if score is None else score.tags).items():
            if newest.tags.get(key) != value:
                run.client.set_model_version_tag(name, newest.version, key, value)
        if is_champion:
            move_alias(run, name, newest, score)


def _digests(weights: Weights) -> dict[str, str]:
    """Return what tells a model from those of other weights, and of others that guide them."""
    guide = {} if weights.weaker is None else {GUIDE_TAG: weights.weaker.sha256}
    return {DIGEST_TAG: weights.sha256, **guide}


def _is_of(tags: Mapping[str, str], digests: Mapping[str, str]) -> bool:
    return all(tags.get(tag) == digests.get(tag) for tag in (DIGEST_TAG, GUIDE_TAG))


def save_model(
    folder: Path,
    config: RunConfig,
    weights: Path,
    *,
    name: str = "",
    classes: Classes | None = None,
    weaker: tuple[RunConfig, Path] | None = None,
    model: Model | None = None,
) -> None:
    """Write the MLflow model into `folder`, which must not exist or be empty.

    Args:
        folder: where.
        config: the run's.
        weights: the safetensors file of the averaged weights; its SHA-256 is checked when loading.
        name: which weights they are, as RUN@STEP:AVERAGE.
        classes: that the labels of its images stand for, whose names a model of classes takes;
            None: not known, or it has none.
        weaker: configuration and file of the weights that guide these; None: there are none.
        model: what MLflow should know besides; None for a model of no run.

    Raises:
        Refused: MLflow cannot make a model of this.
    """
    with tempfile.TemporaryDirectory() as scratch, _no_bytecode():
        files, digests = {"weights": weights}, {DIGEST_TAG: _sha256(weights)}
        runs = {"run": config}
        if weaker is not None:
            runs["guide_run"], files["guide"] = weaker
            digests[GUIDE_TAG] = _sha256(weaker[1])
        for role, one in runs.items():
            files[role] = Path(scratch) / f"{role}.json"
            files[role].write_text(one.to_json())
        try:
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(_PACKAGE / "sampling" / "served_model.py"),
                artifacts={role: str(file) for role, file in files.items()},
                model_config={
                    **digests,
                    WEIGHTS: name,
                    **_said_of(classes),
                },
                code_paths=[str(_PACKAGE)],
                signature=signature(config, has_classes=classes is not None),
                # The model folder then holds serving_input_example.json: a request to copy.
                input_example=({"index": [0, 1, 2, 3]}, {"seed": 0, "count": 4}),
                # Without "+cpu" and the like, which no index knows.
                pip_requirements=[f"{one}=={version(one).split('+')[0]}" for one in _REQUIREMENTS],
                mlflow_model=model,
            )
        except MlflowException as error:
            # Raised locally: retrying cannot help.
            raise Refused(str(error)) from error


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _said_of(classes: Classes | None) -> dict[str, Any]:
    if classes is None:
        return {}
    return {"classes": list(classes.names), "class_counts": list(classes.counts)}


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Keep Python from writing .pyc files beside modules that MLflow imports to inspect them."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def signature(config: RunConfig, *, has_classes: bool = False) -> ModelSignature:
    """Return what the model takes and gives: see `sampling.served_model`.

    Args:
        config: the run's.
        has_classes: whether its images are of classes, also if its network takes no labels.
    """
    channels, height, width = config.data.shape
    params = [
        ParamSpec("seed", "long", 0),
        ParamSpec("count", "long", 4),
        ParamSpec("sampler", "string", ""),
        ParamSpec("num_steps", "long", 0),
        ParamSpec("format", "string", "array"),
    ]
    if config.num_classes is not None or has_classes:
        params.append(ParamSpec("labels", "string", [], shape=(-1,)))
    if config.num_classes is not None or config.sample.guidance_by is not None:
        params.append(ParamSpec("guidance_scale", "double", config.sample.guidance_scale))
    return ModelSignature(
        inputs=Schema([ColSpec("long", "index", required=False)]),
        outputs=Schema([TensorSpec(np.dtype(config.data.dtype), (-1, height, width, channels))]),
        params=ParamSchema(params),
    )


def _uploaded(run: MlflowRun, store: Store, config: RunConfig, weights: Weights) -> LoggedModel:
    """Return the `LoggedModel` of these weights, made if an earlier try did not get that far."""
    digests = _digests(weights)
    of_weights = run.client.search_logged_models(
        [run.experiment_id],
        filter_string=f"source_run_id = '{run.run_id}' AND tags.{DIGEST_TAG} = '{weights.sha256}'",
    )
    found = [one for one in of_weights if _is_of(one.tags, digests)]
    ready = [one for one in found if one.status == LoggedModelStatus.READY]
    if ready:
        return ready[0]
    begun = found or [
        run.client.create_logged_model(
            run.experiment_id, _logged_name(config), source_run_id=run.run_id, tags=digests
        )
    ]
    model_id = begun[0].model_id
    with tempfile.TemporaryDirectory() as scratch:
        folder, file = Path(scratch) / "model", Path(scratch) / "ema.safetensors"
        _fetch(store, weights, file)
        about = Model(run_id=run.run_id, model_id=model_id)
        classes = labelled_classes(store, config)
        weaker = None
        if weights.weaker is not None:
            weaker = weights.weaker.trained, Path(scratch) / "guide.safetensors"
            _fetch(store, weights.weaker, weaker[1])
        save_model(
            folder,
            config,
            file,
            name=weights.name,
            classes=classes,
            weaker=weaker,
            model=about,
        )
        file.unlink()  # the folder has a copy, and a disk may hold just two
        run.heard()
        with patience(weights.checkpoint.files[weights.role].size):
            run.client.log_model_artifacts(model_id, str(folder))
        run.heard()
    return run.client.finalize_logged_model(model_id, LoggedModelStatus.READY)


def _logged_name(config: RunConfig) -> str:
    """Return the run's name without what MLflow does not take in a model's."""
    return re.sub(r"[^0-9A-Za-z_-]", "-", config.name)


def _fetch(store: Store, weights: Weights, file: Path) -> None:
    """Copy the weights into `file`, verified; from a disk without holding them in memory.

    Raises:
        DamagedError: they are not what was committed.
        StorageError: the storage does not answer.
    """
    checkpoint, record = weights.checkpoint, weights.checkpoint.files[weights.role]
    source = store.local_path(f"{checkpoint.folder}/{record.name}")
    if source is not None and source.is_file():
        shutil.copyfile(source, file)
        with file.open("rb") as copy:
            if hashlib.file_digest(copy, "sha256").hexdigest() == record.sha256:
                return
    # Not on a disk; or damaged, which this says in words.
    file.write_bytes(checkpoint.read(store, weights.role))


def _log_metrics(run: MlflowRun, model_id: str, step: int) -> None:
    """Attach the run's latest metrics to the model, if they are of this step."""
    metrics = run.client.get_run(run.run_id).to_proto().data.metrics
    now = time.time_ns() // 1_000_000
    of_step = [
        Metric(one.key, one.value, one.timestamp or now, one.step, model_id=model_id)
        for one in metrics
        if one.step == step
    ]
    if of_step:
        # The same key, step and time as the run's own: the run gets no second point.
        run.client.log_batch(run.run_id, metrics=of_step)


def _description(name: str, config: RunConfig, weights: Weights, score: Score | None) -> str:
    """Return what the version's page says of it, in Markdown: a card of the model."""
    request = '{"inputs": [], "params": {"seed": 0, "count": 4, "format": "png"}}'
    shape = "×".join(map(str, config.data.shape))
    again = f"made again by\n\n    {command_of(config)}"
    if results.is_imported(weights.checkpoint):
        again = "imported, not trained here."
    measured = "not measured" if score is None else f"{score.metric} {score.value:.4g}"
    return (
        f"Draws images like those of `{config.data.name}`, {shape}, and of nothing else; "
        f"{config.num_parameters / 1e6:.2f} M parameters, {weights.step} steps. Measured: "
        f"{measured}; the protocol and all other numbers are in the source run's "
        f"`report.html`.\n\nWeights `{weights.name}`, SHA-256 `{weights.sha256}`, "
        f"{again}\n\nWith the number of this version, `mlflow models serve --env-manager local -m "
        f"models:/{name}/VERSION -p 5001` serves them, and\n\n    curl localhost:5001/invocations "
        f"-H 'Content-Type: application/json' -d '{request}'\n\n"
        "returns four PNG files in base64; without `format` count × height × width × channels."
    )


def _new_version(
    run: MlflowRun, name: str, model: LoggedModel, tags: dict[str, str], description: str
) -> Any:  # noqa: ANN401
    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not models:/<id>: without a server MLflow would look that up in another database.
    return run.client.create_model_version(
        name,
        model.artifact_location,
        run_id=run.run_id,
        tags=tags,
        description=description,
        await_creation_for=0,
        model_id=model.model_id,
    )
