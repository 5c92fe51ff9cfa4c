"""A language model of texts alone: says bytes that are hidden from those around them.

What it is for is its encoder, which has read what texts there are before any image is seen.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from ddpm_core.conditioning import NOTHING, Conditioning, require_accepted
from ddpm_core.models.blocks import Linear, initialise
from ddpm_core.models.text_encoder import TextEncoder
from ddpm_core.text.tokens import NUM_TOKENS, encode

ENCODER = "encoder."
"""how the names of its encoder's parameters begin; of a network that reads captions text_encoder.
"""


def encoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a language model's encoder, by the names of a network that has it."""
    return {f"text_{name}": one for name, one in weights.items() if name.startswith(ENCODER)}


class ByteModel(nn.Module):
    """(x_t, t, text) -> logits of the tokens at each position; of the image it makes nothing.

    Args:
        encoder: of texts.
        generator: CPU generator from which the initial weights are drawn.
    """

    accepts = frozenset({"text"})

    def __init__(self, encoder: TextEncoder, *, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = encoder
        length, width = encoder.positions.weight.shape
        self.null = Conditioning(text=encode([""], length))
        """of one image: the empty text"""
        self.tokens_out = Linear(width, NUM_TOKENS)
        initialise(self, generator)

    @property
    def last(self) -> nn.Module:
        """As of `UNet`."""
        return self.tokens_out

    def forward(
        self,
        x_t: Float[Tensor, "b c h w"],  # noqa: ARG002 - as every network is called
        t: Real[Tensor, " b"],  # noqa: ARG002
        conditioning: Conditioning = NOTHING,
    ) -> Float[Tensor, "b l k"]:
        """Return the logits, float32 also under autocast.

        Raises:
            ConfigError: the texts have another length than the encoder.
            DataError: if the conditioning has other parts than `accepts`.
        """
        require_accepted(conditioning, self.accepts, model="this language model")
        if conditioning.text is None:
            raise RuntimeError("the language model accepts texts, and was given none")
        states = self.encoder(conditioning.text)
        with torch.autocast(states.device.type, enabled=False):
            logits: Tensor = self.tokens_out(states.to(self.tokens_out.weight.dtype))
        return logits
