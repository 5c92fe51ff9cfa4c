"""The U-Net of guided diffusion in two spellings: our model section, and diffusers' config.json.

Without text that is a `UNet2DModel`, whose blocks resample and are normalised adaptively; with text
a `UNet2DConditionModel` of blocks with added keys and values, DeepFloyd IF's kind, beside which
stands an encoder of texts, a `SiglipTextModel`.

Source: diffusers' `UNet2DModel` and `UNet2DConditionModel`; transformers' `SiglipTextConfig`.
"""

from collections.abc import Mapping
from typing import Any

from ddpm_core.config import AdmConfig, RunConfig
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.keys import Described, Keys
from ddpm_core.exchange.unet_config import attending, mirrored

WITHOUT, WITH = "UNet2DModel", "UNet2DConditionModel"
"""text"""
_NUM_TOKENS, _TEXT_EPS = 259, 1e-5
_PLAIN = "ResnetDownsampleBlock2D"
_ATTENDS = {WITHOUT: "AttnDownBlock2D", WITH: "SimpleCrossAttnDownBlock2D"}
# Key: diffusers' default, and the values with which its network is ours.
_Fixed = Mapping[str, tuple[object, tuple[object, ...]]]
_OF_BOTH: _Fixed = {
    "act_fn": ("silu", ("silu", "swish")),
    "center_input_sample": (False, (False,)),
    "flip_sin_to_cos": (True, (True,)),
    "freq_shift": (0, (0,)),
    "mid_block_scale_factor": (1, (1,)),
    "norm_eps": (1e-5, (1e-5,)),
    "resnet_time_scale_shift": ("default", ("scale_shift",)),
    "time_embedding_type": ("positional", ("positional",)),
}
_FIXED: Mapping[str, _Fixed] = {
    WITHOUT: {
        "_class_name": (WITHOUT, (WITHOUT,)),
        **_OF_BOTH,
        "add_attention": (True, (True,)),
        "class_embed_type": (None, (None,)),
        "downsample_type": ("conv", ("resnet",)),
        "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
        "upsample_type": ("conv", ("resnet",)),
    },
    WITH: {
        "_class_name": (WITH, (WITH,)),
        **_OF_BOTH,
        "attention_type": ("default", ("default",)),
        "class_embeddings_concat": (False, (False,)),
        "conv_in_kernel": (3, (3,)),
        "conv_out_kernel": (3, (3,)),
        "mid_block_only_cross_attention": (None, (None, False)),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", ("UNetMidBlock2DSimpleCrossAttn",)),
        "only_cross_attention": (False, (False,)),
        "resnet_out_scale_factor": (1.0, (1.0,)),
        "resnet_skip_time_act": (False, (False,)),
    },
}
# Of parts that these networks have not, or of how softmax is computed.
_SAYS_NOTHING = {
    WITHOUT: ("downsample_padding", "num_train_timesteps"),
    WITH: (
        "downsample_padding",
        "dual_cross_attention",
        "transformer_layers_per_block",
        "upcast_attention",
        "use_linear_projection",
    ),
}


def is_adm(values: Mapping[str, Any]) -> bool:
    """Say whether a config.json is of such a network, or of one that is near to it."""
    with_text = values.get("_class_name") == WITH
    return with_text or values.get("resnet_time_scale_shift") == "scale_shift"


def read_adm_config(
    values: Mapping[str, Any], encoder: Mapping[str, Any] | None, *, origin: str
) -> Described:
    """Return the network that a config.json describes, and that of the encoder beside it.

    Args:
        values: of the U-Net.
        encoder: of the encoder of texts; None: there is none.
        origin: for people.

    Raises:
        ConfigError: naming each key with which it would be another function than ours.
    """
    name = WITH if values.get("_class_name") == WITH else WITHOUT
    keys = Keys(values, origin=origin)
    for key, (default, allowed) in _FIXED[name].items():
        keys.fixed(key, default, allowed)
    for key in _SAYS_NOTHING[name]:
        keys.value(key)
    widths = keys.wholes("block_out_channels", (224, 448, 672, 896))
    channels, out_channels = keys.whole("in_channels", 3), keys.whole("out_channels", 3)
    height, width = keys.size("sample_size")
    num_groups = keys.whole("norm_num_groups", 32)
    if keys.value("time_embedding_dim") not in (None, 4 * widths[0]):
        keys.problem("time_embedding_dim", f"must be null or {4 * widths[0]}, four times the first")
    if any(one % widths[0] for one in widths):
        keys.problem("block_out_channels", "must be multiples of the first")
    if out_channels not in (channels, 2 * channels):
        keys.problem("out_channels", f"must be in_channels={channels}, or twice that")
    levels = attending(keys, _PLAIN, _ATTENDS[name], (), len(widths))
    model = AdmConfig().model_dump(mode="json") | {
        "base_channels": widths[0],
        "channel_mults": [one // widths[0] for one in widths],
        "num_res_blocks": _blocks(keys, len(widths)),
        "attention_resolutions": [height // 2**level for level in levels],
        "head_channels": keys.whole("attention_head_dim", 8),
        "dropout": keys.number("dropout", 0.0),
        "num_groups": num_groups,
    }
    if name == WITHOUT:
        if keys.value("attn_norm_num_groups") != num_groups:
            keys.problem("attn_norm_num_groups", "must be norm_num_groups")
        model |= keys.classes("num_class_embeds")
    else:
        model |= _text(keys, encoder, origin=origin)
    keys.finish()
    return Described(model, (channels, height, width), out_channels)


def write_adm_config(config: RunConfig, model: AdmConfig) -> dict[str, Any]:
    """Return the config.json of the network of `config` in diffusers.

    Raises:
        ConfigError: if there is none.
    """
    data, name = config.data, WITH if model.uses_text else WITHOUT
    for key, value, is_theirs in (
        ("channel_mults", list(model.channel_mults), model.channel_mults[0] == 1),
        ("resample_first", "true", not model.resample_first),
        ("scale_skips", "true", not model.scale_skips),
        (
            "num_res_blocks",
            list(model.num_res_blocks),
            model.uses_text or len(set(model.num_res_blocks)) == 1,
        ),
    ):
        if not is_theirs:
            raise ConfigError(
                f"model.{key}={value}: a {name} has no such network (its first level has "
                "base_channels, its images are halved behind the blocks, what it keeps is not "
                "scaled, and without text all its levels have as many blocks); it cannot be "
                "written for diffusers"
            )
    attends = _ATTENDS[name]
    kinds = [attends if one.attends else _PLAIN for one in model.levels(data.height)]
    values = {
        **{key: allowed[0] for key, (_, allowed) in _FIXED[name].items()},
        "sample_size": data.height if data.height == data.width else [data.height, data.width],
        "in_channels": data.channels,
        "out_channels": config.out_channels,
        "block_out_channels": [model.base_channels * mult for mult in model.channel_mults],
        "down_block_types": kinds,
        "up_block_types": mirrored(kinds),
        "dropout": model.dropout,
        "norm_num_groups": model.num_groups,
        "attention_head_dim": model.head_channels,
        "time_embedding_dim": None,
    }
    if name == WITHOUT:
        rows = None if config.num_classes is None else config.num_classes + 1
        return {
            **values,
            "layers_per_block": model.num_res_blocks[0],
            "attn_norm_num_groups": model.num_groups,
            "num_class_embeds": rows,
        }
    pooled = (
        {"class_embed_type": "simple_projection", "addition_embed_type": None}
        if model.text_pool == "last"
        else {"class_embed_type": None, "addition_embed_type": "text"}
    )
    return {
        **values,
        "layers_per_block": list(model.blocks_of_levels),
        "cross_attention_dim": model.text_hidden_size,
        "encoder_hid_dim": None,
        **pooled,
        "projection_class_embeddings_input_dim": model.text_hidden_size,
        "addition_embed_type_num_heads": model.text_num_heads,
    }


def write_encoder_config(model: AdmConfig) -> dict[str, Any]:
    """Return the config.json of the encoder of texts, a `SiglipTextModel`."""
    return {
        "architectures": ["SiglipTextModel"],
        "model_type": "siglip_text_model",
        "vocab_size": _NUM_TOKENS + model.text_length,
        "hidden_size": model.text_hidden_size,
        "projection_size": model.text_hidden_size,
        "intermediate_size": 4 * model.text_hidden_size,
        "num_hidden_layers": model.text_num_layers,
        "num_attention_heads": model.text_num_heads,
        "max_position_embeddings": model.text_length,
        "hidden_act": "gelu",
        "layer_norm_eps": _TEXT_EPS,
        "attention_dropout": 0.0,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }


def _text(keys: Keys, encoder: Mapping[str, Any] | None, *, origin: str) -> dict[str, Any]:
    """Return the keys of `model` that say how texts are read."""
    width, heads = keys.whole("cross_attention_dim", 1280), 64
    by_last = keys.value("class_embed_type") == "simple_projection"
    if by_last:
        keys.fixed("addition_embed_type", None, (None,))
        keys.fixed("projection_class_embeddings_input_dim", None, (width,))
        keys.value("addition_embed_type_num_heads")
    else:
        keys.fixed("addition_embed_type", None, ("text",))
        keys.value("projection_class_embeddings_input_dim")
        heads = keys.whole("addition_embed_type_num_heads", 64)
    if encoder is None:
        raise ConfigError(
            f"{origin} reads states of texts, and beside it there is no text_encoder/config.json: "
            "networks of texts are taken with the encoder that they were trained with"
        )
    theirs = Keys(encoder, origin=f"the encoder of texts beside {origin}")
    theirs.fixed("model_type", None, ("siglip_text_model",))
    theirs.fixed("hidden_act", "gelu_pytorch_tanh", ("gelu",))
    theirs.fixed("layer_norm_eps", 1e-6, (_TEXT_EPS,))
    theirs.fixed("hidden_size", 768, (width,))
    theirs.fixed("projection_size", None, (width,))
    theirs.fixed("intermediate_size", 3072, (4 * width,))
    length = theirs.whole("max_position_embeddings", 64)
    theirs.fixed("vocab_size", 32000, (_NUM_TOKENS + length,))
    num_heads = theirs.whole("num_attention_heads", 12)
    if not by_last and num_heads != heads:
        theirs.problem("num_attention_heads", f"must be {heads}, as those that pool")
    num_layers = theirs.whole("num_hidden_layers", 12)
    theirs.finish(others_count=False)
    return {
        "conditioning": "text",
        "num_classes": None,
        "text_length": length,
        "text_hidden_size": width,
        "text_num_layers": num_layers,
        "text_num_heads": num_heads,
        "text_pool": "last" if by_last else "attention",
    }


def _blocks(keys: Keys, num_levels: int) -> list[int]:
    if not isinstance(keys.value("layers_per_block", 2), list):
        return [keys.whole("layers_per_block", 2)]
    found = keys.wholes("layers_per_block", ())
    if len(found) != num_levels:
        keys.problem("layers_per_block", f"must be {num_levels}, as many as block_out_channels")
    return found[:1] if len(set(found)) == 1 else found
