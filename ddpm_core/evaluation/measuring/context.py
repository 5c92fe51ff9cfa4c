"""The inputs of an evaluation actor: images, weights and feature network of a run.

Each is loaded on first use and then kept.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ddpm_core.cluster import GetDevice
from ddpm_core.conditioning import MEMBERS, Conditioning, Text
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.wrappers.classifier_guidance import (
    Classifier,
    Score,
    TextFit,
)
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.evaluation.features import judge
from ddpm_core.evaluation.features.classifier import Classifier as FeatureClassifier
from ddpm_core.evaluation.features.kept import FeatureRecipe, load_judge, load_network
from ddpm_core.evaluation.features.network import Embed, FeatureNetwork, extract, looked_at
from ddpm_core.evaluation.measuring.cascade import Below, stages_below
from ddpm_core.evaluation.measuring.enlarging import LowMeasured
from ddpm_core.inference.build import AnyDenoiser
from ddpm_core.inference.denoiser import (
    AveragedNetwork,
    Guide,
    load_averaged,
    load_denoiser,
    load_guide,
    load_score,
)
from ddpm_core.loading.batches import conditioning_of
from ddpm_core.loading.loader import Images, load_split
from ddpm_core.loading.texts import Texts, captions_of_data, texts_of
from ddpm_core.runs import chosen, results
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.runs.weights import Weights
from ddpm_core.sampling import units as sampling_units
from ddpm_core.sampling.plan import Plan, load_plan
from ddpm_core.shards.index import Index, Split, load_index
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store, open_store
from ddpm_core.text.tokens import PAD
from ddpm_core.units.ranges import Arrays, K, Range, publish
from ddpm_core.units.units import Units

WORDS = "words"
"""kind of the units that say which words a judge finds"""


def payload_of(
    root: str,
    config: RunConfig,
    dataset: DatasetPointer,
    recipe: FeatureRecipe | None,
    sha256: str,
    stage: str | None = None,
    *,
    judge: FeatureRecipe | None = None,
) -> dict[str, Any]:
    """Return the payload of `EvaluationContext.of`, as JSON values."""
    return {
        "root": root,
        "config": config.model_dump(mode="json"),
        "dataset": vars(dataset),
        "features": _said(recipe),
        "judge": _said(judge),
        "weights": sha256,
        "stage": stage,
    }


def _said(recipe: FeatureRecipe | None) -> list[Any] | None:
    return None if recipe is None else [recipe.folder, recipe.values]


@dataclass
class EvaluationContext:
    """A run as an evaluation actor sees it; images are uint8 (n, c, h, w) on the CPU."""

    store: Store
    config: RunConfig
    dataset: DatasetPointer
    recipe: FeatureRecipe | None
    """of the feature network; None where there is none, and nothing is measured with it"""
    device: torch.device
    sha256: str
    """of the weights that are measured"""
    stage: str | None = None
    """whose progress it is where images have to be decoded first; None: no line is shown"""
    judge: FeatureRecipe | None = None
    """of the judge of captions; None: the samples are of none"""

    @classmethod
    def of(cls, payload: dict[str, Any], device: torch.device) -> Self:
        """Return the context that `payload_of` describes."""
        return cls(
            open_store(payload["root"]),
            RunConfig.from_dict(payload["config"]),
            DatasetPointer(**payload["dataset"]),
            None if payload["features"] is None else FeatureRecipe(*payload["features"]),
            device,
            payload["weights"],
            payload["stage"],
            None if payload["judge"] is None else FeatureRecipe(*payload["judge"]),
        )

    def rows(self, embed: Embed, images_u8: Tensor) -> Tensor:
        """Return one output of the feature network for images, float32 on the CPU."""
        size = self.config.evaluate.batch_size
        return extract(embed, images_u8, batch_size=size, device=self.device)

    def batches(self, images: Images, start: int, stop: int) -> Iterator[Tensor]:
        """Yield images `start` to `stop` - 1, of which no more are in memory than a batch has."""
        size = self.config.evaluate.batch_size
        return (images.images(at, min(at + size, stop)) for at in range(start, stop, size))

    def look(self, images_u8: Tensor, *, classify: bool = True) -> Arrays:
        """Return features and, if the network has classes, their probabilities; {} without one."""
        if self.recipe is None:
            return {}
        views = {"features"} | ({"probabilities"} if classify else set())
        if "spatial_distance" in self.config.evaluate.metrics:
            views.add("spatial")
        size = self.config.evaluate.batch_size
        return looked_at(self.network, images_u8, views=views, batch_size=size, device=self.device)

    def chunks(self, look: Embed, images: Images) -> "Chunks":
        """Return a view of all images, a batch at a time."""
        return Chunks(lambda: map(look, self.batches(images, 0, len(images))))

    def sampled(self, number: int) -> Tensor:
        """Return the images of a unit of the run's samples."""
        unit = sampling_units.units_of(self.config.sample)[number]
        shape = self.config.data.shape
        images_u8 = sampling_units.read_unit(self.store, self._samples, unit, shape)
        return torch.from_numpy(images_u8).permute(0, 3, 1, 2).contiguous()

    def first_samples(self, count: int) -> Tensor:
        """Return the run's first samples."""
        shape, sample = self.config.data.shape, self.config.sample
        images_u8 = sampling_units.first_images(self.store, self._samples, sample, shape, count)
        return torch.from_numpy(np.ascontiguousarray(images_u8.transpose(0, 3, 1, 2)))

    def bytes_of_samples(self, unit: Range[Any]) -> dict[str, str]:
        """Return what a unit says of the samples that it depends on; {} if on none."""
        if not uses_samples(unit):
            return {}
        return sampling_units.bytes_of(self._samples, self.config.sample, unit.start, unit.stop)

    @cached_property
    def _index(self) -> Index:
        return load_index(self.store, self.dataset.folder, self.dataset.fingerprint)

    @cached_property
    def train(self) -> Images:
        """The training images."""
        return self._split("train", eight_bits=True)

    @cached_property
    def test(self) -> Images:
        """The held-out images."""
        return self._split("test", eight_bits=True)

    def exact(self, part: str) -> Images:
        """Return the training or held-out images in all their bits: what a likelihood is of."""
        split: Split = "train" if part == "train" else "test"
        if self.config.data.depth == 8:
            return self.train if split == "train" else self.test
        if split not in self._exact:
            self._exact[split] = self._split(split, eight_bits=False)
        return self._exact[split]

    def _split(self, split: Split, *, eight_bits: bool) -> Images:
        # Each image is looked at, so that it is no detour to decode all first.
        return load_split(self.store, self._index, split, eight_bits=eight_bits, stage=self.stage)

    @cached_property
    def _exact(self) -> dict[Split, Images]:
        return {}

    @cached_property
    def _samples(self) -> Manifest:
        samples = results.samples_of(self.store, self.config)
        if samples is None:
            raise DataError(f"the samples of run {self.config.name!r} are gone; sample again")
        return samples

    @property
    def denoiser(self) -> NetworkDenoiser:
        """As `measured`, of images and not of bits."""
        if not isinstance(self.measured, NetworkDenoiser):
            raise ConfigError(
                f"diffusion.kind={self.config.diffusion.kind}: this is not measured of bits"
            )
        return self.measured

    @cached_property
    def _weights(self) -> Weights:
        weights = chosen.require(self.store, self.config)
        if weights.sha256 != self.sha256:
            raise CheckpointError(
                f"{weights.said} are not the weights {self.sha256[:12]}... that this stage began "
                "with: they were trained again or exchanged; run it again"
            )
        return weights

    @cached_property
    def measured(self) -> AnyDenoiser:
        """Of the weights that are measured; raises CheckpointError if they are others by now."""
        weights = self._weights
        # Also if first used in inference mode: tensors made there cannot be differentiated
        # through later, as the probability flow does.
        with torch.inference_mode(mode=False):
            return load_denoiser(
                self.store,
                self.config,
                weights.checkpoint,
                self.device,
                average=weights.average,
                compute=self.config.compute,
            )

    @cached_property
    def score(self) -> Score:
        """Of the weights that are measured, as `measured`, of a network that guides others."""
        weights = self._weights
        with torch.inference_mode(mode=False):
            average, checkpoint = weights.average, weights.checkpoint
            return load_score(self.store, self.config, checkpoint, self.device, average=average)

    @cached_property
    def byte_model(self) -> AveragedNetwork:
        """Of the weights that are measured, as `measured`, of a language model."""
        weights = self._weights
        average, checkpoint = weights.average, weights.checkpoint
        return load_averaged(self.store, self.config, checkpoint, self.device, average=average)

    @cached_property
    def captions(self) -> tuple[Classifier, Tensor]:
        """CLIP as a classifier of the captions of the held-out images, and which is of which image,
        (n,) int64.
        """
        if not isinstance(self.score, TextFit):
            raise ConfigError(f"model.kind={self.config.model.kind} says nothing of captions")
        images = self.exact("test")
        text = self.text_of(images, 0, len(images))
        tokens, numbers = torch.unique(text.tokens, dim=0, return_inverse=True)
        return self.score.among(Text(tokens, tokens != PAD)), numbers

    @cached_property
    def guide(self) -> Guide | None:
        """Of the weights that guide those; None if there are none."""
        with torch.inference_mode(mode=False):
            return load_guide(self.store, self._weights, self.device, compute=self.config.compute)

    def denoiser_of(self, images: Images, start: int, stop: int) -> NetworkDenoiser:
        """Return the denoiser of images `start` to `stop` - 1 of a split, given all there is."""
        own = self.denoiser_of_nothing(images, start, stop)
        return own.given(self.given_of(images, start, stop))

    def measured_of(self, images: Images, start: int, stop: int) -> AnyDenoiser:
        """As `denoiser_of`, of images or bits."""
        if isinstance(self.measured, NetworkDenoiser):
            return self.denoiser_of(images, start, stop)
        return self.measured.given(self.given_of(images, start, stop))

    def denoiser_of_nothing(self, images: Images, start: int, stop: int) -> NetworkDenoiser:
        """Return the denoiser of images of which nothing is said but, of one that enlarges, their
        low resolution.
        """
        own = self.denoiser
        if self.low is not None:
            own = own.enlarging(self.low.of(images, start, stop))
        return own.given_nothing()

    @cached_property
    def low(self) -> LowMeasured | None:
        """What makes the low resolutions of images of a split; None: the network takes none."""
        return LowMeasured.of_run(self.config, self.device)

    def labels_of(self, images: Images, start: int, stop: int) -> Tensor:
        """Return the labels of images `start` to `stop` - 1 of a split, (n,) int64."""
        label = self._members(images, start, stop, frozenset({"label"})).label
        if label is None:
            raise DataError("the images have no labels")
        return label

    def text_of(self, images: Images, start: int, stop: int) -> Text:
        """Return the first caption of images `start` to `stop` - 1 of a split."""
        text = self._members(images, start, stop, frozenset({"text"})).text
        if text is None:
            raise DataError("the images have no captions")
        return text

    def given_of(
        self, images: Images, start: int, stop: int, *, is_drawn: bool = False
    ) -> Conditioning:
        """Return what the network is given of images `start` to `stop` - 1 of a split: labels and
        texts; where images are drawn of it, what guides the network is given too.
        """
        accepts = self.measured.null.parts & MEMBERS
        if is_drawn and isinstance(self.guide, Score):
            accepts |= {"label" if isinstance(self.guide, Classifier) else "text"}
        return self._members(images, start, stop, accepts)

    @cached_property
    def below(self) -> list[Below]:
        """The stages of a cascade below this one, with their weights."""
        with torch.inference_mode(mode=False):
            return stages_below(self.store, self.config, self.device)

    def given_to(self, stage: Below, images: Images, start: int, stop: int) -> Conditioning:
        """As `given_of`, as a stage below takes it."""
        accepts = stage.denoiser.null.parts & MEMBERS
        return self._members(images, start, stop, accepts, of=stage.config)

    def _members(
        self,
        images: Images,
        start: int,
        stop: int,
        accepts: frozenset[str],
        *,
        of: RunConfig | None = None,
    ) -> Conditioning:
        config = self.config if of is None else of
        numbers, num_classes = np.arange(start, stop), config.num_classes
        texts = texts_of(config, self._index)
        given = conditioning_of(images, numbers, accepts, num_classes=num_classes, texts=texts)
        return given.to(self.device)

    @cached_property
    def plan(self) -> Plan:
        """What the run's samples are of."""
        return load_plan(self.store, self.config)

    @property
    def network(self) -> FeatureNetwork:
        """The feature network; the trained one is trained first, if it does not exist yet."""
        return self._network[1]

    def network_identity(self, unit: Range[Any]) -> dict[str, str]:
        """What a unit says of the feature network, or the judge, that it depends on."""
        if unit.kind == WORDS:
            return self._judge[0]
        return {} if self.recipe is None else self._network[0]

    def words_in(self, images_u8: Tensor) -> Tensor:
        """Return which words the judge finds in images, (n, words) uint8 on the CPU."""
        _, _, network = self._judge
        found = judge.found_in(network, images_u8.to(self.device))
        return found.to("cpu", torch.uint8)

    @cached_property
    def texts(self) -> Texts:
        """How the captions of the images are made."""
        texts = captions_of_data(self.config, self._index)
        if texts is None:
            raise ValueError("a unit is of captions, and the data set has none")
        return texts

    @cached_property
    def _judge(self) -> tuple[dict[str, str], tuple[str, ...], FeatureClassifier]:
        if self.judge is None:
            raise ValueError("a unit needs the judge of captions, and there is none")
        return load_judge(
            self.store,
            self.judge,
            self.texts,
            load_train=lambda: self.train,
            load_test=lambda: self.test,
            device=self.device,
        )

    @cached_property
    def _network(self) -> tuple[dict[str, str], FeatureNetwork]:
        if self.recipe is None:
            raise ValueError("a unit needs the feature network, and there is none")
        return load_network(
            self.store,
            self.recipe,
            load_train=lambda: self.train,
            load_test=lambda: self.test,
            device=self.device,
        )


def uses_samples(unit: Range[Any]) -> bool:
    """Say whether what a unit finds depends on the run's samples."""
    return unit.part == "samples" or unit.kind == "neighbours"


def uses_weights(unit: Range[Any]) -> bool:
    """Say whether measuring a unit takes the network that is measured."""
    return unit.kind not in ("features", WORDS, "neighbours")


@dataclass(frozen=True)
class Chunks:
    """Rows that are not in memory at the same time; can be iterated over any number of times."""

    begin: Callable[[], Iterator[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return self.begin()


def measuring(
    payload: Mapping[str, Any],
    get_device: GetDevice,
    work: Callable[[EvaluationContext, Range[K]], Arrays],
    uses_network: Callable[[Range[K]], bool],
) -> Callable[[Range[K]], None]:
    """Return a function that measures a unit and publishes it; inputs are loaded on first use."""
    context = EvaluationContext.of(payload["context"], get_device())

    def made_with(unit: Range[K]) -> Mapping[str, Any]:
        network = context.network_identity(unit) if uses_network(unit) else {}
        return {**network, **context.bytes_of_samples(unit)}

    published = Units(context.store, payload["folder"], made_with)

    def measure_and_publish(unit: Range[K]) -> None:
        # It may exist: of another start; or the lost network was trained again to the same bytes.
        if not published.is_finished(unit):
            publish(published, unit, work(context, unit))

    return measure_and_publish
