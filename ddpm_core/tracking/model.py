"""The averaged weights as a registered MLflow model: code, safetensors and JSON, no pickle."""

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from ddpm_core.config import RunConfig
from ddpm_core.runs import results
from ddpm_core.runs.weights import Weights
from ddpm_core.shards.classes import labelled_classes
from ddpm_core.store.storage import Store
from ddpm_core.tracking.champion import ALIAS, Score, move_alias, owns
from ddpm_core.tracking.mlflow_run import MlflowRun, answers
from ddpm_core.tracking.model_card import card_of, is_ours, tags_of
from ddpm_core.tracking.saved_model import DIGEST_TAG, GUIDE_TAG, WEIGHTS, save_model

_SHORT = 8
_ABOUT = (
    "All models of these images, of everybody's runs: a version for each weights that were "
    f"measured. `{ALIAS}` is the one with the smallest Fréchet distance to the held-out images, or "
    "the fewest bits/dim where no distance is measured, by the same protocol."
)
"""of a registered model, which is created once"""


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
    with answers():
        versions = run.client.search_model_versions(f"name = '{name}'")
        card = run.made(lambda: card_of(store, name, config, weights))
        known = [one for one in versions if _is_of(one.tags, digests) and owns(run, one)]
        if known:
            newest = max(known, key=lambda one: int(one.version))
            _rewrite(run, newest, card)
        else:
            model = _uploaded(run, store, config, weights)
            _log_metrics(run, model.model_id, weights.step)
            about = {**digests, "step": str(weights.step), WEIGHTS: weights.name}
            about |= {"guide": weights.weaker.name} if weights.weaker is not None else {}
            about |= run.identity.recorded.tags | tags_of(card)
            newest = _new_version(run, name, model, about, card)
        _set_tags(run, newest, {} if score is None else score.tags)
        if is_champion:
            move_alias(run, name, newest, score)


def _rewrite(run: MlflowRun, version: Any, card: str) -> None:  # noqa: ANN401
    """Say what was measured since the version was made; what a user has written stays."""
    if version.description != card and is_ours(version):
        _set_tags(run, version, tags_of(card, version))
        run.client.update_model_version(version.name, version.version, description=card)


def _set_tags(run: MlflowRun, version: Any, tags: Mapping[str, str]) -> None:  # noqa: ANN401
    for key, value in tags.items():
        if version.tags.get(key) != value:
            run.client.set_model_version_tag(version.name, version.version, key, value)


def _digests(weights: Weights) -> dict[str, str]:
    """Return what tells a model from those of other weights, and of others that guide them."""
    guide = {} if weights.weaker is None else {GUIDE_TAG: weights.weaker.sha256}
    return {DIGEST_TAG: weights.sha256, **guide}


def _is_of(tags: Mapping[str, str], digests: Mapping[str, str]) -> bool:
    return all(tags.get(tag) == digests.get(tag) for tag in (DIGEST_TAG, GUIDE_TAG))


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
        folder, about = Path(scratch) / "model", Model(run_id=run.run_id, model_id=model_id)
        run.made(lambda: _pack(folder, store, config, weights, about))
        with run.uploading(sum(one.stat().st_size for one in folder.rglob("*"))):
            run.client.log_model_artifacts(model_id, str(folder))
    return run.client.finalize_logged_model(model_id, LoggedModelStatus.READY)


def _pack(folder: Path, store: Store, config: RunConfig, weights: Weights, about: Model) -> None:
    """Write the files of the model into `folder`."""
    file, guide = (folder.with_name(f"{role}.safetensors") for role in ("weights", "guide"))
    _fetch(store, weights, file)
    weaker = None
    if weights.weaker is not None:
        _fetch(store, weights.weaker, guide)
        weaker = weights.weaker.trained, guide
    save_model(
        folder,
        config,
        file,
        name=weights.name,
        classes=labelled_classes(store, config),
        prompts=results.prompts_of(store, config),
        weaker=weaker,
        model=about,
    )
    file.unlink()  # the folder has a copy, and a disk may hold just two


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


def _new_version(
    run: MlflowRun, name: str, model: LoggedModel, tags: dict[str, str], description: str
) -> Any:  # noqa: ANN401
    try:
        run.client.create_registered_model(name, description=_ABOUT)
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
