"""Some bytes of texts are hidden, to be said from the others.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.1: of 15 % of the tokens 8
of 10 are hidden, one is another at random, and one stays as it is.
"""

import torch
from torch import Tensor

from ddpm_core.conditioning import Text
from ddpm_core.text.tokens import FIRST_BYTE, HIDDEN

_HIDDEN, _EXCHANGED = 0.8, 0.9
"""shares of the chosen: up to the first they are hidden, up to the second exchanged"""


def choose_bytes(text: Text, drawn: Tensor, share: float) -> Tensor:
    """Return which bytes are to be said, (b, l) bool: at least one of each text that has any.

    Args:
        text: as tokens; its end, and what is behind it, is never chosen.
        drawn: (b, l) uniform in [0, 1).
        share: of the bytes, that is chosen.
    """
    is_byte = text.tokens >= FIRST_BYTE
    drawn = drawn.where(is_byte, 2.0)
    return is_byte & ((drawn < share) | (drawn == drawn.amin(dim=1, keepdim=True)))


def hide(text: Text, chosen: Tensor) -> Text:
    """Return the texts with the chosen bytes hidden, all of them."""
    return Text(text.tokens.masked_fill(chosen, HIDDEN), text.mask)


def hide_most(text: Text, chosen: Tensor, drawn: Tensor) -> Text:
    """Return the texts with most of the chosen bytes hidden, and the rest exchanged or left.

    Args:
        text: as tokens.
        chosen: (b, l) bool.
        drawn: (b, l, 2) uniform in [0, 1): what becomes of each, and another byte.
    """
    becomes, other = drawn.unbind(dim=2)
    at_random = FIRST_BYTE + (256 * other).long()
    tokens = hide(text, chosen & (becomes < _HIDDEN)).tokens
    is_exchanged = chosen & (becomes >= _HIDDEN) & (becomes < _EXCHANGED)
    return Text(torch.where(is_exchanged, at_random, tokens), text.mask)
