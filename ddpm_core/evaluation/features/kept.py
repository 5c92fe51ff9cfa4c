"""The feature network of the Frechet distance: made or fetched once, kept beside the data set.

It depends on the data set and its recipe alone and is the same for every run that is measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ddpm_core.config import EvaluateConfig, RunConfig, identity
from ddpm_core.errors import StorageError
from ddpm_core.evaluation.features import check, classifier, foreign, judge
from ddpm_core.evaluation.features.network import FeatureNetwork
from ddpm_core.loading.loader import Images
from ddpm_core.loading.texts import Texts, captions_of_data
from ddpm_core.runs import layout
from ddpm_core.shards.index import Index
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit_first, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store

NETWORK_ROLE = "network"
_STEPS_OF_JUDGE = 2
"""times those of the feature network; of digits in six colours, of which it finds both words of
95 % of the held-out images then, and 90 % after as many"""


@dataclass(frozen=True)
class FeatureRecipe:
    """What determines the feature network, and where it is kept."""

    folder: str
    values: dict[str, Any]


def feature_recipe(
    evaluate: EvaluateConfig, dataset_folder: str, dataset_fingerprint: str
) -> FeatureRecipe:
    """Return the recipe of the network that `evaluate` names."""
    if evaluate.features == "trained":
        values = classifier.recipe(dataset_fingerprint, evaluate.feature_steps)
    else:
        values = identity.foreign_features(evaluate)
    return FeatureRecipe(layout.features_folder(dataset_folder, values), values)


def keep_foreign_network(store: Store, config: RunConfig, recipe: FeatureRecipe) -> None:
    """Put a network from outside beside the data set, where every worker finds it.

    Raises:
        PipelineError: as `check.tried_network`, if it is not there yet.
    """
    if config.evaluate.features != "trained":

        def fetch() -> tuple[bytes, str, dict[str, Any]]:
            tried = check.tried_network(config)
            return tried.data, tried.suffix, tried.about

        _kept(store, recipe, fetch)


def load_network(
    store: Store,
    recipe: FeatureRecipe,
    *,
    load_train: Callable[[], Images],
    load_test: Callable[[], Images],
    device: torch.device,
) -> tuple[dict[str, str], FeatureNetwork]:
    """Return the network from beside the data set, and its identity, as `kept_network`.

    The trained one is trained first if need be.

    Two processes may train at the same time: one publishes, the other takes what is there then.

    Raises:
        StorageError: if a network from outside is gone since the stage began.
    """
    if recipe.values["kind"] != "trained":

        def gone() -> tuple[bytes, str, dict[str, Any]]:
            raise StorageError(
                f"{store.uri_of(recipe.folder)} was emptied meanwhile; run the stage again"
            )

        kept, data = _kept(store, recipe, gone)
        return _identity(kept), foreign.load(recipe.values["kind"], data, device)

    def train() -> tuple[bytes, str, dict[str, Any]]:
        network = classifier.train_classifier(
            load_train(), num_steps=recipe.values["num_steps"], device=device
        )
        about = {"held_out_accuracy": classifier.accuracy(network, load_test(), device)}
        return classifier.to_bytes(network), ".safetensors", about

    kept, data = _kept(store, recipe, train)
    network = classifier.from_bytes(data).to(device)
    return _identity(kept), FeatureNetwork(network.embed, network.classify)


def judge_recipe(config: RunConfig, index: Index) -> FeatureRecipe | None:
    """Return the recipe of the judge of captions; None: the data set has none."""
    if (texts := captions_of_data(config, index)) is None:
        return None
    num_steps = _STEPS_OF_JUDGE * config.evaluate.feature_steps
    values = judge.recipe(index.fingerprint, num_steps, texts)
    return FeatureRecipe(layout.features_folder(index.manifest.folder, values), values)


def load_judge(
    store: Store,
    recipe: FeatureRecipe,
    texts: Texts,
    *,
    load_train: Callable[[], Images],
    load_test: Callable[[], Images],
    device: torch.device,
) -> tuple[dict[str, str], tuple[str, ...], classifier.Classifier]:
    """Return the judge of captions from beside the data set, trained first if need be.

    Returns:
        Its identity, as `kept_network`; its words; and the network.
    """

    def train() -> tuple[bytes, str, dict[str, Any]]:
        num_steps = recipe.values["num_steps"]
        found = judge.train_judge(
            load_train(), load_test(), texts, num_steps=num_steps, device=device
        )
        return judge.to_bytes(*found), ".safetensors", {"num_words": len(found[0])}

    kept, data = _kept(store, recipe, train)
    words, network = judge.from_bytes(data)
    return _identity(kept), words, network.to(device)


def words_of_judge(store: Store, recipe: FeatureRecipe) -> tuple[str, ...]:
    """Return the words of the judge that is kept.

    Raises:
        StorageError: as `describe_network`.
    """
    kept = manifest.load(store, recipe.folder, _expected(recipe))
    if kept is None:
        raise StorageError(f"{store.uri_of(recipe.folder)} is gone; run the stage again")
    return judge.from_bytes(kept.read(store, NETWORK_ROLE))[0]


def kept_network(store: Store, recipe: FeatureRecipe) -> dict[str, str] | None:
    """Return the identity of the kept network, as units name it; None if there is none yet."""
    kept = manifest.intact(store, recipe.folder, _expected(recipe))
    return None if kept is None else _identity(kept)


def _identity(kept: Manifest) -> dict[str, str]:
    return {"network_sha256": kept.files[NETWORK_ROLE].sha256}


def describe_network(store: Store, recipe: FeatureRecipe) -> dict[str, Any]:
    """Return the protocol entry of the network that a number was measured with.

    Raises:
        StorageError: if it is not there.
    """
    kept = manifest.load(store, recipe.folder, _expected(recipe))
    if kept is None:
        raise StorageError(f"{store.uri_of(recipe.folder)} is gone; run the stage again")
    return {
        **kept.body["recipe"],
        **kept.body["about"],
        **_identity(kept),
    }


def _expected(recipe: FeatureRecipe) -> Expected:
    """Return the identity of the kept network."""
    return Expected({"recipe": recipe.values})


def _kept(
    store: Store, recipe: FeatureRecipe, make: Callable[[], tuple[bytes, str, dict[str, Any]]]
) -> tuple[Manifest, bytes]:
    """Return the network that is kept, verified; made, if there is none or it is damaged."""
    folder = recipe.folder
    found = manifest.intact(store, folder, _expected(recipe))
    if found is not None:
        return found, found.read(store, NETWORK_ROLE)
    data, suffix, about = make()
    files = {NETWORK_ROLE: write_file(store, folder, NETWORK_ROLE, suffix, data)}
    body = {"recipe": recipe.values, "about": about}
    # One that was trained elsewhere meanwhile, with other rounding, is as good, and counts.
    made = commit_first(store, folder, files, body, _expected(recipe))
    return made, made.read(store, NETWORK_ROLE)
