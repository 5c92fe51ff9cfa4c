"""Weights of one network fitted to another that has more: further classes, or conditioning at all.

What is added begins at 0, so that the network begins as the function that it was; a class that is
new begins as the row of no class. Everything else must be there in the same shape.

Source of beginning at 0: Zhang et al. 2023, arXiv:2302.05543, section 3.1 (zero convolutions);
Nichol et al. 2021, arXiv:2112.10741, section 3.2.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ddpm_core.errors import CheckpointError

CLASS_ROWS = "class_embed.weight"
"""the learned row of each class, and last that of no class; added to the embedding of the time"""
ADDED_LAYERS = ("class_embed.", "conv_known.", "patch_known.", "augment_embed.", "low.")
"""how the names of layers begin whose outputs are added to what a network without them computes"""
SILENT_LAYERS = ("augment_embed.",)
"""of those the ones that add nothing where images are drawn: without them the same are"""
_BEGUN_AS = {"low.linear_1.": "time_embed.linear_1."}
"""layers before one of zeros, which would not learn if they were zeros too -> as which they begin
"""
_SHOWN = 5


def fit(
    weights: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    *,
    rows: Sequence[int | None] | None = None,
    are_moments: bool = False,
) -> dict[str, Tensor]:
    """Return weights by the names and in the shapes of `like`, float32.

    Args:
        weights: of a network, or the moments of an optimiser of it, by the names of its parameters.
        like: the parameters of the network that they are for: shapes count, not numbers.
        rows: for each class of that network the class whose row it takes, or None: it is new. By
            default the classes that both have keep their numbers.
        are_moments: whether a new class begins at 0, and not as no class.

    Raises:
        CheckpointError: naming each tensor that does not fit, with both shapes.
    """
    fitted, misfits = {}, []
    for name, tensor in like.items():
        found = weights.get(name)
        if found is None:
            if name.startswith(ADDED_LAYERS):
                other = None if are_moments else weights.get(_begun_as(name))
                fitted[name] = torch.zeros(tensor.shape) if other is None else other.float()
            else:
                misfits.append(f"{name}: not there, {_size(tensor)} here")
        elif name == CLASS_ROWS and found.shape[1:] == tensor.shape[1:]:
            fitted[name] = _class_rows(found, len(tensor) - 1, rows, are_moments=are_moments)
        elif found.shape != tensor.shape:
            misfits.append(f"{name}: {_size(found)} there, {_size(tensor)} here")
        else:
            fitted[name] = found.to(torch.float32)
    misfits += [
        f"{name}: {_size(weights[name])} there, not here"
        for name in weights.keys() - like
        if not name.startswith(SILENT_LAYERS)
    ]
    if misfits:
        more = f"\n  and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
        raise CheckpointError(
            "the weights are not those of this network:"
            + "".join(f"\n  {line}" for line in sorted(misfits)[:_SHOWN])
            + f"{more}\nGive the model section that they were trained with"
        )
    return fitted


def _begun_as(name: str) -> str:
    """Return the name of the parameter that a new one begins as; of other names no name."""
    found = ((own, other) for own, other in _BEGUN_AS.items() if name.startswith(own))
    own, other = next(found, ("", ""))
    return other and other + name.removeprefix(own)


def _class_rows(
    table: Tensor, num_classes: int, rows: Sequence[int | None] | None, *, are_moments: bool
) -> Tensor:
    """Return the table of `num_classes` classes and no class, of that of others and no class."""
    null = len(table) - 1
    if rows is None:
        rows = [label if label < null else None for label in range(num_classes)]
    index = torch.tensor([null if row is None else row for row in (*rows, null)])
    fitted = table.to(torch.float32)[index]
    if are_moments:
        is_new = [label for label, row in enumerate(rows) if row is None]
        fitted[is_new] = 0.0
    return fitted


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
