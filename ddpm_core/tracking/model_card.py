"""What the page of a model's version says of it, a card that grows with what is measured.

A text that a user has changed stays: a tag holds the digests of the cards that this program wrote.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ddpm_core.config import RunConfig
from ddpm_core.recipes.nearest import command_of
from ddpm_core.runs import layout, numbers, results
from ddpm_core.runs.weights import Weights
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest_bytes import DamagedError
from ddpm_core.store.storage import Store

OURS = "ddpm.description"
"""the tag: digests of the card that was written last, and of the one that was to follow it"""
_OF_BEFORE = "Draws images like those of `"
"""how the cards of versions without the tag begin"""


def card_of(store: Store, name: str, config: RunConfig, weights: Weights) -> str:
    """Return the card of these weights, with all that was measured of them so far.

    Args:
        store: the root.
        name: of the registered model.
        config: the run's.
        weights: of the version.

    Raises:
        StorageError: the storage does not answer.
    """
    shape = "×".join(map(str, config.data.shape))
    again = f"made again by\n\n    {command_of(config)}"
    if results.is_imported(weights.checkpoint):
        again = "imported, not trained here."
    request = '{"inputs": [], "params": {"seed": 0, "count": 4, "format": "png"}}'
    measured = "\n".join(_measured(store, config, weights)) or "Not measured yet."
    return (
        f"{_OF_BEFORE}{config.data.name}`, {shape}, and of nothing else; "
        f"{config.num_parameters / 1e6:.2f} M parameters, {weights.step} steps.\n\n{measured}\n\n"
        "The protocols and the figures are in the source run's `report.html`.\n\n"
        f"Weights `{weights.name}`, SHA-256 `{weights.sha256}`, {again}\n\n"
        f"With the number of this version, `mlflow models serve --env-manager local -m "
        f"models:/{name}/VERSION -p 5001` serves them, and\n\n    curl localhost:5001/invocations "
        f"-H 'Content-Type: application/json' -d '{request}'\n\n"
        "returns four PNG files in base64; without `format` count × height × width × channels."
    )


def tags_of(card: str, version: Any = None) -> dict[str, str]:  # noqa: ANN401 - MLflow's
    """Return the tag that is set before the card is, so that either card is known as ours."""
    before = "" if version is None else f"{_digest(version.description or '')} "
    return {OURS: before + _digest(card)}


def is_ours(version: Any) -> bool:  # noqa: ANN401 - MLflow's
    """Return whether the description of a version is one that this program wrote."""
    text, tags = version.description or "", dict(version.tags)
    if OURS not in tags:
        return not text or text.startswith(_OF_BEFORE)
    return _digest(text) in tags[OURS].split()


def _measured(store: Store, config: RunConfig, weights: Weights) -> Iterator[str]:
    """Yield a list of the numbers of each evaluation of these weights that is there."""
    folder = layout.evaluations_folder(config.name)
    for name in store.names(folder):
        try:
            found = manifest.load(store, f"{folder}/{name}", Expected(weights.digest))
            if found is None:
                continue
            measured = json.loads(found.read(store, "metrics"))
        except DamagedError:
            continue  # of other weights, or damaged, which its stage says
        yield f"Measured{_drawn(measured)}:\n"
        yield from (f"- {one.name}: {one.text}" for one in numbers.of_metrics(measured))
        yield ""


def _drawn(measured: Mapping[str, Any]) -> str:
    """Return in words how the samples were drawn; "" where none were measured."""
    protocol = measured["frechet_distance"].get("protocol", {})
    if "sampler" not in protocol:
        return ""
    steps = protocol.get("num_steps")
    return f" of samples by {protocol['sampler']}" + (f" in {steps} steps" if steps else "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
