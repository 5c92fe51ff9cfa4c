"""Which version of a registered model the alias `champion` points at: the best that was measured.

All runs on one data set are versions of one model. What is compared is the Fréchet distance to the
held-out images, or bits/dim where there is none; and only numbers of the same protocol: the same
data set, features and numbers of images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from ddpm_core.canonical import fingerprint
from ddpm_core.tracking.identity import RUN_URI
from ddpm_core.tracking.mlflow_run import MlflowRun
from ddpm_core.tracking.outbox import say

ALIAS = "champion"
METRIC, VALUE, PROTOCOL = "ddpm.metric", "ddpm.metric_value", "ddpm.protocol"
"""tags of a version: what was measured last"""
SCORE = "ddpm.score."
"""how the tags begin that say what was measured by each protocol"""
# A database answers the first for an alias that is not set.
NOT_THERE = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_COMPARED = (
    ("frechet_distance", ("version", "dataset", "features", "images", "covariance", "num_images")),
    ("bits_per_dim", ("version", "dataset", "bound", "images", "num_images", "num_test_images")),
)
"""what may be compared, the first that was measured; and what of its protocol must be equal: not
what it says of the model"""
_SHORT = 16


@dataclass(frozen=True)
class Score:
    """A number by which versions are compared; lower is better."""

    metric: str
    value: float
    protocol: str
    """fingerprint of how it was measured"""

    @property
    def tags(self) -> dict[str, str]:
        """What a version says of it."""
        last = {METRIC: self.metric, VALUE: repr(self.value), PROTOCOL: self.protocol}
        return {**last, f"{SCORE}{self.protocol}": f"{self.metric} {self.value!r}"}

    def same_of(self, tags: Mapping[str, str]) -> float | None:
        """Return what a version of these tags measured in the same way; None: it did not."""
        metric, _, value = tags.get(f"{SCORE}{self.protocol}", "").partition(" ")
        if metric == self.metric:
            return float(value)
        last = tags.get(METRIC), tags.get(PROTOCOL)  # of versions before the tags of protocols
        return float(tags[VALUE]) if last == (self.metric, self.protocol) else None


def score_of(numbers: Mapping[str, Any]) -> Score | None:
    """Return by what an evaluation is compared; None: it measured nothing of that.

    Args:
        numbers: its metrics.json.
    """
    for metric, keys in _COMPARED:
        found = numbers.get(metric) or {}
        if found.get("value") is not None:
            protocol = {key: found["protocol"].get(key) for key in keys}
            return Score(metric, float(found["value"]), fingerprint(protocol)[:_SHORT])
    return None


def move_alias(run: MlflowRun, name: str, version: Any, score: Score | None) -> None:  # noqa: ANN401
    """Point the alias at a version if none has it, or one that measured worse by the same protocol.

    A version without a number, of an earlier program or moved by hand, keeps it unless it is of
    this very run.
    """
    champion = _champion(run, name)
    if champion is not None and champion.version == version.version:
        return
    why = None if champion is None else _why_not(run, champion, score)
    if why is None:
        run.client.set_registered_model_alias(name, ALIAS, version.version)
        return
    say(
        f"MLflow: {name}@{ALIAS} stays at version {champion.version} ({why}); this one is "
        f"models:/{name}/{version.version}. The alias can be moved on the model's page"
    )


def _why_not(run: MlflowRun, champion: Any, score: Score | None) -> str | None:  # noqa: ANN401
    """Return why another version stays the champion; None: it does not."""
    tags = dict(champion.tags)
    of = tags.get(RUN_URI) or f"MLflow run {champion.run_id}"
    if METRIC not in tags or score is None:
        return None if owns(run, champion) else f"of {of}, nothing to compare it by"
    theirs = score.same_of(tags)
    if theirs is None:
        return f"of {of}, measured by another protocol"
    if score.value < theirs:
        return None
    return f"of {of}, {score.metric} {theirs:.4g}, and this one's is {score.value:.4g}"


def _champion(run: MlflowRun, name: str) -> Any:  # noqa: ANN401
    try:
        return run.client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None  # it is not set


def owns(run: MlflowRun, version: Any) -> bool:  # noqa: ANN401
    """Return whether a registered version was made by this run."""
    tags = dict(version.tags)
    if RUN_URI not in tags and version.run_id:
        # Registered when versions did not say it: their MLflow run does.
        try:
            tags = run.client.get_run(version.run_id).data.tags
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return False
    # A database of our own and a bucket are one place; /data/runs is one on each machine.
    unique = run.home.database is not None or "://" in run.identity.run_uri
    return run.identity.owns(tags, unique_root=unique)
