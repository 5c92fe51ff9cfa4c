"""From the section `sample` to the denoiser that a sampler is given: guided, and thresholded.

The order is fixed: the image is given its label, led away from a reference, then thresholded. The
reference is other weights (`guidance_by`: autoguidance), given the same label; else the network
itself without the label (classifier-free guidance). With scale 1, and outside the interval, no
reference is called.

Source: as of `diffusion.wrappers.guidance` and `diffusion.wrappers.thresholding`.
"""

import math
from typing import overload

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.wrappers.guidance import Guided
from ddpm_core.diffusion.wrappers.thresholding import DynamicThreshold
from ddpm_core.errors import ConfigError
from ddpm_core.inference.build import AnyDenoiser, interval_of


@overload
def guided(
    denoiser: NetworkDenoiser,
    given: Conditioning,
    sample: SampleConfig,
    weaker: NetworkDenoiser | None = None,
) -> Denoiser: ...
@overload
def guided(
    denoiser: AnyDenoiser,
    given: Conditioning,
    sample: SampleConfig,
    weaker: NetworkDenoiser | None = None,
) -> Denoiser | BitDenoiser: ...
def guided(
    denoiser: AnyDenoiser,
    given: Conditioning,
    sample: SampleConfig,
    weaker: NetworkDenoiser | None = None,
) -> Denoiser | BitDenoiser:
    """Return the denoiser of images of this conditioning, as `sample` says to draw them.

    Args:
        denoiser: of a network with its null.
        given: of each image, or of one for all; without parts the images are of nothing.
        sample: scale, interval and rescaling of the guidance, and the threshold.
        weaker: the weights that `sample.guidance_by` names; None: it names none.

    Raises:
        ConfigError: guidance of bits; the other settings of it a configuration of bits refuses.
    """
    if isinstance(denoiser, BitDenoiser):
        return _of_bits(denoiser, given, sample)
    own = denoiser.given(given) if given.parts else denoiser
    followed: Denoiser = own
    if weaker is not None:
        reference = weaker.given(given) if given.parts else weaker
        followed = _guided(own, reference, sample)
    elif given.parts:
        followed = _guided(own, denoiser.given_nothing(), sample)
    if sample.threshold_percentile is None:
        return followed
    cap = math.inf if sample.threshold_cap is None else sample.threshold_cap
    return DynamicThreshold(followed, sample.threshold_percentile / 100, cap)


def _of_bits(denoiser: BitDenoiser, given: Conditioning, sample: SampleConfig) -> BitDenoiser:
    if sample.guidance_scale not in (0, 1):
        raise ConfigError(
            f"guidance_scale={sample.guidance_scale} is stated for images, and this is a chain of "
            "bits; give 1 or 0"
        )
    if not given.parts:
        return denoiser
    return denoiser.given_nothing() if sample.guidance_scale == 0 else denoiser.given(given)


def _guided(own: Denoiser, reference: Denoiser, sample: SampleConfig) -> Denoiser:
    scale, interval, rescale = sample.guidance_scale, interval_of(sample), sample.guidance_rescale
    if scale == 1:
        return own
    if scale == 0 and interval.is_everything and rescale == 0:
        return reference  # the same at half the calls
    return Guided(own, reference, scale, interval, rescale)


def describe_guidance(sample: SampleConfig, *, num_classes: int | None) -> dict[str, object]:
    """Return what a number measured on samples must say of labels, guidance and threshold.

    Of unguided samples of nothing that is nothing.

    Args:
        sample: how they were drawn; `guidance_by` pinned.
        num_classes: whose labels the network takes; None: it takes none.
    """
    about: dict[str, object] = {}
    if num_classes is not None:
        listed = sample.labels
        about["labels"] = listed if isinstance(listed, str) else list(listed)
    if num_classes is not None or sample.guidance_by is not None:
        about["guidance_scale"] = sample.guidance_scale
    if sample.guidance_by is not None:
        about["guidance_by"] = sample.guidance_by
    if sample.guidance_interval is not None:
        about["guidance_interval"] = list(sample.guidance_interval)
    if sample.guidance_rescale > 0:
        about["guidance_rescale"] = sample.guidance_rescale
    if sample.threshold_percentile is not None:
        about["threshold_percentile"] = sample.threshold_percentile
        about["threshold_cap"] = sample.threshold_cap
    return about
