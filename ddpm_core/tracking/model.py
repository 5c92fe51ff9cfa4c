"""The averaged weights as a registered MLflow model: code, safetensors and JSON, no pickle."""

import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

import ddpm_core
from ddpm_core.config import RunConfig
from ddpm_core.storage import sha256_of
from ddpm_core.tracking.mlflow_run import MlflowRun, answers, patience
from ddpm_core.tracking.outbox import Refused

ALIAS = "champion"
DIGEST_TAG = "ema_sha256"
_NAME = "ddpm"
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


def model_name(config: RunConfig) -> str:
    """Return the name under which the run's model is registered."""
    return f"ddpm-{config.name}"


def register_model(run: MlflowRun, config: RunConfig, ema: bytes, *, step: int) -> None:
    """Upload the model, register it, and point the alias at it; what is done is not done again.

    Args:
        run: the MLflow run that it belongs to.
        config: the run's.
        ema: the safetensors file of the averaged weights.
        step: the optimiser step of the weights; the run's metrics at it go with the model.

    Raises:
        Unreachable: the server did not answer.
        Refused: it answered no.
    """
    name, digest = model_name(config), sha256_of(ema)
    with answers(), patience():
        versions = run.client.search_model_versions(f"name = '{name}'")
        known = [one for one in versions if one.tags.get(DIGEST_TAG) == digest]
        if known:
            newest = max(known, key=lambda one: int(one.version))
        else:
            model = _uploaded(run, config, ema, digest)
            _log_metrics(run, model.model_id, step)
            newest = _new_version(run, name, model, {DIGEST_TAG: digest, "step": str(step)})
        run.client.set_registered_model_alias(name, ALIAS, newest.version)


def save_model(folder: Path, config: RunConfig, ema: bytes, *, model: Model | None = None) -> None:
    """Write the MLflow model into `folder`, which must not exist or be empty.

    Args:
        folder: where.
        config: the run's.
        ema: the safetensors file of the averaged weights; its SHA-256 is checked when loading.
        model: what MLflow should know besides; None for a model of no run.

    Raises:
        Refused: MLflow cannot make a model of this.
    """
    with tempfile.TemporaryDirectory() as scratch:
        weights, run_json = Path(scratch) / "ema.safetensors", Path(scratch) / "run.json"
        weights.write_bytes(ema)
        run_json.write_text(config.to_json())
        try:
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(_PACKAGE / "sampling" / "served_model.py"),
                artifacts={"weights": str(weights), "run": str(run_json)},
                model_config={DIGEST_TAG: sha256_of(ema)},
                code_paths=[str(_PACKAGE)],
                signature=signature(config),
                # The model folder then holds serving_input_example.json: a request to copy.
                input_example=({"index": [0, 1, 2, 3]}, {"seed": 0, "count": 4}),
                # Without "+cpu" and the like, which no index knows.
                pip_requirements=[f"{one}=={version(one).split('+')[0]}" for one in _REQUIREMENTS],
                mlflow_model=model,
            )
        except MlflowException as error:
            # No server had a part in this: trying again would change nothing.
            raise Refused(str(error)) from error


def signature(config: RunConfig) -> ModelSignature:
    """Return what the model takes and gives: see `sampling.served_model`."""
    channels, height, width = config.data.shape
    return ModelSignature(
        inputs=Schema([ColSpec("long", "index", required=False)]),
        outputs=Schema([TensorSpec(np.dtype("uint8"), (-1, height, width, channels))]),
        params=ParamSchema([ParamSpec("seed", "long", 0), ParamSpec("count", "long", 4)]),
    )


def _uploaded(run: MlflowRun, config: RunConfig, ema: bytes, digest: str) -> Any:  # noqa: ANN401
    """Return the `LoggedModel` of these weights, made if an earlier try did not get that far."""
    found = run.client.search_logged_models(
        [run.experiment_id],
        filter_string=f"source_run_id = '{run.run_id}' AND tags.{DIGEST_TAG} = '{digest}'",
    )
    ready = [one for one in found if one.status == LoggedModelStatus.READY]
    if ready:
        return ready[0]
    begun = list(found) or [
        run.client.create_logged_model(
            run.experiment_id, _NAME, source_run_id=run.run_id, tags={DIGEST_TAG: digest}
        )
    ]
    model_id = begun[0].model_id
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        save_model(folder, config, ema, model=Model(run_id=run.run_id, model_id=model_id))
        run.client.log_model_artifacts(model_id, str(folder))
    return run.client.finalize_logged_model(model_id, LoggedModelStatus.READY)


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


def _new_version(run: MlflowRun, name: str, model: Any, tags: dict[str, str]) -> Any:  # noqa: ANN401
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
        await_creation_for=0,
        model_id=model.model_id,
    )
