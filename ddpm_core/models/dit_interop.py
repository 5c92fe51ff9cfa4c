"""Which weight of our DiT is which of the same network in `diffusers`.

There every block has an embedding of timestep and label of its own; the network has one. So ours is
written into each block, and theirs are read if all are equal. Of a network without labels their
part is 0, and with any label theirs is the same function.

Source: the names of diffusers' `DiTTransformer2DModel`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ddpm_core.errors import CheckpointError
from ddpm_core.models.dit_labels import NUM_LABELS
from ddpm_core.models.interop import matched

_EMBEDDING = "norm1.emb"
_TABLE = f"{_EMBEDDING}.class_embedder.embedding_table.weight"
_OURS = "class_embed.weight"
_ATTENTION = ("to_q", "to_k", "to_v")
_OF_BLOCK = {
    "modulation": "norm1.linear",
    "attention.proj_out": "attn1.to_out.0",
    "linear_1": "ff.net.0.proj",
    "linear_2": "ff.net.2",
}
_OUTSIDE = {"patch_in": "pos_embed.proj", "modulation_out": "proj_out_1", "patch_out": "proj_out_2"}


def to_diffusers(weights: Mapping[str, Tensor], *, patch_size: int) -> dict[str, Tensor]:
    """Return our weights, by our names, as those of a `DiTTransformer2DModel`.

    Raises:
        CheckpointError: a parameter that our DiT does not have.
    """
    num_layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match name.split("."):
            case ["time_embed", layer, kind]:
                for index in range(num_layers):
                    path = f"transformer_blocks.{index}.{_EMBEDDING}.timestep_embedder"
                    found[f"{path}.{layer}.{kind}"] = tensor.clone()
            case ["class_embed", "weight"]:
                for index in range(num_layers):
                    found[f"transformer_blocks.{index}.{_TABLE}"] = tensor.clone()
            case ["blocks", index, "attention", "query_key_value", kind]:
                for part, one in zip(_ATTENTION, tensor.chunk(3), strict=True):
                    found[f"transformer_blocks.{index}.attn1.{part}.{kind}"] = one
            case ["blocks", index, *path, kind] if ".".join(path) in _OF_BLOCK:
                found[f"transformer_blocks.{index}.{_OF_BLOCK['.'.join(path)]}.{kind}"] = tensor
            case ["patch_in", "weight"]:
                kernel = tensor.reshape(len(tensor), -1, patch_size, patch_size)
                found[f"{_OUTSIDE['patch_in']}.weight"] = kernel
            case [layer, kind] if layer in _OUTSIDE:
                found[f"{_OUTSIDE[layer]}.{kind}"] = tensor
            case _:
                raise CheckpointError(f"{name!r} is no parameter of our DiT")
    some = weights["patch_in.bias"]
    nothing = {
        f"transformer_blocks.{index}.{_TABLE}": some.new_zeros(NUM_LABELS + 1, len(some))
        for index in range(num_layers)
    }
    return nothing | found


def from_diffusers(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], *, patch_size: int
) -> dict[str, Tensor]:
    """Return a `DiTTransformer2DModel`'s weights under our names, in the order of `like`.

    Args:
        tensors: by diffusers' names.
        like: the parameters of our network by name, of which shapes count; they may be `meta`.
        patch_size: of the network.

    Raises:
        CheckpointError: naming the weights that are missing, unknown or of another shape; or the
            blocks have different embeddings, or use labels.
    """
    expected = to_diffusers(like, patch_size=patch_size)
    given = matched(tensors, {name: name for name in expected}, expected, what="diffusers")
    tables = [one for name, one in given.items() if name.endswith(_TABLE)]
    if _OURS not in like and any(bool(table.any()) for table in tables):
        raise CheckpointError(
            "this transformer uses the label of its one class (class_embedder is not 0), and here "
            "a network of one class takes none; take one without"
        )
    found = {}
    for name, ours in like.items():
        match name.split("."):
            case ["class_embed", "weight"]:
                found[name] = _same(given, f".{_TABLE}")
            case ["time_embed", layer, kind]:
                found[name] = _same(given, f".{_EMBEDDING}.timestep_embedder.{layer}.{kind}")
            case ["blocks", index, "attention", "query_key_value", kind]:
                path = f"transformer_blocks.{index}.attn1"
                found[name] = torch.cat([given[f"{path}.{part}.{kind}"] for part in _ATTENTION])
            case ["blocks", index, *layer_path, kind]:
                theirs = f"transformer_blocks.{index}.{_OF_BLOCK['.'.join(layer_path)]}.{kind}"
                found[name] = given[theirs]
            case [layer, kind]:
                found[name] = given[f"{_OUTSIDE[layer]}.{kind}"].reshape(ours.shape)
    return found


def _same(given: Mapping[str, Tensor], end: str) -> Tensor:
    """Return what all blocks have under this name.

    Raises:
        CheckpointError: they have different ones.
    """
    several = [one for key, one in given.items() if key.endswith(end)]
    if not all(torch.equal(one, several[0]) for one in several):
        raise CheckpointError(
            f"the blocks of this transformer embed timestep or label each in another way ({end[1:]}"
            " differ), and this program's all in one; take a network that was trained so, as the "
            "original is"
        )
    return several[0]
