"""One step of training CLIP on one rank: to say which caption of the batch is of which image.

The noise, the times and all that is done around a step are those of a denoiser's training, but the
captions, of which none is left out. Every image is held against the captions of the global batch,
and every caption against its images, whichever ranks they are on.

Equal captions are the same caption: an image has as many of its own as the batch has copies of it,
each as likely as the others. One of them alone would have to be told from its like.

Source: Radford et al. 2021, arXiv:2103.00020, figure 3 and section 2.5 (the loss, the largest
scale); Nichol et al. 2021, arXiv:2112.10741, section 2.3 (noised images); Yang et al. 2022,
arXiv:2204.03610, equations 2 and 3 (several positives).
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import ClipConfig, RunConfig
from ddpm_core.models.clip import Clip
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.inputs import NUM_QUARTILES
from ddpm_core.training.stepping.parallel import Parallel


class Contrasting(Denoising):
    """The training of CLIP; counts how often an image finds a caption of its own first, by quartile
    of t.

    Args:
        config: the run.
        parallel: this rank.
    """

    counted: ClassVar[tuple[str, ...]] = ("accuracy",)
    taught: ClassVar[frozenset[str]] = frozenset({"text"})
    network: Clip

    def __init__(self, config: RunConfig, parallel: Parallel) -> None:
        if not isinstance(config.model, ClipConfig):
            raise TypeError(f"model.kind={config.model.kind} is trained otherwise")
        self._num_timesteps, self._noised = config.diffusion.num_timesteps, config.model.noised
        super().__init__(config, parallel)

    def _losses(self, x_0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the loss of each image and its caption, (b,) float32, in nats; count who finds."""
        if conditioning.text is None:
            raise ValueError("CLIP is trained with a caption of every image")
        x_t = self._objective.noised(x_0, t, eps) if self._noised else x_0
        x_t = x_t.contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            own = self._called(x_t, t, conditioning).float()
        everyone = self._parallel.gathered(own)
        tokens = conditioning.text.tokens
        is_own = (tokens[:, None] == self._parallel.gathered(tokens)[None]).all(dim=2)
        scale = self.network.scale.float()
        of_images = scale * own[:, 0] @ everyone[:, 1].T
        of_texts = scale * own[:, 1] @ everyone[:, 0].T
        finds = is_own.gather(1, of_images.detach().argmax(dim=1, keepdim=True))[:, 0]
        quartile = t * NUM_QUARTILES // self._num_timesteps
        self._counts.add(finds, quartile[:, None] == self._quartiles, to="accuracy")
        return (contrasted(of_images, is_own) + contrasted(of_texts, is_own)) / 2

    def _bound(self) -> None:
        self.network.bound_scale()


def contrasted(logits: Tensor, is_own: Tensor) -> Tensor:
    """Return -log p of what is a row's own, (b,): the mean where several are.

    Args:
        logits: (b, n) of each row, how well each of all fits.
        is_own: (b, n) bool, True somewhere in each row.
    """
    log_p = log_softmax(logits, dim=1)
    return -log_p.where(is_own, 0).sum(dim=1) / is_own.sum(dim=1)
