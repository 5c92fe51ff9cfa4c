"""Recipes of classifiers of noised images, to guide runs of the same images and noise by."""

from ddpm_core.config import RunConfig
from ddpm_core.recipes.paper import cifar10
from ddpm_core.recipes.small import digits, mnist

_KEYS = {
    "base_channels",
    "channel_mults",
    "num_res_blocks",
    "attention_resolutions",
    "dropout",
    "num_groups",
}
"""what the half of a U-Net has of the whole"""


def digits_classifier() -> RunConfig:
    """A classifier of noised digits, half of the network of `digits` and trained as long."""
    return _half_of(digits(), "digits-classifier")


def mnist_classifier() -> RunConfig:
    """A classifier of noised MNIST, half of the network of `mnist` and trained as long."""
    return _half_of(mnist(), "mnist-classifier")


def cifar10_classifier() -> RunConfig:
    """A classifier of noised CIFAR-10, half of the network of `cifar10`, on its chain.

    300,000 steps of 256 at a rate that falls from 3e-4 to 0 along a line, as Dhariwal and Nichol
    2021, arXiv:2105.05233, train theirs of 128x128 pixels (the flags in their code's README), whose
    network has 128 channels and two blocks too. They have no CIFAR-10, and decay their weights by
    0.05, which is not done here.
    """
    return _half_of(cifar10(), "cifar10-classifier").replaced(
        {
            "train.num_steps": 300_000,
            "train.global_batch_size": 256,
            "train.learning_rate": 3e-4,
            "train.learning_rate_schedule": "linear",
        }
    )


def _half_of(config: RunConfig, name: str) -> RunConfig:
    """Return the run of a classifier of the images and the noise of another run."""
    half = config.model.model_dump(mode="json", include=_KEYS)
    return config.replaced({"name": name, "model": {"kind": "classifier", **half}})
