"""The inputs of an evaluation or a study, all of them committed."""

from dataclasses import dataclass
from typing import Any, Self

from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError
from ddpm_core.evaluation.features.kept import FeatureRecipe, feature_recipe, judge_recipe
from ddpm_core.runs import chosen, places, refusals, results
from ddpm_core.runs.places import Place
from ddpm_core.runs.stages import needs_of
from ddpm_core.runs.weights import Weights
from ddpm_core.shards.classes import require_classes
from ddpm_core.shards.index import Index, load_index
from ddpm_core.shards.one_class import why_no_distance
from ddpm_core.store import manifest
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.training.storing.checkpoint import Curve, load_history


@dataclass(frozen=True)
class Inputs:
    """The inputs of an evaluation or a study, all of them committed."""

    store: Store
    config: RunConfig
    of_weights: Weights
    index: Index
    drawn: Manifest | None
    """the samples; None: the network draws none"""

    @classmethod
    def of(cls, store: Store, config: RunConfig) -> Self:
        weights = chosen.require(store, config)
        config = weights.pinned_in(config)
        draws = "sample" in needs_of("evaluate", config.role)
        found = results.dataset_of(store, config)
        samples = results.samples_of(store, config) if draws else None
        if found is None or (draws and samples is None):
            what, stage = ("data set", "shard") if found is None else ("samples", "sample")
            command = refusals.command_of(store, config, stage)
            raise DataError(
                f"run {config.name!r} has no complete {what}; run the {stage} stage first: "
                f"{command}"
            )
        index = load_index(store, found.folder, found.body["fingerprint"])
        require_classes(config, index.label.names)
        return cls(store, config, weights, index, samples)

    @property
    def samples(self) -> Manifest:
        """The samples.

        Raises:
            DataError: the network draws none.
        """
        if self.drawn is None:
            raise DataError(f"run {self.config.name!r} of a {self.config.role} has no samples")
        return self.drawn

    @property
    def place(self) -> Place:
        """Where the evaluation lies, or will."""
        return places.evaluation(self.store, self.config, self.of_weights, self.index.fingerprint)

    def require_files(self) -> None:
        """Refuse weights whose files are deleted: what was measured of them can still be read."""
        chosen.require_files(self.store, self.of_weights)

    @property
    def why_no_distance(self) -> str | None:
        """Why there is no feature network to measure a distance with; None if there is one."""
        return why_no_distance(self.config, self.index)

    @property
    def recipe(self) -> FeatureRecipe | None:
        """Of the feature network, if there is one."""
        index = self.index
        if self.drawn is None or self.why_no_distance is not None:
            return None
        return feature_recipe(self.config.evaluate, index.manifest.folder, index.fingerprint)

    @property
    def judge(self) -> FeatureRecipe | None:
        """Of the judge of captions, if samples are of some."""
        if self.drawn is None or results.PROMPTS_ROLE not in self.drawn.files:
            return None
        return judge_recipe(self.config, self.index)

    @property
    def num_train(self) -> int:
        """Training images there are."""
        return self.index.num_images["train"]

    @property
    def num_test(self) -> int:
        """Held-out images there are."""
        return self.index.num_images["test"]

    def history(self) -> Curve | None:
        """Return the curves of the training; None if they do not lie beside the weights."""
        checkpoint = self.of_weights.checkpoint
        is_retired = manifest.is_retired(self.store, checkpoint.folder)
        if is_retired or not self.of_weights.has_curves:
            return None
        return load_history(self.store, checkpoint)

    @property
    def weights(self) -> dict[str, Any]:
        """Which weights these are, for the protocols."""
        return places.measured_weights(self.config, self.of_weights, self.index.fingerprint)
