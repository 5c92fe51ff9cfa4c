"""Recipes in continuous time: score-based models, flow matching and EDM, full size and small.

Full size with the constants of the papers' CIFAR-10 configurations. What our U-Net has not of their
networks (DDPM++, NCSN++): residual blocks of BigGAN with rescaled skips, an up-sampling and a
down-sampling of their own in such blocks, one attention a level on the way up where ours has one
after each block; NCSN++ also filtered resampling and inputs of several resolutions. In the place of
EDM's augmentation `cifar10_edm` mirrors images, as it did before there was one;
`cifar10_edm_augmented` has it.

Source: Song et al. 2021, arXiv:2011.13456, appendix H and the configurations
`{vp,subvp}/cifar10_ddpmpp_continuous.py` and `ve/cifar10_ncsnpp_continuous.py` of its code; Karras
et al. 2022, arXiv:2206.00364, tables 1 and 7.
"""

from ddpm_core.config import RunConfig
from ddpm_core.recipes.paper import cifar10
from ddpm_core.recipes.small import digits

_SCORE_SDE = {
    "model.num_res_blocks": 4,
    "model.channel_mults": [1, 2, 2, 2],
    "model.attention_resolutions": [16],
    "model.dropout": 0.1,
    "train.num_steps": 1_300_000,
}
_EDM_SAMPLER = {
    "sample.sampler": "heun",
    "sample.num_steps": 18,
    "sample.spacing": "karras",
    "sample.clip_x_0": False,
}


def digits_vp() -> RunConfig:
    """`digits` on the variance preserving path; likelihood weighting, times by importance."""
    return digits().replaced(
        {
            "name": "digits-vp",
            "diffusion.kind": "vp",
            "diffusion.num_timesteps": 200,
            "diffusion.times": "log_snr",
            "train.loss": "vlb",
        }
    )


def digits_flow() -> RunConfig:
    """`digits` by flow matching with logit-normal times; DDIM is Euler's method on the line.

    Its chain has its steps where the training has its times: at equal distances of t a third of
    them would be where such times hardly look, and the bound would measure little else.
    """
    return digits().replaced(
        {
            "name": "digits-flow",
            "diffusion.kind": "flow",
            "diffusion.num_timesteps": 200,
            "diffusion.chain_times": "training",
            "sample.sampler": "ddim",
            "sample.num_steps": 50,
            "sample.clip_x_0": False,
        }
    )


def digits_edm() -> RunConfig:
    """`digits` with EDM's preconditioning, noise levels and sampler of 35 calls."""
    return digits().replaced(
        {
            "name": "digits-edm",
            "diffusion.kind": "edm",
            "diffusion.num_timesteps": 200,
            **_EDM_SAMPLER,
        }
    )


def digits_few() -> RunConfig:
    """100 digits, with EDM's augmentation: without it the network knows them by heart after 400 of
    its 2000 steps.
    """
    return digits_edm().replaced(
        {
            "name": "digits-few",
            "data.num_test_images": 1697,
            "train.augment": 0.15,
            "train.global_batch_size": 32,
            "train.num_steps": 2000,
            "train.ema_decay": 0.99,
        }
    )


def cifar10_vp() -> RunConfig:
    """CIFAR-10 on the variance preserving path, DDPM++'s constants: 1.3 M steps of 128."""
    return cifar10().replaced(
        {
            "name": "cifar10-vp",
            "diffusion.kind": "vp",
            **_SCORE_SDE,
            "sample.sampler": "sde",
        }
    )


def cifar10_subvp() -> RunConfig:
    """CIFAR-10 on the sub-variance preserving path, DDPM++'s constants: 1.3 M steps of 128."""
    return cifar10_vp().replaced({"name": "cifar10-subvp", "diffusion.kind": "subvp"})


def cifar10_ve() -> RunConfig:
    """CIFAR-10 on the variance exploding path, NCSN++'s constants: 1.3 M steps of 128."""
    return cifar10().replaced(
        {
            "name": "cifar10-ve",
            "diffusion.kind": "ve",
            **_SCORE_SDE,
            "model.time_embedding": "fourier",
            "train.ema_decay": 0.999,
            "sample.sampler": "predictor_corrector",
            "sample.corrector_snr": 0.16,
        }
    )


def cifar10_edm() -> RunConfig:
    """CIFAR-10 as EDM trains it: 200 M images in batches of 512, 35 calls of the network."""
    return cifar10().replaced(
        {
            "name": "cifar10-edm",
            "diffusion.kind": "edm",
            "model.num_res_blocks": 4,
            "model.channel_mults": [2, 2, 2],
            "model.attention_resolutions": [16],
            "model.dropout": 0.13,
            "train.num_steps": 390_625,  # 200 M images
            "train.global_batch_size": 512,
            "train.learning_rate": 1e-3,
            "train.warmup_steps": 19_531,  # 10 M images
            "train.grad_clip": 1e9,  # the source has none
            "train.ema_decay": 0.99929,  # halved in 0.5 M images
            **_EDM_SAMPLER,
        }
    )


def cifar10_edm_augmented() -> RunConfig:
    """`cifar10-edm` with the augmentation of its source, which mirrors images and says so."""
    return cifar10_edm().replaced(
        {"name": "cifar10-edm-augmented", "train.augment": 0.12, "train.random_flip": False}
    )
