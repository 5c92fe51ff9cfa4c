"""Images in memory, made anew, mixed, or sent bit by bit: for the Python API and the page to play.

Images are (n, height, width, channels) in the model's own shape and levels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import Known
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.choices import is_of_one_step
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.interpolation import interpolate
from ddpm_core.diffusion.measures.likelihood import bits_per_dim
from ddpm_core.diffusion.measures.rate_distortion import mean_rmse, progressive_decoding, rate
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier, TextFit
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.editing.method import Method, edit_images, followed, low_of, require_guided
from ddpm_core.editing.request import require_no_enlarging
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.sampling.draw import to_levels
from ddpm_core.sampling.loaded import Drawing, Model
from ddpm_core.sampling.plan import Plan

Images = NDArray[Any]
"""(n, height, width, channels) uint8, or uint16 of data.depth=16"""
_LONGEST_CODE = 250
"""steps of a chain that is sent step by step; a longer one is sent in so many of its steps, but of
a network that speaks of single steps, which is sent in all"""
_EDIT_START, _EDIT_STEPS, _CODE = 0, 1, 2
"""indices of the keys of noise of the purpose "edit" """


def edit(
    model: Model,
    drawing: Drawing,
    images: Images,
    *,
    mask: NDArray[np.bool_] | None,
    strength: float | None,
    given: Plan,
    seed: int | None,
) -> Images:
    """Make images anew where the mask is True, or as a whole from a depth.

    Args:
        model: that draws.
        drawing: how.
        images: to be edited.
        mask: (n, height, width) or (height, width); the rest keeps its values. None: all.
        strength: how far back to noise, from 0 to 1; None: all the way, with a mask only.
        given: what they become images of, in turn.
        seed: None: the run's.

    Raises:
        ConfigError: these do not go together.
        DataError: the images or the mask have another shape.
    """
    images = _required(model, images)
    if mask is None and strength is None:
        raise ConfigError("nothing says what to make anew: give a mask, or a strength")
    config, method = drawing.config, Method(strength=strength)
    method.require_possible(config)
    require_guided(config, strength)
    denoiser, guide = _of_images(model), model.guide
    sample = config.sample
    if isinstance(guide, TextFit) or (isinstance(guide, Classifier) and not given.has_classes):
        if sample.guidance_scale != 0:
            raise ConfigError(
                "CLIP guides this run, which leads to texts, and images are edited towards classes "
                "alone: give guidance 0"
                if isinstance(guide, TextFit)
                else "a classifier guides this run, which leads to classes: give a label (on the "
                "page choose a class), or guidance 0"
            )
        # Without it the network draws as ever, and is not led away from what it is given.
        guide, sample = None, sample.model_copy(update={"guidance_scale": 1.0})
    kept = None if mask is None else _kept(mask, images)
    made = []
    for start in range(0, len(images), sample.batch_size):
        batch = slice(start, start + sample.batch_size)
        x_0 = _to_unit(model, images[batch])
        positions = torch.arange(len(images), device=x_0.device)[batch]
        known, own, other = None, denoiser, guide
        if kept is not None:
            known = Known(x_0, torch.from_numpy(kept[batch]).to(x_0.device)[:, None])
            own = denoiser.knowing(known)
            other = guide.knowing(known) if isinstance(guide, NetworkDenoiser) else guide
        edited = edit_images(
            followed(own, other, given.conditioning(positions), sample),
            x_0,
            known,
            positions,
            method=method,
            sample=sample,
            seed=sample.seed if seed is None else seed,
        )
        made.append(_levels(model, edited))
    return np.concatenate([images[:0], *made])


def enlarge(
    model: Model,
    drawing: Drawing,
    images: Images,
    *,
    given: Plan,
    seed: int | None,
) -> Images:
    """Enlarge low resolutions.

    Args:
        model: that enlarges.
        drawing: how.
        images: (n, height, width, channels) uint8 in the size of `model.low_size`.
        given: what the results are of, in turn.
        seed: None: the run's.

    Raises:
        ConfigError: the model does not enlarge, or these do not go together.
        DataError: the images have another shape.
    """
    config, images = drawing.config, np.asarray(images)
    level = config.sample.low_level
    size, channels = config.model.low_size, config.data.channels
    if size is None or isinstance(model.denoiser, BitDenoiser):
        raise ConfigError(
            "this model draws images from noise alone (model.low_size is not given), and enlarges "
            "none"
        )
    if images.ndim != 4 or images.shape[1:] != (*size, channels) or images.dtype != np.uint8:
        raise DataError(
            f"images are {images.shape} {images.dtype}, and this model enlarges (n, {size[0]}, "
            f"{size[1]}, {channels}) uint8; `Run.read_low` makes one of a file"
        )
    seed = config.sample.seed if seed is None else seed
    made = []
    for start in range(0, len(images), config.sample.batch_size):
        batch = slice(start, start + config.sample.batch_size)
        small = torch.from_numpy(images[batch]).permute(0, 3, 1, 2).to(model.device)
        positions = torch.arange(len(images), device=model.device)[batch]
        low = low_of(small.float() / 127.5 - 1, positions, config, level=level, seed=seed)
        guide = model.guide
        enlarged = edit_images(
            followed(
                model.denoiser.enlarging(low),
                guide.enlarging(low) if isinstance(guide, NetworkDenoiser) else guide,
                given.conditioning(positions),
                config.sample,
            ),
            low.image,
            None,
            positions,
            method=Method(),
            sample=config.sample,
            seed=seed,
        )
        made.append(_levels(model, enlarged))
    empty = np.empty((0, config.data.height, config.data.width, channels), config.data.dtype)
    return np.concatenate([empty, *made])


def between(model: Model, image: Images, other: Images, num_images: int, *, depth: float) -> Images:
    """Return images on the way from one to another, the reconstructions of both included.

    Args:
        model: that draws.
        image: (height, width, channels).
        other: as `image`.
        num_images: at least 2.
        depth: how far both are noised before they are mixed, as a share of the chain.

    Raises:
        ConfigError: a number is out of its range, or the model draws bits.
        DataError: the images have another shape.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4.4.
    """
    if num_images < 2 or not 0 <= depth <= 1:
        raise ConfigError(
            f"num_images={num_images}, depth={depth}: give at least 2 images, and a depth from "
            "0 to 1"
        )
    ends = _to_unit(model, np.concatenate([_one(model, image), _one(model, other)]))
    denoiser = _of_images(model)
    with torch.inference_mode():
        mixed = interpolate(
            denoiser.given_nothing(),
            ends[:1],
            ends[1:],
            depth=round(depth * denoiser.schedule.num_timesteps),
            weights=[number / (num_images - 1) for number in range(num_images)],
            eps=_noise(model, _EDIT_START, ends[:1], 0),
            noise=lambda number: _noise(model, _EDIT_STEPS, ends[:1], number),
        )
    return _levels(model, mixed[:, 0])


class Received(NamedTuple):
    """What a receiver shows of an image of which so many bits have come."""

    bits_per_dim: float
    rmse: float
    """of the shown image, in levels of 0 ... 255"""
    image: Images
    """(height, width, channels)"""


def code(model: Model, image: Images, num_moments: int) -> Sequence[Received]:
    """Send an image step by step, as the paper's progressive code, and show it on the way.

    No bits are written: those that an ideal coder would need are counted.

    Args:
        model: whose chain is the code.
        image: (height, width, channels).
        num_moments: how often it is shown, at least 2, from noise to the end.

    Raises:
        ConfigError: a number is out of its range, or the model draws bits.
        DataError: the image has another shape.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4.3.
    """
    x_0 = _to_unit(model, _one(model, image))
    denoiser: Denoiser = _of_images(model).given_nothing()
    length = chain_of(denoiser.path).num_timesteps
    if length > _LONGEST_CODE and not is_of_one_step(model.config.diffusion.prediction):
        denoiser = respaced(denoiser, choose_timesteps("trailing", length, _LONGEST_CODE))
        length = _LONGEST_CODE
    if not 2 <= num_moments <= length:
        raise ConfigError(f"num_moments={num_moments} must be from 2 to {length}")
    # Denser towards the end, where most bits come; never the same step twice.
    times = [length - 1]
    for number in range(1, num_moments):
        share = 1 - number / (num_moments - 1)
        wanted = round((length - 1) * share**2)
        times.append(max(num_moments - 1 - number, min(wanted, times[-1] - 1)))

    def noise(number: int) -> Tensor:
        return _noise(model, _CODE, x_0, number)

    levels = model.config.data.num_levels
    with torch.inference_mode():
        bound = bits_per_dim(denoiser, x_0, noise=noise, num_levels=levels)
        shown = progressive_decoding(denoiser, x_0, times=times, noise=noise).x_0_hat
    bits = rate(bound.prior, bound.terms)
    images = _levels(model, shown[:, 0])
    errors = mean_rmse((shown - x_0).square().flatten(2).mean(2).T)
    return [
        Received(float(bits[t]), float(error), one)
        for t, error, one in zip(times, errors, images, strict=True)
    ]


def _of_images(model: Model) -> NetworkDenoiser:
    if isinstance(model.denoiser, BitDenoiser):
        raise ConfigError("this is a chain of bits, with which no image is edited or mixed")
    require_no_enlarging(model.config, "editing, mixing and coding")
    return model.denoiser


def _noise(model: Model, purpose: int, like: Tensor, number: int) -> Tensor:
    key = seeding.key(model.config.sample.seed, "edit", purpose)
    positions = torch.arange(len(like), device=like.device)
    return seeding.normal(key, number, positions, tuple(like.shape[1:]))


def _required(model: Model, images: Images) -> Images:
    data, images = model.config.data, np.asarray(images)
    shape = (data.height, data.width, data.channels)
    if images.ndim != 4 or images.shape[1:] != shape or images.dtype != np.dtype(data.dtype):
        raise DataError(
            f"images are {images.shape} {images.dtype}, and this model has (n, "
            f"{', '.join(map(str, shape))}) {data.dtype}; `Run.read` makes one of a file"
        )
    return images


def _one(model: Model, image: Images) -> Images:
    """Return one image as a batch."""
    data, image = model.config.data, np.asarray(image)
    shape = (data.height, data.width, data.channels)
    if image.shape != shape or image.dtype != np.dtype(data.dtype):
        raise DataError(
            f"the image is {image.shape} {image.dtype}, and one of this model is {shape} "
            f"{data.dtype}; `Run.read` makes it of a file"
        )
    return image[None]


def _kept(mask: NDArray[np.bool_], images: Images) -> NDArray[np.bool_]:
    mask, wanted = np.asarray(mask), images.shape[:3]
    if mask.dtype != bool or mask.shape not in (wanted, wanted[1:]):
        raise DataError(
            f"the mask is {mask.shape} {mask.dtype}; give bool of the shape {wanted}, or "
            f"{wanted[1:]} for all images"
        )
    return ~np.broadcast_to(mask, wanted)


def _to_unit(model: Model, images: Images) -> Tensor:
    half = (model.config.data.num_levels - 1) / 2
    levels = torch.from_numpy(images.astype(np.int64)).permute(0, 3, 1, 2)
    return (levels.to(model.device).float() / half - 1).contiguous()


def _levels(model: Model, x_0: Tensor) -> Images:
    levels: Images = to_levels(x_0, model.config.data.num_levels).cpu().numpy()
    return levels
