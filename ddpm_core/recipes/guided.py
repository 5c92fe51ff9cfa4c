"""Recipes of guided diffusion (ADM) and of GLIDE, whose network is ADM's and reads captions."""

from ddpm_core.config import (
    AdmConfig,
    ChainConfig,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from ddpm_core.recipes.small import digits


def adm() -> RunConfig:
    """ImageNet at 64x64, or a folder of yours, as ADM without classes: 296 M parameters.

    540,000 steps of 2048 at 3e-4, cosine schedule, learned variance (Dhariwal and Nichol 2021,
    arXiv:2105.05233, table 11), drawn in 250 steps (section 4). Gradients are not clipped there.
    """
    return RunConfig(
        name="adm",
        data=DataConfig(
            name="images",
            height=64,
            width=64,
            encoding="original",
            num_test_images=5000,
            images_per_shard=5000,
        ),
        model=AdmConfig(),
        diffusion=ChainConfig(beta_schedule="cosine", variance="learned_range"),
        train=TrainConfig(
            num_steps=540_000,
            loss="hybrid",
            global_batch_size=2048,
            learning_rate=3e-4,
            warmup_steps=0,
        ),
        sample=SampleConfig(num_steps=250),
        evaluate=EvaluateConfig(num_likelihood_images=1000),
        compute=ComputeConfig(num_workers=8),
    )


def adm_classes() -> RunConfig:
    """ImageNet at 64x64 by its 1000 classes: the network of table 11.

    A tenth of the labels is left out, as theirs are not, so that guidance needs no classifier.
    """
    return adm().replaced(
        {"name": "adm-classes", "model.conditioning": "label", "model.num_classes": 1000}
    )


def glide() -> RunConfig:
    """GLIDE's base of 64x64 pixels, on images with captions of yours: 3.5 G parameters.

    ADM of 512 channels, 2.3 G, and an encoder of captions of 24 layers and 2048 features, 1.2 G;
    2.5 M steps of 2048, then a fifth of the captions left out (Nichol et al. 2021,
    arXiv:2112.10741, section 4), here from the first step on; guidance of scale 3 (section 5).
    Dropout, length of captions and features of a head are those of its code; tokens are bytes here,
    and there 50,257 pieces of words. The learning rate is not published: this one is ours. Images
    are not mirrored: captions say left and right.
    """
    return adm().replaced(
        {
            "name": "glide",
            "data.captions": "beside",
            "model.base_channels": 512,
            "model.conditioning": "text",
            "model.text_length": 128,
            "model.text_hidden_size": 2048,
            "model.text_num_layers": 24,
            "model.text_num_heads": 32,
            "train.num_steps": 2_500_000,
            "train.learning_rate": 1e-4,
            "train.text_dropout": 0.2,
            "train.random_flip": False,
            "sample.guidance_scale": 3.0,
        }
    )


def glide_small() -> RunConfig:
    """Digits in six colours by their captions, of which ten pairs are never seen in training: GLIDE
    in small, on two CPU cores.
    """
    return digits().replaced(
        {
            "name": "glide-small",
            "data.name": "coloured_digits",
            "data.num_test_images": None,
            "data.captions": "beside",
            "model": {
                "kind": "adm",
                "conditioning": "text",
                "text_length": 32,
                "text_hidden_size": 64,
                "text_num_layers": 2,
                "text_num_heads": 4,
                "base_channels": 32,
                "channel_mults": [1, 2],
                "num_res_blocks": [1],
                "attention_resolutions": [4],
                "head_channels": 16,
                "dropout": 0.0,
                "num_groups": 8,
            },
            "diffusion.beta_schedule": "cosine",
            "train.num_steps": 6000,
            "train.learning_rate": 2e-3,
            "train.learning_rate_schedule": "cosine",
            "train.ema_decay": 0.998,
            "train.checkpoint_every": 1000,
            "sample.guidance_scale": 2.0,
        }
    )
