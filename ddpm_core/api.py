"""Runs from Python: load one, and draw, edit and mix images with it.

    from ddpm_core.api import Run, grid

    run = Run.load("digits")                        # below ./runs; or a folder, or s3://...
    images = run.sample(16, steps=20, sampler="unipc")      # (16, 8, 8, 1) uint8
    grid(images).save("sixteen.png")

Starts neither Ray nor MLflow, writes nothing below the root, and computes on a GPU if there is one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.api_arguments import How, device_of, indices_of, seed_of, whole_number, wish_of
from ddpm_core.config import DataConfig, RunConfig
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.drawing import pictures
from ddpm_core.editing import arrays
from ddpm_core.editing.arrays import Images, Received
from ddpm_core.editing.canvas import Canvas, low_data_of
from ddpm_core.editing.files import ImageFile
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import chosen, results
from ddpm_core.runs.run import check_stage, configure
from ddpm_core.runs.stages import require_denoiser
from ddpm_core.runs.targets import run_place
from ddpm_core.runs.weights import Weights
from ddpm_core.sampling.loaded import Drawing, Model, Moment, Wish
from ddpm_core.sampling.plan import Plan
from ddpm_core.store.storage import Store, open_store


class Run:
    """A trained run, with its weights in memory.

    Attributes:
        config: the run's whole configuration.
        weights: which weights these are: `name` (RUN@STEP:AVERAGE), `step`, `sha256`.
        classes: names of the classes of its images, by label; none: they are of none.
        takes_text: whether its images are of texts, as `sample(16, prompts=["a red seven"])` has
            them; without `prompts` of those of the run's own samples.
    """

    def __init__(self, store: Store, config: RunConfig, weights: Weights, model: Model) -> None:
        self.config, self.weights = config, weights
        self.classes, self.takes_text = model.plan.names, model.takes_text
        self._store, self._model = store, model

    @classmethod
    def load(
        cls,
        target: str | Path,
        *,
        root: str | None = None,
        model: str | None = None,
        settings: Mapping[str, Any] | None = None,
        device: str | None = None,
    ) -> Self:
        """Read the weights of a run, verified.

        Args:
            target: path or URI of the run's folder or its run.json; or its name below the root.
            root: folder or s3://bucket/prefix the run lies in; None: as `target` says, else ./runs.
            model: which weights, as RUN@STEP:AVERAGE (@400, @newest, :raw); None: the average after
                the last step.
            settings: other keys, as {"sample.guidance_by": "@400"}.
            device: of torch, e.g. "cuda:1"; None: the GPU if there is one.

        Raises:
            PipelineError: there is no such run, or its weights are not there, or damaged.
        """
        changes = dict(settings or {})
        if model is not None:
            changes["sample.model"] = model
        where, config = configure(
            run_place(str(target), root), root=None, run=None, changes=changes
        )
        store = open_store(where)
        require_denoiser(config, "sample")
        check_stage(store, config)
        weights = chosen.require(store, config)
        chosen.require_files(store, weights)
        found = device_of(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        loaded = Model.load(store, config, weights, found)
        return cls(store, config, weights, loaded)

    def sample(self, num_images: int | Sequence[int] = 1, **how: Unpack[How]) -> Images:
        """Draw images; image i of a seed is the same, to rounding, whatever is drawn beside it.

        Args:
            num_images: how many: images 0, 1, ... of the seed; or which.
            how: steps, sampler, labels or prompts, guidance, seed, eta and the like; see `How`.

        Raises:
            ConfigError: these do not go together.
        """
        drawing = self._model.drawing(wish_of(how))
        return self._model.images(indices_of(num_images), drawing, seed=seed_of(how))

    def stream(
        self, num_images: int | Sequence[int] = 1, *, every: int = 1, **how: Unpack[How]
    ) -> Iterator[Moment]:
        """Yield images while they are drawn: the predicted x_0 after every so many steps.

        All images are one batch.

        Args:
            num_images: as of `sample`.
            every: so many steps, at least 1.
            how: as of `sample`.

        Raises:
            ConfigError: as of `sample`.
        """
        drawing = self._model.drawing(wish_of(how))
        if (every := whole_number("every", every)) < 1:
            raise ConfigError(f"every={every} must be at least 1")
        indices = indices_of(num_images)
        return self._model.moments(indices, drawing, seed=seed_of(how), every=every)

    def edit(
        self,
        images: Images,
        *,
        mask: NDArray[np.bool_] | None = None,
        strength: float | None = None,
        **how: Unpack[How],
    ) -> Images:
        """Make images anew where the mask is True, or as a whole from a depth.

        Args:
            images: in the model's shape, see `read`.
            mask: (n, height, width) or (height, width); the rest keeps its values. None: all.
            strength: how far back to noise, above 0 and at most 1; None: all the way, with a mask
                only.
            how: as of `sample`; `labels` and `prompts` are of the images in turn, and without them
                these are of nothing.

        Raises:
            ConfigError: these do not go together.
            DataError: the images or the mask have another shape.
        """
        wish = wish_of(how)
        drawing = self._model.drawing(wish)
        return arrays.edit(
            self._model,
            drawing,
            images,
            mask=mask,
            strength=strength,
            given=_given(wish, drawing),
            seed=seed_of(how),
        )

    def upscale(self, images: Images, **how: Unpack[How]) -> Images:
        """Enlarge images, by a model of `model.low_size`.

        Args:
            images: (n, height, width, channels) uint8 in that size, see `read_low`.
            how: as of `edit`; `low_level` says how noisy they are made before.

        Raises:
            ConfigError: the model enlarges nothing, or these do not go together.
            DataError: the images have another shape.
        """
        wish = wish_of(how)
        drawing = self._model.drawing(wish)
        return arrays.enlarge(
            self._model,
            drawing,
            images,
            given=_given(wish, drawing),
            seed=seed_of(how),
        )

    def interpolate(
        self, image: Images, other: Images, num_images: int = 8, *, depth: float = 0.5
    ) -> Images:
        """Return images on the way from one to another, the reconstructions of both included.

        Args:
            image: (height, width, channels), see `read`.
            other: as `image`.
            num_images: at least 2.
            depth: how far both are noised before they are mixed, as a share of the chain.

        Raises:
            ConfigError, DataError: as `edit`.

        Source: Ho et al. 2020, arXiv:2006.11239, section 4.4.
        """
        return arrays.between(self._model, image, other, num_images, depth=depth)

    def code(self, image: Images, num_moments: int = 8) -> Sequence[Received]:
        """Send an image step by step, as the paper's progressive code, and show it on the way.

        Args:
            image: (height, width, channels), see `read`.
            num_moments: how often it is shown, at least 2, from noise to the end.

        Returns:
            Bits per dimension so far, the error in levels, and the image, of each moment.

        Raises:
            ConfigError, DataError: as `edit`.

        Source: Ho et al. 2020, arXiv:2006.11239, section 4.3.
        """
        return arrays.code(self._model, image, num_moments)

    def read(self, file: str | Path) -> Images:
        """Return an image file as the model sees it: cropped and resized by the data set's rule.

        Returns:
            (height, width, channels).

        Raises:
            DataError: it is no image that can be used.
        """
        return _placed(file, self.config.data)

    def read_low(self, file: str | Path) -> Images:
        """Return an image file as a model of `model.low_size` is given it, by the same rule.

        Returns:
            (height, width, channels) uint8.

        Raises:
            ConfigError: the model enlarges nothing.
            DataError: it is no image that can be used.
        """
        return _placed(file, low_data_of(self.config))

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        """What the evaluation of these weights and samples measured; None: there is none."""
        found = results.evaluation_of(self._store, self.config)
        if found is None:
            return None
        values: Mapping[str, Any] = json.loads(found.read(self._store, "metrics"))
        return values

    @property
    def denoiser(self) -> Denoiser | BitDenoiser:
        """The network as samplers call it, for a sampler of your own: `predict(x_t, t)`."""
        return self._model.denoiser


def _placed(file: str | Path, data: DataConfig) -> Images:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    return Canvas(data).place(ImageFile(Path(file).name, content, str(file)))


def _given(wish: Wish, drawing: Drawing) -> Plan:
    """Return what images that are edited become images of: what the wish says of them."""
    plan = drawing.plan if wish.prompts else replace(drawing.plan, prompts=())
    return plan if wish.labels else replace(plan, in_turn=(), counts=())


def grid(images: Images) -> Image.Image:
    """Return images on one sheet, enlarged for people.

    Args:
        images: (n, height, width, channels); of 16 bits v / 257 is shown.

    Raises:
        DataError: they are no such images.
    """
    if images.ndim != 4 or len(images) == 0 or images.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"images are {images.shape} {images.dtype}; give (n, height, width, channels) uint8 or "
            "uint16, at least one"
        )
    if images.dtype != np.uint8:
        images = (images // 257).astype(np.uint8)
    return pictures.as_pillow(pictures.grid(images))
