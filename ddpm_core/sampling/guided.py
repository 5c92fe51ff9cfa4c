"""From the section `sample` to the denoiser that a sampler is given: guided, and thresholded.

The order is fixed: the image is given its label or its text, led away from a reference, then
thresholded. The reference is other weights (`guidance_by`: autoguidance), given the same; else the
network itself without the label, or with the empty text (classifier-free guidance). With scale 1,
and outside the interval, no reference is called.

Where the other weights are a classifier, the image is led up the gradient of its label's
probability instead, and where they are CLIP, of how well it fits its text: by ancestral sampling of
all steps in the mean of each, after the threshold as in the original; by everything else in eps,
before it.

Source: as of `diffusion.wrappers.guidance`, `classifier_guidance` and `thresholding`.
"""

import math
from collections.abc import Sequence
from typing import overload

from ddpm_core.canonical import fingerprint
from ddpm_core.conditioning import Conditioning
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.wrappers.classifier_guidance import (
    Classifier,
    ClassifierGuided,
    Form,
    LogProbability,
    Score,
    TextFit,
)
from ddpm_core.diffusion.wrappers.guidance import Guided
from ddpm_core.diffusion.wrappers.thresholding import DynamicThreshold, StaticThreshold
from ddpm_core.errors import ConfigError
from ddpm_core.inference.build import AnyDenoiser, interval_of
from ddpm_core.inference.denoiser import Guide

_LISTED = 16
"""prompts that a protocol spells out"""


@overload
def guided(
    denoiser: NetworkDenoiser,
    given: Conditioning,
    sample: SampleConfig,
    guide: Guide | None = None,
    *,
    form: Form | None = None,
) -> Denoiser: ...
@overload
def guided(
    denoiser: AnyDenoiser,
    given: Conditioning,
    sample: SampleConfig,
    guide: Guide | None = None,
    *,
    form: Form | None = None,
) -> Denoiser | BitDenoiser: ...
def guided(
    denoiser: AnyDenoiser,
    given: Conditioning,
    sample: SampleConfig,
    guide: Guide | None = None,
    *,
    form: Form | None = None,
) -> Denoiser | BitDenoiser:
    """Return the denoiser of images of this conditioning, as `sample` says to draw them.

    Args:
        denoiser: of a network with its null.
        given: of each image, or of one for all; without parts the images are of nothing.
        sample: scale, interval and rescaling of the guidance, and the threshold.
        guide: the weights that `sample.guidance_by` names; None: it names none.
        form: of guidance by a gradient; None: as goes with all that `sample` says of the sampler.

    Raises:
        ConfigError: guidance of bits; the other settings of it a configuration of bits refuses; a
            classifier, and the images are of no class, or CLIP, and they are of no text.
    """
    if isinstance(denoiser, BitDenoiser):
        return _of_bits(denoiser, given, sample)
    if given.low is not None:  # of the reference too, whatever else it is not given
        denoiser = denoiser.enlarging(given.low)
        guide = guide.enlarging(given.low) if isinstance(guide, NetworkDenoiser) else guide
    if isinstance(guide, Score):
        return _climbing(denoiser, given, sample, guide, form or form_of(sample))
    if given.low is not None:  # of images of classes, which its network need not take
        given = given.only(denoiser.null.parts)
    own = denoiser.given(given) if given.parts else denoiser
    followed: Denoiser = own
    if guide is not None:
        reference = guide.given(given) if given.parts else guide
        followed = _guided(own, reference, sample)
    elif given.parts:
        followed = _guided(own, denoiser.given_nothing(), sample)
    return _thresholded(followed, sample)


def form_of(sample: SampleConfig) -> Form:
    """Return the form in which a gradient guides this sampler.

    The mean is that of one step of the whole chain, which ancestral sampling of all steps takes.
    """
    return "mean" if sample.is_of_all_steps else "eps"


def _climbing(
    denoiser: NetworkDenoiser,
    given: Conditioning,
    sample: SampleConfig,
    score: Score,
    form: Form,
) -> Denoiser:
    """Return the denoiser that a gradient guides to what its network may be given too."""
    log_probability = _of_what(score, given)
    taken = given.only(denoiser.null.parts)
    own: Denoiser = denoiser.given(taken) if taken.parts else denoiser
    if form == "mean":
        own = _thresholded(own, sample, static=sample.clip_x_0)
    followed = ClassifierGuided(
        own,
        log_probability,
        sample.guidance_scale,
        form,
        interval_of(sample),
    )
    return followed if form == "mean" else _thresholded(followed, sample)


def _of_what(score: Score, given: Conditioning) -> LogProbability:
    """Return log p(what the images are to be of | x_t)."""
    match score:
        case Classifier():
            if given.label is None:
                raise ConfigError(
                    "guidance by a classifier leads to classes, and these images are of none; give "
                    "sample.labels"
                )
            return score.log_probability(given.label)
        case TextFit():
            if given.text is None:
                raise ConfigError(
                    "guidance by CLIP leads to what a text says, and these images are of none; "
                    "give sample.prompts"
                )
            return score.log_probability(given.text)


def _thresholded(denoiser: Denoiser, sample: SampleConfig, *, static: bool = False) -> Denoiser:
    """Return the denoiser with the threshold that `sample` names; else, if so, the static one."""
    if sample.threshold_percentile is None:
        return StaticThreshold(denoiser) if static else denoiser
    cap = math.inf if sample.threshold_cap is None else sample.threshold_cap
    return DynamicThreshold(denoiser, sample.threshold_percentile / 100, cap)


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


def describe_guidance(
    sample: SampleConfig, *, num_classes: int | None, takes_text: bool = False
) -> dict[str, object]:
    """Return what a number measured on samples must say of labels, prompts, guidance and threshold.

    Of unguided samples of nothing that is nothing.

    Args:
        sample: how they were drawn; `guidance_by` pinned.
        num_classes: whose labels the network takes; None: it takes none.
        takes_text: whether it takes texts.
    """
    about: dict[str, object] = {}
    if takes_text or not isinstance(sample.prompts, str):  # given to the network, or to CLIP
        about["prompts"] = _said(sample.prompts)
    if num_classes is not None:
        listed = sample.labels
        about["labels"] = listed if isinstance(listed, str) else list(listed)
    if takes_text or num_classes is not None or sample.guidance_by is not None:
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


def _said(prompts: str | Sequence[str]) -> object:
    """Return prompts as a protocol says them: many by their number and digest."""
    if isinstance(prompts, str) or len(prompts) <= _LISTED:
        return prompts if isinstance(prompts, str) else list(prompts)
    return {"count": len(prompts), "sha256": fingerprint({"prompts": list(prompts)})}
