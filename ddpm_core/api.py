"""Runs from Python: load one, and draw, edit and mix images with it.

    from ddpm_core.api import Run, grid

    run = Run.load("digits")                        # below ./runs; or a folder, or s3://...
    images = run.sample(16, steps=20, sampler="unipc")      # (16, 8, 8, 1) uint8
    grid(images).save("sixteen.png")

Starts neither Ray nor MLflow, writes nothing below the root, and computes on a GPU if there is one.
"""

import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ddpm_core.config import RunConfig
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.drawing import pictures
from ddpm_core.editing import arrays
from ddpm_core.editing.arrays import Images, Received
from ddpm_core.editing.canvas import Canvas
from ddpm_core.editing.files import ImageFile
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.runs import chosen, results
from ddpm_core.runs.run import check_stage, configure
from ddpm_core.runs.stages import require_denoiser
from ddpm_core.runs.targets import run_place
from ddpm_core.runs.weights import Weights
from ddpm_core.sampling.loaded import Drawing, Model, Moment, Wish
from ddpm_core.store.storage import Store, open_store


class Run:
    """A trained run, with its weights in memory.

    Attributes:
        config: the run's whole configuration.
        weights: which weights these are: `name` (RUN@STEP:AVERAGE), `step`, `sha256`.
        classes: names of the classes of its images, by label; none: they are of nothing.
    """

    def __init__(self, store: Store, config: RunConfig, weights: Weights, model: Model) -> None:
        self.config, self.weights = config, weights
        self.classes = model.plan.names
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
        found = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        loaded = Model.load(store, config, weights, found)
        return cls(store, config, weights, loaded)

    def sample(
        self,
        num_images: int | Sequence[int] = 1,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        labels: Sequence[int | str] = (),
        guidance: float | None = None,
        seed: int | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> Images:
        """Draw images; image i of a seed is the same, to rounding, whatever is drawn beside it.

        Args:
            num_images: how many: images 0, 1, ... of the seed; or which.
            steps: of the sampler; None: as many as the run's samples have, or all of another
                sampler.
            sampler: as `sample.sampler`; None: the run's.
            labels: of images 0, 1, ... in turn, by number or name.
            guidance: as `sample.guidance_scale`; None: the run's.
            seed: None: the run's.
            settings: other keys of the section `sample`, e.g. eta=0.5.

        Raises:
            ConfigError: these do not go together.
        """
        drawing = self._drawing(steps, sampler, labels, guidance, settings)
        return self._model.images(_indices(num_images), drawing, seed=_seed(seed))

    def stream(
        self,
        num_images: int | Sequence[int] = 1,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        labels: Sequence[int | str] = (),
        guidance: float | None = None,
        seed: int | None = None,
        every: int = 1,
        **settings: Any,  # noqa: ANN401
    ) -> Iterator[Moment]:
        """Yield images while they are drawn: the predicted x_0 after every so many steps.

        Args and Raises are those of `sample`; all images are one batch. `every` is at least 1.
        """
        drawing = self._drawing(steps, sampler, labels, guidance, settings)
        if (every := _integer("every", every)) < 1:
            raise ConfigError(f"every={every} must be at least 1")
        indices = _indices(num_images)
        return self._model.moments(indices, drawing, seed=_seed(seed), every=every)

    def edit(
        self,
        images: Images,
        *,
        mask: NDArray[np.bool_] | None = None,
        strength: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        labels: Sequence[int | str] = (),
        guidance: float | None = None,
        seed: int | None = None,
    ) -> Images:
        """Make images anew where the mask is True, or as a whole from a depth.

        Args:
            images: in the model's shape, see `read`.
            mask: (n, height, width) or (height, width); the rest keeps its values. None: all.
            strength: how far back to noise, above 0 and at most 1; None: all the way, with a mask
                only.
            steps: as of `sample`.
            sampler: as of `sample`.
            labels: of the images in turn; none: of nothing.
            guidance: as of `sample`.
            seed: as of `sample`.

        Raises:
            ConfigError: these do not go together.
            DataError: the images or the mask have another shape.
        """
        drawing = self._drawing(steps, sampler, labels, guidance, {})
        return arrays.edit(
            self._model,
            drawing,
            images,
            mask=mask,
            strength=strength,
            is_labelled=len(labels) > 0,
            seed=_seed(seed),
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
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from None
        return Canvas(self.config.data).place(ImageFile(Path(file).name, content, str(file)))

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

    def _drawing(
        self,
        steps: int | None,
        sampler: str | None,
        labels: Sequence[int | str],
        guidance: float | None,
        settings: Mapping[str, Any],
    ) -> Drawing:
        listed = [labels] if isinstance(labels, str) else list(labels)
        named = [one if isinstance(one, str) else _integer("a label", one) for one in listed]
        taken = None if steps is None else _integer("steps", steps)
        return self._model.drawing(Wish(sampler, taken, named, guidance, settings))


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


def _indices(num_images: int | Sequence[int]) -> list[int]:
    if not isinstance(num_images, Iterable):
        count = _integer("num_images", num_images)
        if count < 1:
            raise ConfigError(f"num_images={count} must be at least 1")
        return list(range(count))
    given = [_integer("num_images", one) for one in num_images]
    if not given or not 0 <= min(given) <= max(given) < 2**63:
        raise ConfigError(f"num_images={given} must be numbers of images from 0 on, below 2**63")
    return given


def _seed(given: int | None) -> int | None:
    if given is None:
        return None
    seed = _integer("seed", given)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed={seed} must be from 0 to 2**63 - 1")
    return seed


def _integer(name: str, given: object) -> int:
    """Return a whole number as Python's own: NumPy has others."""
    try:
        return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name}={given!r} must be a whole number") from None


def _device(name: str) -> torch.device:
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device={name!r} cannot be used here ({reason}); give cpu, or leave it out"
        ) from None
