"""The inputs of an evaluation or a study, all of them committed."""

from dataclasses import dataclass
from typing import Any, Self

from ddpm_core.config import RunConfig
from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.evaluation.features import FeatureRecipe, feature_recipe
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.places import Place
from ddpm_core.shards.index import Index, load_index
from ddpm_core.shards.one_class import why_no_distance
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.training.checkpoint import Curve, load_history


@dataclass(frozen=True)
class Inputs:
    """The inputs of an evaluation or a study, all of them committed."""

    store: Store
    config: RunConfig
    checkpoint: Manifest
    index: Index
    samples: Manifest

    @classmethod
    def of(cls, store: Store, config: RunConfig) -> Self:
        checkpoint = results.final_checkpoint(store, config)
        if checkpoint is None:
            raise CheckpointError(
                f"run {config.name!r} has no checkpoint of step {config.train.num_steps} below "
                f"{store.uri_of(layout.checkpoints_folder(config.name))}; run the train stage first"
            )
        found, samples = results.dataset_of(store, config), results.samples_of(store, config)
        if found is None or samples is None:
            what, stage = ("data set", "shard") if found is None else ("samples", "sample")
            command = layout.stage_command(store, config.name, stage)
            raise DataError(
                f"run {config.name!r} has no complete {what}; run the {stage} stage first: "
                f"{command}"
            )
        index = load_index(store, found.folder, found.body["fingerprint"])
        return cls(store, config, checkpoint, index, samples)

    @property
    def place(self) -> Place:
        """Where the evaluation lies, or will."""
        return places.evaluation(self.store, self.config, self.checkpoint, self.index.fingerprint)

    @property
    def why_no_distance(self) -> str | None:
        """Why there is no feature network to measure a distance with; None if there is one."""
        return why_no_distance(self.config, self.index)

    @property
    def recipe(self) -> FeatureRecipe | None:
        """Of the feature network, if there is one."""
        index = self.index
        if self.why_no_distance is not None:
            return None
        return feature_recipe(self.config.evaluate, index.manifest.folder, index.fingerprint)

    @property
    def num_train(self) -> int:
        """Training images there are."""
        return self.index.num_images["train"]

    @property
    def num_test(self) -> int:
        """Held-out images there are."""
        return self.index.num_images["test"]

    @property
    def history(self) -> Curve:
        """The curves of the training."""
        return load_history(self.store, self.checkpoint)

    @property
    def weights(self) -> dict[str, Any]:
        """Which weights these are, for the protocols."""
        return places.measured_weights(self.config, self.checkpoint, self.index.fingerprint)
