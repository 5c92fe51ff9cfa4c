"""Moments of the features of the training images: computed once, kept beside the data set.

They are those of one network, by its digest: of another, also of the same recipe trained again,
they are made anew. Other programs read the .npz, and `evaluate.reference` takes it elsewhere.
"""

from typing import Any

from ddpm_core.evaluation.features.kept import FeatureRecipe, kept_network
from ddpm_core.evaluation.features.statistics import Statistics, from_npz, to_npz
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.runs import layout
from ddpm_core.runs.protocol import protocol_identity
from ddpm_core.shards.index import Index, Split
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit_first, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.storage import Store
from ddpm_core.units.ranges import Range

STATISTICS_ROLE = "statistics"


def statistics_for(inputs: Inputs) -> Statistics | None:
    """Return those of the training images, where no more than that is needed of their features."""
    if inputs.recipe is None or inputs.config.evaluate.metrics:
        return None
    return kept_statistics(inputs.store, inputs.index, inputs.recipe)


def is_of_training_images(unit: Range[Any]) -> bool:
    return (unit.kind, unit.part) == ("features", "train")


def kept_statistics(
    store: Store, index: Index, recipe: FeatureRecipe, split: Split = "train"
) -> Statistics | None:
    """Return those of a split under the network that is kept; None if there are none yet.

    Damaged ones count as none, and are made again.
    """
    place = _place(store, index, recipe, split)
    found = None if place is None else manifest.intact(store, *place)
    if found is None:
        return None
    return from_npz(found.read(store, STATISTICS_ROLE), origin=store.uri_of(found.folder))


def keep_statistics(
    store: Store,
    index: Index,
    recipe: FeatureRecipe,
    statistics: Statistics,
    split: Split = "train",
) -> None:
    """Put statistics beside the data set; those that are there already stay."""
    place = _place(store, index, recipe, split)
    if place is None:
        return
    folder, expected = place
    data = to_npz(statistics)
    files = {STATISTICS_ROLE: write_file(store, folder, STATISTICS_ROLE, ".npz", data)}
    commit_first(store, folder, files, dict(expected.body), expected)


def _place(
    store: Store, index: Index, recipe: FeatureRecipe, split: Split
) -> tuple[str, Expected] | None:
    network = kept_network(store, recipe)
    if network is None:
        return None
    made_of: dict[str, Any] = {
        "dataset": index.fingerprint,
        "split": split,
        "features": recipe.values,
        **network,
        **protocol_identity(),
    }
    folder = layout.statistics_folder(index.manifest.folder, made_of)
    return folder, Expected({"made_of": made_of})
