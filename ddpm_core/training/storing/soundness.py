"""Checks before a checkpoint: no NaN or infinity, and equal weights on all ranks."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ddpm_core.errors import DivergenceError
from ddpm_core.inference.tensor_file import bytes_of


def require_finite(parts: Mapping[str, Mapping[str, Tensor]], *, step: int) -> None:
    """Refuse a state with a number that is not finite.

    Raises:
        DivergenceError: naming the first tensor with a NaN or an infinity.
    """
    tensors = {
        f"{role}.{name}": tensor for role, part in parts.items() for name, tensor in part.items()
    }
    flags = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
    if not flags.all():
        name = list(tensors)[int(flags.logical_not().nonzero()[0])]
        raise DivergenceError(
            f"{name} holds a NaN or an infinity after step {step}; no checkpoint is made of it. "
            "Lower train.learning_rate or raise train.warmup_steps, under another run name"
        )


def weights_digest(weights: Mapping[str, Tensor]) -> int:
    """Return 64 bits of the SHA-256 of the weights: equal on all ranks, or something is broken."""
    digest = hashlib.sha256()
    for _, tensor in sorted(weights.items()):
        digest.update(bytes_of(tensor))
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def require_equal(digests: Sequence[int], *, step: int) -> None:
    """Refuse a state in which the ranks hold different weights.

    Raises:
        DivergenceError: naming the ranks that differ from rank 0.
    """
    others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise DivergenceError(
            f"after step {step} the weights of rank(s) {', '.join(others)} are not those of rank "
            "0; no checkpoint is made of them. Suspect the memory of those machines; run again to "
            "continue from the checkpoint before"
        )
