"""Folders as diffusers writes them, and the published configurations they are like."""

from pathlib import Path

import diffusers
import torch

from tests.models.diffusers_oracle import perturb

# config.json and scheduler_config.json of google/ddpm-cifar10-32 on the Hugging Face Hub.
GOOGLE_UNET = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
GOOGLE_SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}
# The same in small: images of digits, 1x8x8.
SMALL_UNET = {key: value for key, value in GOOGLE_UNET.items() if not key.startswith("_")} | {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 8,
}
SMALL_SCHEDULER = {
    "num_train_timesteps": 20,
    "beta_start": 0.001,
    "beta_end": 0.4,
    "variance_type": "fixed_large",
}


def their_network(**changes) -> diffusers.UNet2DModel:
    """Return a network whose output is about as large as noise is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        net = diffusers.UNet2DModel(**(SMALL_UNET | changes)).eval()
    perturb(net)
    return net


def their_folder(path: Path, *, unet=None, scheduler=None) -> diffusers.UNet2DModel:
    """Have diffusers save a pipeline below `path`; return its network."""
    net = their_network(**(unet or {}))
    chain = diffusers.DDPMScheduler(**(SMALL_SCHEDULER | (scheduler or {})))
    diffusers.DDPMPipeline(unet=net, scheduler=chain).save_pretrained(path)
    return net
