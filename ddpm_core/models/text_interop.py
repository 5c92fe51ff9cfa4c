"""Which weight of our encoder of texts is which of the same network in `transformers`.

That is a `SiglipTextModel`: no position is masked, and the vector of a text is its last position.
What stands behind the end of a text is, there, tokens of its own: position i has token NUM_TOKENS +
i. Its head, of which we have none, is the identity.

Source: the names of transformers' `SiglipTextModel`, before version 5 behind `text_model.`.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from ddpm_core.conditioning import Text
from ddpm_core.errors import CheckpointError
from ddpm_core.models.interop import matched
from ddpm_core.text.tokens import NUM_TOKENS

_TOKENS = "embeddings.token_embedding.weight"
_HEAD = ("head.weight", "head.bias")
_OLDER = "text_model."
_OURS = ("token_embed.weight", "padding.weight")
_OF_BLOCK = {
    "norm_1": "layer_norm1",
    "norm_2": "layer_norm2",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "proj_out": "self_attn.out_proj",
    "linear_1": "mlp.fc1",
    "linear_2": "mlp.fc2",
}
OF_TEXT = {
    "token_embed": "embeddings.token_embedding",
    "positions": "embeddings.position_embedding",
    "norm_out": "final_layer_norm",
}
"""what an encoder of texts has around its blocks, by transformers' names"""


def transformers_name(name: str, around: Mapping[str, str]) -> str:
    """Return transformers' name of a parameter of one of our transformers.

    Args:
        name: ours.
        around: theirs of what stands around the blocks, by ours.

    Raises:
        CheckpointError: it has none.
    """
    match name.split("."):
        case ["blocks", index, part, kind] if part in _OF_BLOCK:
            return f"encoder.layers.{index}.{_OF_BLOCK[part]}.{kind}"
        case [part, kind] if part in around:
            return f"{around[part]}.{kind}"
        case _:
            raise CheckpointError(f"{name!r} is no parameter of this network in transformers")


def input_ids(text: Text) -> Int[Tensor, "b l"]:
    """Return the tokens by which a `SiglipTextModel` with our weights reads these texts."""
    places = torch.arange(text.tokens.shape[1], device=text.tokens.device)
    return torch.where(text.mask, text.tokens, NUM_TOKENS + places)


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an encoder, by our names, as those of a `SiglipTextModel`."""
    found = {
        transformers_name(name, OF_TEXT): tensor
        for name, tensor in weights.items()
        if name not in _OURS
    }
    table = torch.cat([weights[name] for name in _OURS])
    width = table.shape[1]
    head = dict(zip(_HEAD, (torch.eye(width), torch.zeros(width)), strict=True))
    return {_TOKENS: table, **found, **head}


def from_transformers(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a `SiglipTextModel`'s weights under our names, in the order of `like`.

    Args:
        tensors: by transformers' names.
        like: the parameters of our encoder by name, of which shapes count; they may be `meta`.

    Raises:
        CheckpointError: naming the weights that are missing, unknown or of another shape; or the
            head is not the identity.
    """
    given = {name.removeprefix(_OLDER): tensor for name, tensor in tensors.items()}
    width = like[_OURS[0]].shape[1]
    sizes = {
        _TOKENS: (sum(len(like[name]) for name in _OURS), width),
        "head.weight": (width, width),
        "head.bias": (width,),
    }
    shapes = {
        transformers_name(name, OF_TEXT): tensor
        for name, tensor in like.items()
        if name not in _OURS
    }
    shapes |= {name: torch.empty(size, device="meta") for name, size in sizes.items()}
    found = matched(given, {name: name for name in shapes}, shapes, what="transformers")
    weight, bias = (found[name] for name in _HEAD)
    if bool(bias.any()) or not torch.equal(weight, torch.eye(width, dtype=weight.dtype)):
        raise CheckpointError(
            "the head of this encoder of texts is not the identity, and here the last position is "
            "taken as it is; give an encoder that this program has written"
        )
    table, count = found[_TOKENS], len(like[_OURS[0]])
    tables = dict(zip(_OURS, (table[:count], table[count:]), strict=True))
    return {
        name: tables[name] if name in _OURS else found[transformers_name(name, OF_TEXT)]
        for name in like
    }
