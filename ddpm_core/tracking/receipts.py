"""What a server of MLflow has: noted beside the run, so that it need not be contacted again.

    runs/<run>/mlflow/<server>.json             which MLflow run it is
    runs/<run>/mlflow/<server>-<result>.json    this result arrived there

With a receipt a finished stage neither waits for a server that is away nor touches its run. The
database in the root needs none: it is never away, and may be deleted without them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.runs import layout
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import KeyMissingError, Store
from ddpm_core.tracking.identity import changes_of
from ddpm_core.tracking.place import Home, find_home


def receipt_key(run: str, home: Home, result: Manifest, changes: Mapping[str, Any]) -> str:
    """Return the key of the receipt for this very result in the MLflow run of these changes."""
    digests = {role: record.sha256 for role, record in result.files.items()}
    what = {"folder": result.folder, "files": digests, "changes": dict(changes)}
    return f"{layout.tracking_folder(run)}/{home.fingerprint}-{fingerprint(what)[:16]}.json"


def has_arrived(store: Store, config: RunConfig, stage: str, result: Manifest) -> bool:
    """Return whether there is no server that is not known to have this result of a stage.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI is none that every process of a run can use.
        StorageError: the storage does not answer.
    """
    home = find_home(store)
    if home is None or home.database is not None or find_spec("mlflow") is None:
        return True
    changes = changes_of(store, config, stage)
    return store.exists(receipt_key(config.name, home, result, changes))


def write_place(store: Store, run: str, home: Home, *, experiment_id: str, run_id: str) -> None:
    """Note which MLflow run stands for the run.

    Raises:
        StorageError: the storage does not answer.
    """
    key = _place_key(run, home)
    data = canonical_json({"experiment_id": experiment_id, "run_id": run_id})
    try:
        if store.read(key, at_most=len(data)) == data:
            return
    except KeyMissingError:
        pass
    store.write(key, data)


@dataclass(frozen=True)
class PlaceThere:
    """Which MLflow run stands for a run."""

    experiment_id: str
    run_id: str


def place_of(store: Store, run: str) -> PlaceThere | None:
    """Return which MLflow run stands for the run; None if that is not known."""
    try:
        home = find_home(store)
        if home is None:
            return None
        found = json.loads(store.read(_place_key(run, home), at_most=1000))
        return PlaceThere(str(found["experiment_id"]), str(found["run_id"]))
    except (KeyMissingError, StorageError, ConfigError, ValueError, KeyError, TypeError):
        return None


def page_of(store: Store, run: str) -> str | None:
    """Return what follows the server's address in the address of the run's page; None if unknown.

    It is for links, which are worth no error.
    """
    if (found := place_of(store, run)) is None:
        return None
    page = f"/#/experiments/{found.experiment_id}/runs/{found.run_id}"
    # Without it the page stands in MLflow's frame for agents, which has no models.
    return f"{page}?workflowType=machine_learning"


def _place_key(run: str, home: Home) -> str:
    return f"{layout.tracking_folder(run)}/{home.fingerprint}.json"
