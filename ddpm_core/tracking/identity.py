"""Which MLflow run stands for what: a run of this root, this experiment and this very folder.

Names are not enough: two people share a server, a folder is deleted and its run trained anew, and
`/data/runs` is another folder on another machine. So each run's folder has an id of its own.
"""

import json
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ddpm_core.canonical import canonical_json, fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.errors import CheckpointError, ConfigError, RunConflictError, StorageError
from ddpm_core.runs import begun, layout, places, results
from ddpm_core.runs.reference import REFERENCES, Key, canonical, given
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.storage import KeyMissingError, Store

RUN_URI, EXPERIMENT, BIRTH = "ddpm.run_uri", "ddpm.experiment", "ddpm.birth"
VARIANT = "ddpm.variant"
MODEL_KEY = "sample.model"
_MEASURED_ANEW = re.compile(r"evaluate\..*|sample\.num_images")
"""keys by which the same images are measured otherwise, or more of them are"""
RECORDED = "recorded"
"""the value of VARIANT for the configuration in run.json"""


@dataclass(frozen=True)
class Identity:
    """What the tags of an MLflow run must say for it to be this run."""

    run_uri: str
    """where the run's folder lies"""
    experiment: str
    """fingerprint of what determined the weights when the run was begun"""
    birth: str
    """the id of the folder itself"""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """`{"sample.sampler": "unipc"}`: what differs from run.json in a sampling of another kind"""

    @property
    def tags(self) -> dict[str, str]:
        variant = fingerprint(dict(self.changes))[:16] if self.changes else RECORDED
        return {
            RUN_URI: self.run_uri,
            EXPERIMENT: self.experiment,
            BIRTH: self.birth,
            VARIANT: variant,
        }

    @property
    def recorded(self) -> "Identity":
        """Return the run that this is a variant of, or itself."""
        return Identity(self.run_uri, self.experiment, self.birth)

    def owns(self, tags: Mapping[str, str], *, unique_root: bool) -> bool:
        """Return whether what has these tags was made by this run.

        Args:
            tags: of an MLflow run or of a model's version.
            unique_root: no other user can have a root of this name there.
        """
        if tags.get(RUN_URI) != self.run_uri:
            return False
        if unique_root or tags.get(BIRTH) == self.birth:
            return True
        # Of a version without ids of folders.
        return BIRTH not in tags and tags.get(EXPERIMENT) == self.experiment


def identify(store: Store, config: RunConfig, changes: Mapping[str, Any]) -> Identity:
    """Return the identity of a run, whose folder gets its id here if it has none.

    Raises:
        StorageError: the storage does not answer, or the id is damaged.
    """
    return Identity(
        store.uri_of(layout.run_folder(config.name)),
        places.first_experiment(store, config),
        _birth(store, config.name),
        changes,
    )


def changes_of(store: Store, config: RunConfig, stage: str) -> dict[str, Any]:
    """Return the keys with which `stage` makes another result than run.json's; {} if none.

    Raises:
        ConfigError: run.json is not valid.
        StorageError: the storage does not answer.
    """
    if not (sections := STAGES[stage].sections):
        return {}
    recorded = begun.recorded(store, config.name)
    if recorded is None:
        return {}
    before, free = recorded.flat(), config.uncounted_keys()
    # A place, since results hang on the digest of the weights; but other weights are another run.
    keys = REFERENCES if STAGES[stage].uses_weights else ()
    others = [key for key in keys if not _same_weights(store, config, recorded, key)]
    weights = {f"sample.{key}": _canonical(store, config, key) for key in others}
    return weights | {
        name: value
        for name, value in config.flat().items()
        if name.partition(".")[0] in sections and name not in free and value != before.get(name)
    }


def is_of_folder(store: Store, run: str, tags: Mapping[str, str]) -> bool:
    """Return whether an MLflow run with these tags stands for the run's folder of now.

    Raises:
        StorageError: the storage does not answer, or the id is damaged.
    """
    try:
        return tags.get(BIRTH) == _parsed(store, layout.birth_key(run))
    except KeyMissingError:
        return False


def drawn_otherwise(changes: Mapping[str, Any]) -> set[str]:
    """Return which of these keys make other images, not just another measurement of them."""
    return {key for key in changes if _MEASURED_ANEW.fullmatch(key) is None}


def _canonical(store: Store, config: RunConfig, key: Key) -> str | None:
    is_none = key == "guidance_by" and given(config, key) is None  # which has no default
    return None if is_none else str(canonical(store, config, key))


def _same_weights(store: Store, config: RunConfig, recorded: RunConfig, key: Key) -> bool:
    """Say whether two configurations of a run name the same weights, by text or by digest."""
    texts = [given(one, key) for one in (config, recorded)]
    if texts[0] == texts[1]:
        return True
    if key == "guidance_by" and None in texts:
        return False
    with suppress(ConfigError, CheckpointError):  # what run.json names may be deleted since
        if canonical(store, config, key) == canonical(store, recorded, key):
            return True
        ours, theirs = (results.named_weights(store, one, key) for one in (config, recorded))
        return ours is not None and theirs is not None and ours.sha256 == theirs.sha256
    return False


def _birth(store: Store, run: str) -> str:
    key = layout.birth_key(run)
    try:
        return _parsed(store, key)
    except KeyMissingError:
        pass
    with suppress(RunConflictError):  # another process was first
        store.create(key, canonical_json({"id": uuid.uuid4().hex}))
    return _parsed(store, key)


def _parsed(store: Store, key: str) -> str:
    try:
        values = json.loads(store.read(key, at_most=1000))
    except ValueError:
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("id"), str):
        raise StorageError(
            f"{store.uri_of(key)} does not hold an id; delete it, and MLflow gets a new run"
        )
    return str(values["id"])
