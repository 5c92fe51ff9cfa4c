"""The recipes of 2015: diffusion probabilistic models, with their constants as far as known.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 3 and table 1, and its code,
`model.py` and `train.py` of github.com/Sohl-Dickstein/Diffusion-Probabilistic-Models.
"""

from collections.abc import Mapping
from typing import Any

from ddpm_core.config import (
    BinomialConfig,
    ChainConfig,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    MLPConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)
from ddpm_core.recipes.paper import cifar10
from ddpm_core.recipes.small import digits, mnist

_FULL_SIZE = {
    "train.learning_rate": 1e-3,
    "train.learning_rate_schedule": "linear",
    "train.log_every": 100,
    "train.checkpoint_every": 5000,
}
"""of the code, which divides the rate by ten in 1000 epochs; with RMSProp where ours is Adam"""


def heartbeat() -> RunConfig:
    """Sequences of 20 bits with a pulse at every fifth, by a chain of bits: two minutes.

    The paper's chain has 2000 steps, and its bound is -2.414 bits a sequence. Here there are 200,
    with which no network of independent bits is above -2.347.
    """
    return RunConfig(
        name="heartbeat",
        data=DataConfig(name="heartbeat", height=1, width=20, images_per_shard=1000),
        model=MLPConfig(hidden_size=128, num_layers=2),
        diffusion=BinomialConfig(num_timesteps=200),
        train=TrainConfig(
            num_steps=2000,
            loss="vlb",
            global_batch_size=128,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.995,
            random_flip=False,
            log_every=50,
            checkpoint_every=500,
        ),
        sample=SampleConfig(num_images=1000, unit_size=250, batch_size=250),
        evaluate=EvaluateConfig(num_likelihood_images=500, batch_size=250),
        compute=ComputeConfig(num_workers=2),
    )


def swiss_roll() -> RunConfig:
    """Points of the Swiss roll by a Gaussian chain of 40 steps with learned mean and variance: five
    minutes.

    The paper learns the betas of this chain; here they are those of cosine, whose first steps are
    as small as the noise on the roll. No network of independent coordinates is below 0.65 bits a
    point, of a density; that of the roll itself is 0.485.
    """
    return RunConfig(
        name="swiss-roll",
        data=DataConfig(name="swiss_roll", height=1, width=2, depth=16, images_per_shard=2500),
        model=MLPConfig(hidden_size=128, num_layers=3, first_gain=5.0),
        diffusion=ChainConfig(
            num_timesteps=40,
            beta_schedule="cosine",
            prediction="drift",
            variance="learned_beta",
        ),
        train=TrainConfig(
            num_steps=6000,
            loss="vlb",
            global_batch_size=512,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.998,
            random_flip=False,
            precision="float32",
            log_every=100,
            checkpoint_every=2000,
        ),
        sample=SampleConfig(num_images=2000, unit_size=500, batch_size=500),
        evaluate=EvaluateConfig(num_likelihood_images=2000, batch_size=500),
        compute=ComputeConfig(num_workers=2),
    )


def digits_2015() -> RunConfig:
    """The digits by the convolutional network of 2015, at two scales: 0.6 M parameters.

    The betas are those of cosine, as of `swiss_roll`: with so few steps the first of erasure is
    half as large as what is between two levels of a digit.
    """
    return _of_2015(
        digits(),
        "digits-2015",
        {
            "model.num_scales": 2,
            "diffusion.beta_schedule": "cosine",
            "train.num_steps": 3000,
            "train.learning_rate_schedule": "cosine",
            "train.checkpoint_every": 1000,
        },
    )


def mnist_2015() -> RunConfig:
    """MNIST at 28x28 as the code of the paper trains it: 1.7 M parameters, 825 epochs of 118."""
    return _of_2015(
        mnist(),
        "mnist-2015",
        {
            "data.height": 28,
            "data.width": 28,
            "diffusion.num_timesteps": 1000,
            "train.num_steps": 97_350,
            "train.global_batch_size": 512,
            **_FULL_SIZE,
        },
    )


def cifar10_2015() -> RunConfig:
    """CIFAR-10 as the code of the paper trains it: 12.7 M parameters, 1700 epochs of 250."""
    return _of_2015(
        cifar10(),
        "cifar10-2015",
        {
            "model.conv_channels": 100,
            "model.num_conv_layers": 6,
            "model.dense_size": 1000,
            "model.num_dense_layers": 6,
            "model.dense_channels": 5,
            "model.upper_channels": 100,
            "model.num_upper_layers": 3,
            "train.num_steps": 425_000,
            "train.global_batch_size": 200,
            **_FULL_SIZE,
        },
    )


def _of_2015(config: RunConfig, name: str, changes: Mapping[str, Any]) -> RunConfig:
    """Return a recipe of images by the network and the reverse step of 2015, under its bound."""
    return config.replaced(
        {
            "name": name,
            "model.kind": "multiscale",
            "diffusion.beta_schedule": "erasure",
            "diffusion.prediction": "drift",
            "diffusion.variance": "learned_beta",
            "train.loss": "vlb",
            "train.random_flip": False,
            "train.precision": "float32",
            **changes,
        }
    )
