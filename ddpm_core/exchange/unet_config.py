"""The network in two spellings: our model section, and the config.json of a `UNet2DModel`.

Source: diffusers' `UNet2DModel`; google/ddpm-cifar10-32 is the original's network in its terms.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ddpm_core.config import RunConfig, UNetConfig
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.keys import Described, Keys

_PLAIN, _ATTENDS = "DownBlock2D", "AttnDownBlock2D"
# Key: diffusers' default, and the values with which its network is ours.
_FIXED: dict[str, tuple[object, tuple[object, ...]]] = {
    "_class_name": ("UNet2DModel", ("UNet2DModel",)),
    "act_fn": ("silu", ("silu", "swish")),
    "add_attention": (True, (True,)),
    "center_input_sample": (False, (False,)),
    "class_embed_type": (None, (None,)),
    "downsample_padding": (1, (0,)),
    "downsample_type": ("conv", ("conv",)),
    "flip_sin_to_cos": (True, (False,)),
    "freq_shift": (0, (1,)),
    "mid_block_scale_factor": (1, (1,)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "norm_eps": (1e-5, (1e-6,)),
    "resnet_time_scale_shift": ("default", ("default",)),
    "time_embedding_type": ("positional", ("positional",)),
    "upsample_type": ("conv", ("conv",)),
}
_SAYS_NOTHING = ("num_train_timesteps",)  # but where the embedding of the time is a table
_DEFAULT_HEAD_DIM = 8


def read_unet_config(values: Mapping[str, Any], *, origin: str) -> Described:
    """Return the network that a `UNet2DModel`'s config.json describes.

    Raises:
        ConfigError: naming each key with which it would be another function than ours.
    """
    keys = Keys(values, origin=origin)
    for key, (default, allowed) in _FIXED.items():
        keys.fixed(key, default, allowed)
    for key in _SAYS_NOTHING:
        keys.value(key)
    widths = keys.wholes("block_out_channels", (224, 448, 672, 896))
    num_groups = keys.whole("norm_num_groups", 32)
    channels = keys.whole("in_channels", 3)
    out_channels = keys.whole("out_channels", 3)
    height, width = keys.size("sample_size")
    num_res_blocks = keys.whole("layers_per_block", 2)
    dropout = keys.number("dropout", 0.0)
    if keys.value("time_embedding_dim") not in (None, 4 * widths[0]):
        keys.problem("time_embedding_dim", f"must be null or {4 * widths[0]}, four times the first")
    if keys.value("attn_norm_num_groups") not in (None, num_groups):
        keys.problem("attn_norm_num_groups", "must be null or norm_num_groups")
    if any(one % widths[0] for one in widths):
        keys.problem("block_out_channels", "must be multiples of the first")
    if out_channels not in (channels, 2 * channels):
        keys.problem("out_channels", f"must be in_channels={channels}, or twice that")
    classes = keys.classes("num_class_embeds")
    levels = attending(keys, _PLAIN, _ATTENDS, [_PLAIN, *[_ATTENDS] * 3], len(widths))
    _require_one_head(keys, [widths[level] for level in levels] + [widths[-1]])
    keys.finish()
    model = {
        "kind": "unet",
        "base_channels": widths[0],
        "channel_mults": [one // widths[0] for one in widths],
        "num_res_blocks": num_res_blocks,
        "attention_resolutions": [height // 2**level for level in levels],
        "dropout": dropout,
        "num_groups": num_groups,
        "time_embedding": "sinusoidal",
        **classes,
        "known": False,
        "low_size": None,
        "text_length": 128,
    }
    return Described(model, (channels, height, width), out_channels)


def write_unet_config(config: RunConfig, model: UNetConfig) -> dict[str, Any]:
    """Return the config.json of the `UNet2DModel` that is the network of `config`.

    Raises:
        ConfigError: if there is none.
    """
    data = config.data
    if model.channel_mults[0] != 1:
        raise ConfigError(
            f"model.channel_mults={list(model.channel_mults)} does not begin with 1: the first "
            "convolution has base_channels, and in a UNet2DModel always as many as the first "
            "level; such a network cannot be written for diffusers"
        )
    if model.time_embedding != "sinusoidal":
        raise ConfigError(
            f"model.time_embedding={model.time_embedding}: a UNet2DModel draws its features by "
            "chance, and here they are quantiles; such a network cannot be written for diffusers"
        )
    heights = [data.height // 2**level for level in range(len(model.channel_mults))]
    kinds = [_ATTENDS if one in model.attention_resolutions else _PLAIN for one in heights]
    fixed = {key: allowed[0] for key, (_, allowed) in _FIXED.items()}
    return {
        **fixed,
        "sample_size": data.height if data.height == data.width else [data.height, data.width],
        "in_channels": data.channels,
        "out_channels": config.out_channels,
        "block_out_channels": [model.base_channels * mult for mult in model.channel_mults],
        "down_block_types": kinds,
        "up_block_types": mirrored(kinds),
        "layers_per_block": model.num_res_blocks,
        "dropout": model.dropout,
        "norm_num_groups": model.num_groups,
        "num_class_embeds": None if config.num_classes is None else config.num_classes + 1,
        "attention_head_dim": None,
        "attn_norm_num_groups": None,
        "time_embedding_dim": None,
    }


def attending(
    keys: Keys, plain: str, attends: str, default: Sequence[str], num_levels: int
) -> list[int]:
    """Return the levels with attention.

    Args:
        keys: of the configuration.
        plain: the kind of a level without.
        attends: the kind of one with.
        default: the kinds on the way down, where none are given.
        num_levels: that there must be.
    """
    down = keys.value("down_block_types", default)
    up = keys.value("up_block_types", mirrored(default))
    if not isinstance(down, list) or not all(kind in (plain, attends) for kind in down):
        keys.problem("down_block_types", f"must be a list of {plain} and {attends}")
        return []
    if len(down) != num_levels:
        keys.problem("down_block_types", f"must be {num_levels}, as many as block_out_channels")
    if up != mirrored(down):
        keys.problem("up_block_types", f"must be the way back: {', '.join(mirrored(down))}")
    return [level for level, kind in enumerate(down[:num_levels]) if kind == attends]


def mirrored(kinds: Sequence[str]) -> list[str]:
    """Return the kinds of levels on the way up, of those on the way down."""
    return [kind.replace("Down", "Up") for kind in reversed(kinds)]


def _require_one_head(keys: Keys, widths: Sequence[int]) -> None:
    """Ours has one head as wide as the feature map, on each level and in the middle."""
    head_dim = keys.value("attention_head_dim", _DEFAULT_HEAD_DIM)
    if head_dim is not None and set(widths) != {head_dim}:
        keys.problem(
            "attention_head_dim",
            f"must be null: one head as wide as the feature map ({', '.join(map(str, widths))})",
        )
