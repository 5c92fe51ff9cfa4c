"""Recipes of CLIP on noised images, to guide runs of the same images and noise by."""

from ddpm_core.config import RunConfig
from ddpm_core.recipes.small import digits

_TOWERS = {
    "kind": "clip",
    "patch_size": 2,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "text_hidden_size": 32,
    "text_num_layers": 1,
    "text_num_heads": 4,
    "num_features": 32,
    "text_length": 32,
}


def digits_clip() -> RunConfig:
    """CLIP on noised digits, whose captions are made of their classes."""
    return digits().replaced(
        {
            "name": "digits-clip",
            "data.captions": "classes",
            "model": _TOWERS,
            "train.num_steps": 400,
            "train.global_batch_size": 128,
            "train.learning_rate": 1e-3,
            "train.warmup_steps": 50,
            "train.ema_decay": 0.98,
        }
    )
