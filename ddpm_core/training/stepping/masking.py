"""One step of training a language model of captions on one rank: to say the bytes that are hidden.

All that is done around a step is as of a denoiser's training, but the captions, of which none is
left out; of the images nothing is used.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.1.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import RunConfig, TextConfig
from ddpm_core.text.masking import choose_bytes, hide_most
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.inputs import Inputs
from ddpm_core.training.stepping.parallel import Parallel


class Masking(Denoising):
    """The training of a language model.

    Args:
        config: the run.
        parallel: this rank.
    """

    taught: ClassVar[frozenset[str]] = frozenset({"text"})

    def __init__(self, config: RunConfig, parallel: Parallel) -> None:
        if not isinstance(config.model, TextConfig):
            raise TypeError(f"model.kind={config.model.kind} is trained otherwise")
        self._share = config.model.hidden_share
        super().__init__(config, parallel)

    def _losses_of(self, inputs: Inputs) -> Tensor:
        """Return the cross entropy of each caption's chosen bytes, (b,) float32, in nats: their
        mean; 0 of a caption that has no bytes.
        """
        text, drawn = inputs.conditioning.text, inputs.masking
        if text is None or drawn is None:
            raise ValueError("a language model is trained with a caption of every image")
        chosen = choose_bytes(text, drawn[..., 0], self._share)
        shown = Conditioning(text=hide_most(text, chosen, drawn[..., 1:]))
        nothing = torch.zeros(len(chosen), 1, 1, 1, device=self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = self._called(nothing, inputs.t, shown).float()
        nats = cross_entropy(logits.flatten(0, 1), text.tokens.flatten(), reduction="none")
        of_chosen = nats.reshape(chosen.shape).where(chosen, 0).sum(dim=1)
        return of_chosen / chosen.sum(dim=1).clamp(min=1)
