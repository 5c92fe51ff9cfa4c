"""The registered model: MLflow loads this file, and with it images are one call away.

    mlflow models predict --env-manager local -m models:/ddpm-digits@champion -i request.json
    mlflow models serve --env-manager local -m models:/ddpm-digits@champion -p 5001
    curl localhost:5001/invocations -H 'Content-Type: application/json' -d @request.json

where request.json is `{"inputs": [], "params": {"seed": 0, "count": 4}}`, or names certain
images with `{"inputs": {"index": [7, 8]}, "params": {"seed": 0}}`. `"sampler": "unipc"` and
`"num_steps": 10` draw otherwise than the run did, `"format": "png"` answers with PNG files in
base64. A model of classes takes
`"labels": ["cat", "3"]`, names or numbers in turn, and `"guidance_scale": 2` besides, as does one
that other weights guide; they lie in the model too. A model of texts takes
`"prompts": ["a red seven", "a blue two"]`, of images 0, 1, ... in turn, and the scale. In Python,
`mlflow.pyfunc.load_model("models:/ddpm-digits@champion").predict([], params={"seed": 0})`.
MLFLOW_TRACKING_URI says where the model is, e.g. sqlite:////absolute/root/mlflow.db.
"""

import base64
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import mlflow.pyfunc
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from safetensors import SafetensorError

# The model's folder may be shared, or be checked by its digests: no .pyc files in it.
_writes_bytecode, sys.dont_write_bytecode = not sys.dont_write_bytecode, True
# Models registered before have the package as a folder, which MLflow puts there itself.
if (_package := Path(__file__).parent / "code" / "ddpm_core.zip").is_file():
    sys.path.insert(0, str(_package))

from ddpm_core.config import RunConfig  # noqa: E402
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser  # noqa: E402
from ddpm_core.errors import CheckpointError, ConfigError  # noqa: E402
from ddpm_core.images import png  # noqa: E402
from ddpm_core.inference.build import arithmetic_of, build_denoiser  # noqa: E402
from ddpm_core.inference.denoiser import AveragedNetwork, Guide, score_of  # noqa: E402
from ddpm_core.inference.networks import AnyNetwork, build_network  # noqa: E402
from ddpm_core.sampling.loaded import Model, Wish  # noqa: E402
from ddpm_core.sampling.plan import plan_of  # noqa: E402
from ddpm_core.shards.classes import Classes  # noqa: E402

sys.dont_write_bytecode = not _writes_bytecode

N = TypeVar("N", int, float)
MAX_COUNT = 1024
"""Images of one request."""
_ONE_THREAD_BELOW = 4_000_000
"""Parameters of a network whose layers take less time than threads take to meet. On a machine with
ten busy processes a core, two images of 32x32 in 200 steps took 3.5 s on one thread, and over 600 s
on two, which each wait for the other to get a core: MLflow's server gives up after 60 s."""


class SampledImages(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is Any to mypy
    """Image i of a seed is the one that the sampling stage draws, to the network's rounding."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Build the network from run.json and the weights; on a GPU if there is one.

        Raises:
            CheckpointError: the weights are not the ones that were registered, or do not fit.
            ConfigError: run.json is not valid.
        """
        artifacts, said = context.artifacts, context.model_config
        config = RunConfig.from_json(Path(artifacts["run"]).read_bytes())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trained = _network(config, Path(artifacts["weights"]), said["ema_sha256"])
        network = _averaged(config, trained, device)
        guide: Guide | None = None
        of: RunConfig | None = None
        if "guide" in artifacts:
            of = RunConfig.from_json(Path(artifacts["guide_run"]).read_bytes())
            found = _network(of, Path(artifacts["guide"]), said["guide_sha256"])
            guide = _guide_of(of, found, device)
        size = config.num_parameters
        self._one_thread = size < _ONE_THREAD_BELOW and "OMP_NUM_THREADS" not in os.environ
        names, counts = (context.model_config.get(key) for key in ("classes", "class_counts"))
        classes = Classes(tuple(names), tuple(counts)) if names else None
        denoiser = build_denoiser(config, network, network.null)
        captions = (
            json.loads(Path(artifacts["prompts"]).read_bytes()) if "prompts" in artifacts else ()
        )
        plan = plan_of(config, classes, captions, score=of, may_lack_prompts=True)
        self._model = Model(config, denoiser, guide, plan, device)

    def predict(
        self,
        context: mlflow.pyfunc.PythonModelContext,  # noqa: ARG002 - MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray | list[str]:
        """Return images.

        Args:
            context: MLflow's.
            model_input: the column `index` says which images of the seed, 0 or more each;
                without rows: the first `count`.
            params: `seed`, 0 to 2**63 - 1 (default 0); `count`, 1 to 1024 (default 4);
                `sampler`, one of `sample.sampler` (default, and "": the run's own), and
                `num_steps`, how many steps it takes (default, and 0: as the run, or all of another
                sampler); `format`, array or png. Of a
                model of classes: `labels`, names or numbers that images 0, 1, ... have in turn
                (default: as in the run's samples); `guidance_scale`, 0 to 1000, above 0 where
                a weaker model guides (default: theirs; interval, rescaling and threshold are always
                theirs). Of a model of texts: `prompts`, that images 0, 1, ... have in turn
                (default: as in the run's samples), and the scale.

        Returns:
            (count, height, width, channels) uint8, or uint16 of data.depth=16; of format=png the
            PNG file of each image in base64.

        Raises:
            MlflowException: what cannot be done; the server answers 400 with the reason.
        """
        values = params or {}
        seed = _within("seed", int(values.get("seed", 0)), 0, 2**63 - 1)
        count = _within("count", int(values.get("count", 4)), 1, MAX_COUNT)
        indices = list(range(count))
        if "index" in model_input and len(model_input):
            _within("number of rows", len(model_input), 1, MAX_COUNT)
            indices = [_within("index", int(one), 0, 2**63 - 1) for one in model_input["index"]]
        form = values.get("format", "array")
        if form not in ("array", "png"):
            raise _refused(f"format={form!r} must be array or png")
        scale = values.get("guidance_scale")
        labels = values.get("labels", [])
        wish = Wish(
            sampler=values.get("sampler") or None,
            num_steps=int(values.get("num_steps", 0)) or None,
            # A model of no classes was always free to ignore them.
            labels=[str(label) for label in labels] if self._model.plan.has_classes else [],
            prompts=[str(one) for one in values.get("prompts", [])],
            guidance_scale=None if scale is None else float(scale),
        )
        try:
            drawing = self._model.drawing(wish)
            with _threads(1 if self._one_thread else torch.get_num_threads()):
                images = self._model.images(indices, drawing, seed=seed)
        except ConfigError as error:  # some, as of a classifier and a sampler, while drawing
            raise _refused(str(error)) from None
        if form == "png":
            return [base64.b64encode(png.encode(image)).decode() for image in images]
        return images


def _guide_of(config: RunConfig, network: AnyNetwork, device: torch.device) -> Guide:
    if config.role != "denoiser":
        return score_of(config, network, device)
    averaged = _averaged(config, network, device)
    guide = build_denoiser(config, averaged, averaged.null)
    if isinstance(guide, BitDenoiser):
        raise CheckpointError("the guide of this model is a chain of bits; register again")
    return guide


def _averaged(config: RunConfig, network: AnyNetwork, device: torch.device) -> AveragedNetwork:
    dtype = arithmetic_of(config.train.precision, device)
    return AveragedNetwork(network, device, dtype=dtype)


def _network(config: RunConfig, file: Path, sha256: str) -> AnyNetwork:
    """Return the network of a file of weights, verified."""
    weights = file.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"the weights of this model have SHA-256 {found}, registered were {sha256}; download "
            "the model again"
        )
    network = build_network(config)
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights of this model do not fit its run.json: {error}; register it again"
        ) from error
    return network


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Give torch so many threads; the process may be a user's, who set another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forget_bytecode() -> None:
    """Delete the .pyc of this very file, which Python wrote before it ran the first line."""
    cached = Path(importlib.util.cache_from_source(__file__))
    with suppress(OSError):  # none was written, or there are others beside it
        cached.unlink()
        cached.parent.rmdir()


def _within(name: str, value: N, low: int, high: int) -> N:
    if not low <= value <= high:
        raise _refused(f"{name}={value} must be {low} to {high}")
    return value


def _refused(reason: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(f"{reason}; change it in the request")


if __name__.startswith("code_model_"):  # as MLflow names it, from the model's folder
    _forget_bytecode()
set_model(SampledImages())
