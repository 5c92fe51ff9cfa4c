"""What a run of `model.low_size` enlarges: samples of another run, or its own held-out images.

A cascade is such runs, each of which names the one before it in `sample.low_from`. Knows no torch.
"""

from dataclasses import dataclass, replace
from typing import Any

from ddpm_core.config import RunConfig, SampleConfig
from ddpm_core.config.explain import near
from ddpm_core.config.model_ref import ModelRef
from ddpm_core.errors import ConfigError
from ddpm_core.runs import begun
from ddpm_core.store.storage import Store


@dataclass(frozen=True)
class Lower:
    """Which low resolutions samples are made of."""

    counted: dict[str, Any]
    """what determines them, as JSON values"""
    said: str
    """what they are, for people"""
    pinned: str | None = None
    """the reference that names these very weights; None: there is none: they are not drawn, or by
    weights of another run"""


def lower_of(store: Store, config: RunConfig) -> RunConfig | None:
    """Return the configuration by which a run's low resolutions are drawn, as many as it draws.

    None where they are made of its held-out images, or it takes none. Sizes fall from stage to
    stage, so that no cascade is a circle.

    Raises:
        ConfigError: there is no such run, or its images are not of that size, kind or class; or so
            of the stages before it.
    """
    text, size = config.sample.low_from, config.model.low_size
    if text is None or size is None:
        return None
    ref, given, data = ModelRef.parse(text), f"sample.low_from={text!r}", config.data
    if ref.run in (None, config.name):
        raise ConfigError(
            f"{given}: a run enlarges what another one draws, and not its own images; name the run "
            "of the stage before"
        )
    found = begun.recorded(store, str(ref.run))
    if found is None:
        close = near(str(ref.run), store.names("runs"))
        meant = f"; did you mean {close!r}?" if close else ""
        raise ConfigError(f"{given}: there is no run {ref.run!r} below {store.uri}{meant}")
    if found.role != "denoiser" or found.diffusion.kind == "binomial":
        raise ConfigError(f"{given}: run {ref.run!r} draws no images; name one that does")
    there, here = found.data.shape, (data.channels, *size)
    if there != here:
        raise ConfigError(
            f"{given}: run {ref.run!r} draws images of {_shape(there)}, and run {config.name!r} "
            f"enlarges those of {_shape(here)} (model.low_size={list(size)}, channels of its "
            "data); name a run of that size"
        )
    if config.num_classes is not None and found.num_classes != config.num_classes:
        has = "none" if found.num_classes is None else found.num_classes
        raise ConfigError(
            f"{given}: run {config.name!r} is given the label of each image, of "
            f"{config.num_classes} classes, and run {ref.run!r} has {has}; name a run of these "
            "classes"
        )
    if config.model.uses_text and not found.model.uses_text:
        raise ConfigError(
            f"{given}: run {config.name!r} is given the text of each image, and run {ref.run!r} "
            "draws of none; name a run of texts"
        )
    changes: dict[str, Any] = {"sample.num_images": config.sample.num_images}
    if ref != ModelRef(ref.run):
        changes["sample.model"] = str(replace(ref, run=None))
    lower = found.replaced(changes)
    lower_of(store, lower)  # refuses what does not fit further down
    return lower


def require_no_labels(config: RunConfig) -> None:
    """Refuse labels and prompts beside those of the low resolutions.

    Raises:
        ConfigError: saying what has them.
    """
    for key in ("labels", "prompts"):
        given = getattr(config.sample, key)
        if given != SampleConfig.model_fields[key].default:
            shown = given if isinstance(given, str) else list(given)[:3]
            raise ConfigError(
                f"sample.{key}={shown}: what is enlarged says of what it is, a sample of "
                f"sample.low_from or a held-out image; leave sample.{key} out here, and give it to "
                "`upscale`"
            )


def _shape(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{height}x{width} in {'grey' if channels == 1 else 'colour'}"
