"""The transformer in two spellings: our model section, and a `DiTTransformer2DModel`'s config.json.

Source: diffusers' `DiTTransformer2DModel`.
"""

from collections.abc import Mapping
from typing import Any

from ddpm_core.config import DiTConfig, RunConfig
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.keys import Described, Keys
from ddpm_core.models.dit_labels import NUM_LABELS

CLASS_NAME = "DiTTransformer2DModel"
# Key: diffusers' default, and the values with which its network is ours.
_FIXED: dict[str, tuple[object, tuple[object, ...]]] = {
    "_class_name": (CLASS_NAME, (CLASS_NAME,)),
    "activation_fn": ("gelu-approximate", ("gelu-approximate",)),
    "attention_bias": (True, (True,)),
    "dropout": (0.0, (0.0,)),
    "norm_elementwise_affine": (False, (False,)),
    "norm_eps": (1e-5, (1e-6,)),
    "norm_type": ("ada_norm_zero", ("ada_norm_zero",)),
    "upcast_attention": (False, (False,)),
}
_SAYS_NOTHING = ("norm_num_groups",)


def read_dit_config(values: Mapping[str, Any], *, origin: str) -> Described:
    """Return the network that a `DiTTransformer2DModel`'s config.json describes.

    Raises:
        ConfigError: naming each key with which it would be another function than ours.
    """
    keys = Keys(values, origin=origin)
    for key, (default, allowed) in _FIXED.items():
        keys.fixed(key, default, allowed)
    for key in _SAYS_NOTHING:
        keys.value(key)
    num_heads = keys.whole("num_attention_heads", 16)
    hidden_size = num_heads * keys.whole("attention_head_dim", 72)
    channels, size = keys.whole("in_channels", 4), keys.whole("sample_size", 32)
    patch_size, num_layers = keys.whole("patch_size", 2), keys.whole("num_layers", 28)
    out_channels = channels
    if keys.value("out_channels") is not None:
        out_channels = keys.whole("out_channels", channels)
    if out_channels not in (channels, 2 * channels):
        keys.problem("out_channels", f"must be in_channels={channels}, or twice that")
    num_labels = keys.whole("num_embeds_ada_norm", 1000)
    has_labels = num_labels > NUM_LABELS
    keys.finish()
    model = {
        "kind": "dit",
        "conditioning": "label" if has_labels else "none",
        "num_classes": num_labels if has_labels else None,
        "known": False,
        "low_size": None,
        "text_length": 128,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
    }
    return Described(model, (channels, size, size), out_channels)


def write_dit_config(config: RunConfig, model: DiTConfig) -> dict[str, Any]:
    """Return the config.json of the `DiTTransformer2DModel` that is the network of `config`.

    Raises:
        ConfigError: if there is none.
    """
    data = config.data
    if data.height != data.width:
        raise ConfigError(
            f"images of {data.height}x{data.width}: a {CLASS_NAME} is for square ones alone; such "
            "a network cannot be written for diffusers"
        )
    return {
        **{key: allowed[0] for key, (_, allowed) in _FIXED.items()},
        "num_attention_heads": model.num_heads,
        "attention_head_dim": model.hidden_size // model.num_heads,
        "in_channels": data.channels,
        "out_channels": config.out_channels,
        "num_layers": model.num_layers,
        "sample_size": data.height,
        "patch_size": model.patch_size,
        "num_embeds_ada_norm": config.num_classes or NUM_LABELS,
        "norm_num_groups": 32,
    }
