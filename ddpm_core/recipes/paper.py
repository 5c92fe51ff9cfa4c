"""The recipes of the paper: CIFAR-10, CelebA-HQ and LSUN, with its constants (appendix B)."""

from ddpm_core.config import (
    ChainConfig,
    Collection,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    RunConfig,
    SampleConfig,
    StudyConfig,
    TrainConfig,
    UNetConfig,
)


def cifar10() -> RunConfig:
    """CIFAR-10 exactly as in the paper (appendix B): 35.7 M parameters, 800,000 steps of 128."""
    return RunConfig(
        name="cifar10",
        data=DataConfig(name="cifar10", height=32, width=32, images_per_shard=5000),
        model=UNetConfig(),
        diffusion=ChainConfig(),
        train=TrainConfig(),
        sample=SampleConfig(),
        evaluate=EvaluateConfig(num_likelihood_images=1000),
        compute=ComputeConfig(num_workers=1),
    )


def cifar10_classes() -> RunConfig:
    """CIFAR-10 by its classes, with the paper's network and training: not in the paper.

    A row for each class is added to the embedding of the time, and a tenth of the labels is left
    out (Ho and Salimans 2022, arXiv:2207.12598, section 4).
    """
    return cifar10().replaced(
        {
            "name": "cifar10-classes",
            "model.conditioning": "label",
            "evaluate.num_classified_images": 256,
            "evaluate.label_worth": True,
        }
    )


def cifar10_ddim() -> RunConfig:
    """CIFAR-10 drawn by DDIM in 50 quadratic steps, and the tables of its paper in the study.

    The paper takes the network of DDPM as it is (appendix D.1): the training is that of `cifar10`,
    whose weights `--model cifar10` takes. Its equations have no clipping (appendix D.3).
    """
    return cifar10().replaced(
        {
            "name": "cifar10-ddim",
            "sample.sampler": "ddim",
            "sample.num_steps": 50,
            "sample.spacing": "quadratic",
            "sample.clip_x_0": False,
            "study.num_images": 50_000,
            "study.ddim_steps": [10, 20, 50, 100, 1000],
        }
    )


def celebahq() -> RunConfig:
    """CelebA-HQ 256x256 as in the paper (appendix B): 113.7 M parameters, 500,000 steps of 64."""
    return _at_256("celebahq", "celebahq", num_steps=500_000, random_flip=True)


def lsun_bedroom() -> RunConfig:
    """LSUN Bedroom 256x256 as in the paper: 2.4 M steps of 64, the only one without flips."""
    return _at_256("lsun-bedroom", "lsun_bedroom", num_steps=2_400_000, random_flip=False)


def lsun_bedroom_large() -> RunConfig:
    """LSUN Bedroom with the paper's large network: 192 channels, 255.7 M parameters.

    The paper gives the number of parameters and of steps; 192 is the only number of channels that
    has so many.
    """
    base = _at_256("lsun-bedroom-large", "lsun_bedroom", num_steps=1_150_000, random_flip=False)
    return base.replaced({"model.base_channels": 192})


def lsun_church() -> RunConfig:
    """LSUN Church (outdoor) 256x256 as in the paper: 1.2 M steps of 64."""
    return _at_256("lsun-church", "lsun_church", num_steps=1_200_000, random_flip=True)


def lsun_cat() -> RunConfig:
    """LSUN Cat 256x256 as in the paper: 1.8 M steps of 64.

    With flips, as the paper says of all sets but Bedroom; a command line that was published with
    the original has none.
    """
    return _at_256("lsun-cat", "lsun_cat", num_steps=1_800_000, random_flip=True)


def _at_256(name: str, data: Collection, *, num_steps: int, random_flip: bool) -> RunConfig:
    """Return what the paper's recipes of 256x256 pixels have in common (appendix B)."""
    return RunConfig(
        name=name,
        data=DataConfig(
            name=data,
            height=256,
            width=256,
            encoding="original",
            num_test_images=5000,
            images_per_shard=2000,
        ),
        model=UNetConfig(channel_mults=(1, 1, 2, 2, 4, 4), dropout=0.0),
        diffusion=ChainConfig(variance="fixed_small"),
        train=TrainConfig(
            num_steps=num_steps,
            global_batch_size=64,
            learning_rate=2e-5,
            random_flip=random_flip,
        ),
        sample=SampleConfig(unit_size=64, batch_size=32),
        evaluate=EvaluateConfig(num_likelihood_images=256, batch_size=32),
        study=StudyConfig(batch_size=32),
        compute=ComputeConfig(num_workers=8),
    )
