"""The folder of a registered model: code, safetensors and JSON, no pickle; a dozen files.

Each file is a request to a server, and those of the code would be hundreds: it is one zip.
"""

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.package import PACKAGE, write_package
from ddpm_core.shards.classes import Classes
from ddpm_core.tracking.receiver import Refused

DIGEST_TAG, WEIGHTS = "ema_sha256", "weights"
"""what a version, and its files, say of the weights: SHA-256, and RUN@STEP:AVERAGE"""
GUIDE_TAG = "guide_sha256"
"""the same of the weights that guide them, if any do"""
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


def save_model(
    folder: Path,
    config: RunConfig,
    weights: Path,
    *,
    name: str = "",
    classes: Classes | None = None,
    prompts: Sequence[str] = (),
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
        prompts: of its samples, in turn; (): its network takes no text, or they are not known.
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
        if prompts:
            files["prompts"] = Path(scratch) / "prompts.json"
            files["prompts"].write_bytes(canonical_json(list(prompts)))
        code = Path(scratch) / "ddpm_core.zip"
        write_package(code)
        try:
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(PACKAGE / "sampling" / "served_model.py"),
                artifacts={role: str(file) for role, file in files.items()},
                model_config={
                    **digests,
                    WEIGHTS: name,
                    **_said_of(classes),
                },
                code_paths=[str(code)],
                signature=signature(
                    config, has_classes=classes is not None, takes_text=bool(prompts)
                ),
                # The model folder then holds serving_input_example.json: a request to copy.
                input_example=({"index": [0, 1, 2, 3]}, {"seed": 0, "count": 4, **_words(prompts)}),
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


def _words(prompts: Sequence[str]) -> dict[str, list[str]]:
    """Return the prompts of the example of a request: those of its four images."""
    return {"prompts": list(prompts[:4])} if prompts else {}


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Keep Python from writing .pyc files beside modules that MLflow imports to inspect them."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def signature(
    config: RunConfig, *, has_classes: bool = False, takes_text: bool = False
) -> ModelSignature:
    """Return what the model takes and gives: see `sampling.served_model`.

    Args:
        config: the run's.
        has_classes: whether its images are of classes, also if its network takes no labels.
        takes_text: whether they are of texts, also if it takes none.
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
    takes_text = takes_text or config.model.uses_text
    if takes_text:
        params.append(ParamSpec("prompts", "string", [], shape=(-1,)))
    is_given = config.num_classes is not None or takes_text
    if is_given or config.sample.guidance_by is not None:
        params.append(ParamSpec("guidance_scale", "double", config.sample.guidance_scale))
    return ModelSignature(
        inputs=Schema([ColSpec("long", "index", required=False)]),
        outputs=Schema([TensorSpec(np.dtype(config.data.dtype), (-1, height, width, channels))]),
        params=ParamSchema(params),
    )
