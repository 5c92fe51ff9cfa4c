"""The recipes in continuous time against the configurations of their papers."""

import pytest

from ddpm_core.recipes import recipe

# Score-SDE: default_cifar10_configs.py and cifar10_{ddpmpp,ncsnpp}_continuous.py of its code.
SCORE_SDE = {
    "train.num_steps": 1_300_000,  # n_iters 1300001, counted from 0
    "train.global_batch_size": 128,
    "train.learning_rate": 2e-4,
    "train.warmup_steps": 5000,
    "train.grad_clip": 1.0,
    "train.random_flip": True,
    "train.loss": "simple",  # likelihood_weighting False
    "diffusion.times": "uniform",
    "diffusion.num_timesteps": 1000,
    "diffusion.prediction": "eps",
    "model.base_channels": 128,
    "model.channel_mults": (1, 2, 2, 2),
    "model.num_res_blocks": 4,
    "model.attention_resolutions": (16,),
    "model.dropout": 0.1,
}
BETAS = {"diffusion.beta_min": 0.1, "diffusion.beta_max": 20.0, "train.ema_decay": 0.9999}
PUBLISHED = {
    "cifar10-vp": {**SCORE_SDE, **BETAS, "diffusion.kind": "vp", "sample.sampler": "sde"},
    "cifar10-subvp": {**SCORE_SDE, **BETAS, "diffusion.kind": "subvp", "sample.sampler": "sde"},
    "cifar10-ve": {
        **SCORE_SDE,
        "diffusion.kind": "ve",
        "diffusion.sigma_min": 2 * 0.01,  # there images are in [0, 1]
        "diffusion.sigma_max": 2 * 50.0,
        "model.time_embedding": "fourier",
        "train.ema_decay": 0.999,
        "sample.sampler": "predictor_corrector",
        "sample.corrector_snr": 0.16,
    },
    # Karras et al. 2022, tables 1 and 7; train.py and its README for what they leave open.
    "cifar10-edm": {
        "diffusion.kind": "edm",
        "diffusion.sigma_min": 0.002,
        "diffusion.sigma_max": 80.0,
        "diffusion.sigma_data": 0.5,
        "diffusion.times": "log_normal",
        "diffusion.log_sigma_mean": -1.2,
        "diffusion.log_sigma_std": 1.2,
        "train.num_steps": 200_000_000 // 512,
        "train.global_batch_size": 512,
        "train.learning_rate": 10e-4,
        "train.warmup_steps": 10_000_000 // 512,
        "model.base_channels": 128,
        "model.channel_mults": (2, 2, 2),
        "model.num_res_blocks": 4,
        "model.dropout": 0.13,
        "sample.sampler": "heun",
        "sample.spacing": "karras",
        "sample.num_steps": 18,  # 35 calls
        "sample.churn": 0.0,
    },
}


PUBLISHED["cifar10-edm-augmented"] = PUBLISHED["cifar10-edm"] | {
    "train.augment": 0.12,  # train.py: --augment
    "train.random_flip": False,  # --xflip
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_constants_are_those_of_the_paper(name):
    """Catches: a constant of another path, of images in [0, 1], or of the paper's first recipe."""
    config = recipe(name)
    for key, value in PUBLISHED[name].items():
        section, _, knob = key.partition(".")
        assert getattr(getattr(config, section), knob) == value, key
    assert (config.data.name, config.name) == ("cifar10", name)


def test_edms_average_is_halved_in_half_a_million_images():
    """Catches: a decay per image, or of another batch."""
    train = recipe("cifar10-edm").train
    assert train.ema_decay ** (500_000 / train.global_batch_size) == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("name", ["digits-vp", "digits-flow", "digits-edm"])
def test_the_small_ones_differ_from_digits_in_their_process_alone(name):
    """Catches: numbers of two processes that compare with nothing."""
    ours, theirs = recipe("digits").flat(), recipe(name).flat()
    varied = {key for key in ours.keys() & theirs if ours[key] != theirs[key]}
    for prefix in ("name", "diffusion.", "sample.", "train.loss"):
        varied = {key for key in varied if not key.startswith(prefix)}
    assert not varied
