"""Recipes that two CPU cores can run: digits, MNIST and Fashion-MNIST, and a folder of yours.

The first two also by their classes.
"""

from ddpm_core.config import (
    ChainConfig,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    RunConfig,
    SampleConfig,
    StudyConfig,
    TrainConfig,
    UNetConfig,
)


def digits() -> RunConfig:
    """1,797 handwritten digits of 8x8 pixels: the whole pipeline in 75 s on two idle CPU cores.

    A fifth of the paper's timesteps, since sampling and the bound cost one network call each.
    """
    return RunConfig(
        name="digits",
        data=DataConfig(
            name="digits", height=8, width=8, num_test_images=297, images_per_shard=500
        ),
        model=UNetConfig(
            base_channels=24,
            channel_mults=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
            dropout=0.0,
            num_groups=8,
        ),
        diffusion=ChainConfig(num_timesteps=200, variance="fixed_small"),
        train=TrainConfig(
            num_steps=800,
            global_batch_size=64,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.995,
            random_flip=False,
            log_every=20,
            checkpoint_every=200,
        ),
        sample=SampleConfig(num_images=256, unit_size=64, batch_size=64),
        evaluate=EvaluateConfig(num_likelihood_images=64, batch_size=64, feature_steps=300),
        study=StudyConfig(
            num_images=256,
            swept_steps=(5, 10, 25),
            num_likelihood_images=64,
            num_ode_images=16,
            ode_steps=80,
            ode_tolerance=1e-3,
            mix_depth=0.25,
            batch_size=128,
            ablation_steps=200,
        ),
        compute=ComputeConfig(num_workers=2),
    )


def digits_ddim() -> RunConfig:
    """The digits drawn by DDIM in 20 steps, and the tables of its paper in the study.

    DDIM has no training of its own: this one is that of `digits`, whose weights `--model digits`
    takes (Song et al. 2020, arXiv:2010.02502, section 5).
    """
    return digits().replaced(
        {
            "name": "digits-ddim",
            "sample.sampler": "ddim",
            "sample.num_steps": 20,
            "sample.spacing": "linspace",
            "study.ddim_steps": [10, 20, 50, 100, 200],
        }
    )


def digits_dit() -> RunConfig:
    """`digits` with a diffusion transformer of 0.33 M parameters; each pixel is a token.

    Measured by `python -m ddpm_core evaluate digits-dit`: 4.77 ± 0.06 bits/dim, distance 16.9
    (floor 4.7). After the 800 steps of the U-Net it is behind it: 5.19 (5.07), distance 45 (12.8).
    """
    return digits().replaced(
        {
            "name": "digits-dit",
            "model.kind": "dit",
            "model.patch_size": 1,
            "model.hidden_size": 64,
            "model.num_layers": 4,
            "model.num_heads": 4,
            "train.num_steps": 2000,
        }
    )


def mnist() -> RunConfig:
    """MNIST, 28x28 padded to 32x32, with the timesteps of `digits`: forty minutes on two CPU cores,
    and the whole paper in two hours.
    """
    return RunConfig(
        name="mnist",
        data=DataConfig(name="mnist", height=32, width=32, images_per_shard=5000),
        model=UNetConfig(
            base_channels=24,
            channel_mults=(1, 2, 2),
            num_res_blocks=1,
            attention_resolutions=(8,),
            dropout=0.0,
            num_groups=8,
        ),
        diffusion=ChainConfig(num_timesteps=200, variance="fixed_small"),
        train=TrainConfig(
            num_steps=2000,
            global_batch_size=64,
            learning_rate=2e-3,
            warmup_steps=200,
            ema_decay=0.998,
            random_flip=False,
            log_every=20,
            checkpoint_every=200,
        ),
        sample=SampleConfig(num_images=256, unit_size=32, batch_size=32, num_grid_images=100),
        evaluate=EvaluateConfig(num_likelihood_images=64, batch_size=64),
        study=StudyConfig(
            num_images=256,
            swept_steps=(5, 10, 25),
            num_likelihood_images=64,
            num_ode_images=16,
            ode_steps=80,
            ode_tolerance=1e-3,
            mix_depth=0.25,
            batch_size=32,
            ablation_steps=200,
        ),
        compute=ComputeConfig(num_workers=2),
    )


def fashion_mnist() -> RunConfig:
    """Fashion-MNIST, which has MNIST's format, with the network and settings of `mnist`."""
    return mnist().replaced({"name": "fashion-mnist", "data.name": "fashion_mnist"})


def digits_classes() -> RunConfig:
    """The digits by their labels, with the network and settings of `digits`."""
    return _by_label(digits(), "digits-classes", num_classified_images=100)


def mnist_classes() -> RunConfig:
    """MNIST by its labels, with the network and settings of `mnist`."""
    return _by_label(mnist(), "mnist-classes", num_classified_images=64)


def _by_label(config: RunConfig, name: str, *, num_classified_images: int) -> RunConfig:
    """Return a recipe by the labels of its images, which measures what it makes of them."""
    return config.replaced(
        {
            "name": name,
            "model.conditioning": "label",
            "evaluate.num_classified_images": num_classified_images,
            "evaluate.label_worth": True,
        }
    )


def images() -> RunConfig:
    """A folder or archive of your own, as 32x32 colour images, with the network of `mnist`."""
    base = mnist()
    return RunConfig(
        name="images",
        data=DataConfig(name="images", height=32, width=32, images_per_shard=5000),
        model=base.model,
        diffusion=base.diffusion,
        train=base.train.model_copy(update={"random_flip": True}),
        sample=base.sample,
        evaluate=base.evaluate,
        study=base.study,
        compute=base.compute,
    )
