"""One step of training a classifier of noised images on one rank: to say what x_t is of.

The noise, the times and all that is done around a step are those of a denoiser's training, but the
labels, of which none is left out.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4: trained on images with the noise of
the process, by cross entropy.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import RunConfig
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.inputs import NUM_QUARTILES
from ddpm_core.training.stepping.parallel import Parallel


class Classifying(Denoising):
    """The training of a classifier; counts the share that it has right too, by quartile of t.

    Args:
        config: the run.
        parallel: this rank.
    """

    counted: ClassVar[tuple[str, ...]] = ("accuracy",)
    taught: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(self, config: RunConfig, parallel: Parallel) -> None:
        self._num_timesteps = config.diffusion.num_timesteps
        super().__init__(config, parallel)

    def _losses(self, x_0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the cross entropy of each image, (b,) float32, in nats; count what is right."""
        labels = conditioning.label
        if labels is None:
            raise ValueError("a classifier is trained with the label of every image")
        x_t = self._objective.noised(x_0, t, eps).contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = self._called(x_t, t).float()
        quartile = t * NUM_QUARTILES // self._num_timesteps
        is_right = logits.detach().argmax(dim=1) == labels
        self._counts.add(is_right, quartile[:, None] == self._quartiles, to="accuracy")
        return cross_entropy(logits, labels, reduction="none")
