"""What a caller of the Python API may give: how images are drawn, and which, checked."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypedDict

import torch

from ddpm_core.diffusion.choices import OdeSolver, Sampler, Spacing
from ddpm_core.errors import ConfigError
from ddpm_core.sampling.loaded import Wish


class How(TypedDict, total=False):
    """How images are drawn; what is not given, or None, is as of the run's own samples.

    Below `seed` stand further keys of the section `sample`, by their names.
    """

    steps: int | None
    """of the sampler; of another than the run's by default all that there are"""
    sampler: Sampler | None
    """as `sample.sampler`"""
    labels: Sequence[int | str]
    """of images 0, 1, ... in turn, by number or name"""
    prompts: str | Sequence[str]
    """of images 0, 1, ... in turn, of a model that takes texts; or one of all"""
    guidance: float | None
    """as `sample.guidance_scale`"""
    seed: int | None
    spacing: Spacing
    eta: float
    ode_method: OdeSolver
    ode_tolerance: float
    churn: float
    corrector_snr: float
    clip_x_0: bool
    state: Literal["float32", "float64"]
    guidance_interval: tuple[float, float | None] | None
    guidance_rescale: float
    threshold_percentile: float | None
    threshold_cap: float | None
    low_level: float
    """of a model that enlarges: noise of the low resolutions, a share of the process"""


def wish_of(how: How) -> Wish:
    """Return the arguments of a call as a wish: sampler, steps, labels, other keys of `sample`.

    Raises:
        ConfigError: a number is none.
    """
    given: dict[str, Any] = dict(how)
    given.pop("seed", None)
    labels, steps = given.pop("labels", ()), given.pop("steps", None)
    prompts = given.pop("prompts", None)
    listed = [labels] if isinstance(labels, str) else list(labels)
    return Wish(
        given.pop("sampler", None),
        None if steps is None else whole_number("steps", steps),
        [one if isinstance(one, str) else whole_number("a label", one) for one in listed],
        prompts=texts_of(prompts),
        guidance_scale=given.pop("guidance", None),
        settings=given,
    )


def texts_of(prompts: object) -> list[str]:
    """Return prompts as a list of texts; one may stand by itself, and None is none.

    Raises:
        ConfigError: one is no text.
    """
    if prompts is None or isinstance(prompts, str):
        return [] if prompts is None else [prompts]
    listed = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    texts = [one for one in listed if isinstance(one, str)]
    if len(texts) < len(listed):
        raise ConfigError(f"prompts={listed!r:.100} must be a text, or texts in a list")
    return texts


def seed_of(how: How) -> int | None:
    """Return the seed; None: the run's.

    Raises:
        ConfigError: it is none.
    """
    if (given := how.get("seed")) is None:
        return None
    seed = whole_number("seed", given)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed={seed} must be from 0 to 2**63 - 1")
    return seed


def indices_of(num_images: int | Sequence[int]) -> list[int]:
    """Return which images of a seed are meant: the first, or those that are listed.

    Raises:
        ConfigError: there are none.
    """
    if not isinstance(num_images, Iterable):
        count = whole_number("num_images", num_images)
        if count < 1:
            raise ConfigError(f"num_images={count} must be at least 1")
        return list(range(count))
    given = [whole_number("num_images", one) for one in num_images]
    if not given or not 0 <= min(given) <= max(given) < 2**63:
        raise ConfigError(f"num_images={given} must be numbers of images from 0 on, below 2**63")
    return given


def whole_number(name: str, given: object) -> int:
    """Return a whole number as Python's own: NumPy has others.

    Raises:
        ConfigError: it is none.
    """
    try:
        return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name}={given!r} must be a whole number") from None


def device_of(name: str) -> torch.device:
    """Return a device of torch.

    Raises:
        ConfigError: it cannot be used here.
    """
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device={name!r} cannot be used here ({reason}); give cpu, or leave it out"
        ) from None
