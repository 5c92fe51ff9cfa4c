"""Which weight of the U-Net of guided diffusion is which of the same network in `diffusers`.

Without text it is a `UNet2DModel`, with text a `UNet2DConditionModel` whose attention has added
keys and values (DeepFloyd IF's kind). The encoder of texts is no part of either.
"""

from collections.abc import Mapping

from torch import Tensor

from ddpm_core.errors import CheckpointError
from ddpm_core.models.interop import DIFFUSERS_MIDDLE, DIFFUSERS_PARTS, matched

TEXT_ENCODER = "text_encoder."
"""how the names of the encoder's parameters begin"""
_PARTS = {**DIFFUSERS_PARTS, "text_key": "add_k_proj", "text_value": "add_v_proj"}
_POOLS = {
    "norm_in": "norm1",
    "query": "pool.q_proj",
    "key": "pool.k_proj",
    "value": "pool.v_proj",
    "proj": "proj",
    "norm_out": "norm2",
}


def diffusers_name(name: str, *, pools_by_attention: bool = False) -> str:
    """Return the name there of our parameter, e.g. up.0.blocks.2.conv_1.weight.

    Args:
        name: ours; of no parameter of the encoder of texts.
        pools_by_attention: whether all positions of a text are pooled, and not its last one taken.

    Raises:
        CheckpointError: if our network has no such parameter, or diffusers' none for it.
    """
    try:
        return _path(name, pools_by_attention=pools_by_attention)
    except KeyError:
        raise CheckpointError(
            f"{name!r} is no parameter that a U-Net of guided diffusion has in diffusers"
        ) from None


def _path(name: str, *, pools_by_attention: bool) -> str:
    match name.split("."):
        case ["time_embed", layer, kind]:
            return f"time_embedding.{layer}.{kind}"
        case ["class_embed", kind]:
            return f"class_embedding.{kind}"
        case ["text_pool", "begin", "weight"]:
            return "add_embedding.pool.positional_embedding"
        case ["text_pool", part, kind]:
            where = f"add_embedding.{_POOLS[part]}" if pools_by_attention else "class_embedding"
            return f"{where}.{kind}"
        case ["conv_in" | "conv_out" as layer, kind]:
            return f"{layer}.{kind}"
        case ["norm_out", kind]:
            return f"conv_norm_out.{kind}"
        case ["middle", block, part, kind]:
            return f"mid_block.{DIFFUSERS_MIDDLE[block]}.{_PARTS[part]}.{kind}"
        case ["down", stage, "halving", part, kind] if part in _PARTS:
            return f"down_blocks.{int(stage) - 1}.downsamplers.0.{_PARTS[part]}.{kind}"
        case ["up", stage, "doubling", part, kind] if part in _PARTS:
            return f"up_blocks.{stage}.upsamplers.0.{_PARTS[part]}.{kind}"
        case ["down" | "up" as path, stage, "blocks", index, part, kind]:
            return f"{path}_blocks.{stage}.resnets.{index}.{_PARTS[part]}.{kind}"
        case ["down" | "up" as path, stage, "attentions", index, part, kind]:
            return f"{path}_blocks.{stage}.attentions.{index}.{_PARTS[part]}.{kind}"
        case _:
            raise KeyError(name)


def to_diffusers(
    weights: Mapping[str, Tensor], *, pools_by_attention: bool = False
) -> dict[str, Tensor]:
    """Return our weights, by our names, as those there, without the encoder's; the same tensors."""
    return {
        diffusers_name(name, pools_by_attention=pools_by_attention): tensor
        for name, tensor in weights.items()
        if not name.startswith(TEXT_ENCODER)
    }


def from_diffusers(
    tensors: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    *,
    pools_by_attention: bool = False,
) -> dict[str, Tensor]:
    """Return weights from there under our names, in the order of `like`, without the encoder's.

    Args:
        tensors: by diffusers' names.
        like: the parameters of our network by name, of which shapes count; they may be `meta`.
        pools_by_attention: as of `diffusers_name`.

    Raises:
        CheckpointError: naming the weights that are missing, unknown or of another shape.
    """
    expected = {
        diffusers_name(name, pools_by_attention=pools_by_attention): name
        for name in like
        if not name.startswith(TEXT_ENCODER)
    }
    return matched(tensors, expected, like, what="diffusers")
