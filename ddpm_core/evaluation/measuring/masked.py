"""How well a language model says hidden bytes of held-out captions, in bits for each.

It is no likelihood of a caption: each byte is said from all the others. Beside it stands what the
same bytes cost by how often each occurs, of which nothing around them is used.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning, Text
from ddpm_core.config import RunConfig, TextConfig
from ddpm_core.errors import ConfigError
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.text.masking import choose_bytes, hide
from ddpm_core.text.tokens import FIRST_BYTE
from ddpm_core.units.ranges import Arrays


def hidden_share(config: RunConfig) -> float:
    """Return the share of the bytes that a run's language model learns to say.

    Raises:
        ConfigError: the run is of another network.
    """
    if not isinstance(config.model, TextConfig):
        raise ConfigError(f"model.kind={config.model.kind} says no bytes of captions")
    return config.model.hidden_share


def bytes_part(
    network: Callable[[Tensor, Tensor, Conditioning], Tensor],
    text: Text,
    positions: Tensor,
    *,
    share: float,
    seed: int,
) -> Arrays:
    """Return what is said of the hidden bytes of captions.

    Of each caption `nats` (n,) float64, their sum; `num_right` and `num_hidden` (n,) int64; and of
    its hidden bytes how often each occurs, `counts` (n, 256) int64.

    Args:
        network: of a language model: (nothing, nothing, text) -> (n, l, k) logits.
        text: (n, l) tokens, on the device of `positions`.
        positions: (n,) place of each image in the held-out split, of which what is hidden is a
            function.
        share: of the bytes, that is hidden.
        seed: of what is hidden.
    """
    key, length = seeding.key(seed, "masking"), text.tokens.shape[1]
    chosen = choose_bytes(text, seeding.uniform(key, 0, positions, (length,)), share)
    nothing = torch.zeros(len(positions), 1, 1, 1, device=positions.device)
    with torch.inference_mode():
        logits = network(nothing, positions, Conditioning(text=hide(text, chosen))).double()
    log_p = logits.log_softmax(dim=2).gather(2, text.tokens[:, :, None])[:, :, 0]
    is_right = chosen & (logits.argmax(dim=2) == text.tokens)
    of_byte = (text.tokens - FIRST_BYTE).clamp(min=0)
    counts = torch.zeros(len(positions), 256, dtype=torch.int64, device=positions.device)
    counts.scatter_add_(1, of_byte, chosen.long())
    found = {
        "nats": -log_p.where(chosen, 0).sum(dim=1),
        "num_right": is_right.sum(dim=1),
        "num_hidden": chosen.sum(dim=1),
        "counts": counts,
    }
    return {name: one.cpu() for name, one in found.items()}


def bytes_metric(
    nats: NDArray[np.float64],
    num_right: NDArray[np.int64],
    num_hidden: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    config: RunConfig,
    weights: dict[str, Any],
) -> dict[str, Any]:
    """Return the bits of a hidden byte, over all captions; the value None where none has a byte.

    Args:
        nats: (n,) of each caption, of all its hidden bytes.
        num_right: (n,) of them.
        num_hidden: (n,) bytes.
        counts: (n, 256) of each byte among them.
        config: the run.
        weights: which weights these are.
    """
    total, bits = int(num_hidden.sum()), nats / math.log(2)
    value = float(bits.sum() / total) if total else None
    frequencies = counts.sum(axis=0)[counts.sum(axis=0) > 0] / max(total, 1)
    # Of a ratio of two sums over the captions.
    apart = bits - (value or 0) * num_hidden
    count = len(nats)
    has_error = total > 0 and count > 1
    error = math.sqrt(count * float(apart.var(ddof=1))) / total if has_error else None
    return {
        "value": value,
        "standard_error": error,
        "accuracy": float(num_right.sum() / total) if total else None,
        "by_frequency": float(-(frequencies * np.log2(frequencies)).sum()) if total else None,
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "captions": "the first of each held-out image",
            "num_captions": count,
            "num_hidden": total,
            "hidden": f"{hidden_share(config):g} of the bytes of each, at least one, all at once",
            "unit": "bits for each hidden byte",
            "by_frequency": "the entropy of these bytes, each by itself",
            "seed": config.evaluate.seed,
        },
    }
