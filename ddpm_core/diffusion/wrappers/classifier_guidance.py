"""Guidance by a classifier of noised images: up the gradient of log p(y | x_t).

Any score of noised images serves as one: the logarithm of a class's probability, or how well an
image fits a text.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4, algorithms 1 and 2; by a text Nichol
et al. 2021, arXiv:2112.10741, section 2.3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import torch
from torch import Tensor

from ddpm_core.conditioning import Text
from ddpm_core.diffusion.choices import require_end_known
from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import Path, chain_of, ends_in_pure_noise
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.prediction import Prediction
from ddpm_core.diffusion.shapes import Images, Times
from ddpm_core.diffusion.wrappers.guidance import EVERYWHERE, Interval
from ddpm_core.errors import ConfigError

LogProbability = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> (b,): log p(y | x_t) of what is wanted of each image, up to a constant"""

Form = Literal["mean", "eps"]
"""mean: moves the mean of the reverse step by its variance times the gradient (algorithm 1), for
ancestral sampling over the chain's own steps. eps: adds the gradient to the score (algorithm 2),
for all samplers and paths."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that says of which class x_t is."""

    network: Callable[[Tensor, Tensor], Tensor]
    """(x_t, t) -> (b, k): logits"""

    def log_probability(self, labels: Tensor) -> LogProbability:
        """Return log p(y | x_t) of labels, int64: one of each x_t, or one for all of them."""

        def of_label(x_t: Tensor, t: Tensor) -> Tensor:
            log_p = self.network(x_t, t).log_softmax(dim=1)
            return log_p.gather(1, labels.expand(len(x_t))[:, None])[:, 0]

        return of_label


@dataclass(frozen=True, eq=False)
class TextFit:
    """A network that says how well x_t fits a text: f(x_t) . g(text) (CLIP).

    Trained to tell which text of many is whose, that is log p(text | x_t) but for what does not
    depend on the text; and the gradient is taken of it as it is, as in the source.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    """(x_t, t) -> (b, f): features of length 1"""
    of_text: Callable[[Text], Tensor]
    """-> (b, f): features of length 1"""
    scale: float
    """of their product, as it was learned"""

    def log_probability(self, text: Text) -> LogProbability:
        """Return how well x_t fits a text: one of each x_t, or one for all of them."""
        # Inference mode is left as in `ClassifierGuided`.
        with torch.inference_mode(mode=False), torch.no_grad():
            wanted = self.of_text(text)

        def fit(x_t: Tensor, t: Tensor) -> Tensor:
            return self.scale * (self.network(x_t, t) * wanted).sum(dim=1)

        return fit

    def among(self, texts: Text, *, at_once: int = 256) -> Classifier:
        """Return the classifier whose classes are texts, of which so many are read at once."""
        with torch.inference_mode(mode=False), torch.no_grad():
            pieces = (torch.split(one, at_once) for one in (texts.tokens, texts.mask))
            known = torch.cat([self.of_text(Text(*one)) for one in zip(*pieces, strict=True)])
        return Classifier(lambda x_t, t: self.scale * self.network(x_t, t) @ known.T)


Score = Classifier | TextFit
"""what a gradient is taken of"""


@dataclass(frozen=True)
class ClassifierGuided:
    """A denoiser whose predictions are moved towards what a classifier is to see.

    With scale 1, the best denoiser and the true p(y | x_t), the form eps is the best denoiser of
    the images with y; the form mean is that too, but for a factor sqrt(alpha_t) of the move.

    In the form mean nothing clips after the move. To clip before it, as the original does, wrap a
    `StaticThreshold`; for fewer steps, a `respaced` denoiser.

    For batches outside the interval the classifier is not called, and what the denoiser predicts is
    returned as it is (Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. 6, of this guidance).

    Raises:
        ConfigError: if the scale is out of its range; in the form mean, if the path has no steps;
            in the form eps, if it ends in pure noise.
    """

    denoiser: Denoiser
    log_probability: LogProbability
    scale: float
    """at least 0: 0 is no guidance"""
    form: Form = "eps"
    interval: Interval = EVERYWHERE

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ConfigError(f"scale={self.scale} must be at least 0; 0 is no guidance")
        if self.form == "mean":
            chain_of(self.path)
        else:
            require_end_known("eps", ends_in_pure_noise=ends_in_pure_noise(self.path))

    @property
    def path(self) -> Path:
        """As of `Denoiser`."""
        return self.denoiser.path

    def predict(self, x_t: Images, t: Times) -> Prediction:
        """Return the guided prediction: a call of the denoiser, and a gradient of the classifier.

        Raises:
            ConfigError: in the form mean, for times between steps.
        """
        said = self.denoiser.predict(x_t, t)
        if self.scale == 0:
            return said
        everywhere = self.interval.is_everything
        inside = None if everywhere else self.interval.contains(self.path, t)
        if inside is not None and not bool(inside.any()):
            return said
        moved = self._moved(said, x_t, t)
        if inside is not None:
            own = said.of_kind(moved.kind)
            moved = replace(moved, value=torch.where(expand(inside, own), moved.value, own))
        return moved

    def _moved(self, said: Prediction, x_t: Images, t: Times) -> Prediction:
        match self.form:
            case "mean":
                if t.is_floating_point():
                    raise ConfigError(
                        "guidance of the mean speaks of whole steps only; use form=eps, or a "
                        "sampler that takes the steps of the chain (ancestral)"
                    )
                variance = said.log_variance.exp()
                moved = said.of_kind("x_prev") + self.scale * variance * self._gradient(x_t, t)
                return replace(said, value=moved, kind="x_prev")
            case "eps":
                _, noise = self.path.signal_and_noise(t, x_t)
                moved = said.eps - self.scale * noise * self._gradient(x_t, t)
                return replace(said, value=moved, kind="eps")
            case _:
                assert_never(self.form)

    # Inference mode is left, for nothing made in it can be differentiated.
    @torch.inference_mode(mode=False)
    def _gradient(self, x_t: Images, t: Times) -> Images:
        with torch.enable_grad():
            again = x_t.requires_grad
            x = x_t if again else x_t.clone().requires_grad_()
            times = t.clone() if t.is_inference() else t
            total = self.log_probability(x, times).sum()
            (gradient,) = torch.autograd.grad(total, x, create_graph=again)
        return gradient.to(torch.promote_types(x_t.dtype, torch.float32))
