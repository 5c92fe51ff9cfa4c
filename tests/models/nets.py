"""Networks for the tests of the U-Net: the paper's two, and a small one."""

import torch

from ddpm_core import seeding
from ddpm_core.models.unet import UNet
from tests.models.diffusers_oracle import perturb

SMALL = {
    "in_channels": 3,
    "out_channels": 3,
    "base_channels": 16,
    "channel_mults": (1, 2),
    "num_res_blocks": 2,
    "attention_resolutions": (4,),
    "image_height": 8,
    "dropout": 0.0,
    "num_groups": 8,
}
PAPER_CIFAR10 = {
    "in_channels": 3,
    "out_channels": 3,
    "base_channels": 128,
    "channel_mults": (1, 2, 2, 2),
    "num_res_blocks": 2,
    "attention_resolutions": (16,),
    "image_height": 32,
    "dropout": 0.1,
    "num_groups": 32,
}
PAPER_256 = PAPER_CIFAR10 | {"channel_mults": (1, 1, 2, 2, 4, 4), "image_height": 256}


def unet(base=SMALL, *, seed=0, **changes) -> UNet:
    return UNet(**(base | changes), generator=seeding.generator(seed, "init")).eval()


def perturbed(**changes) -> UNet:
    net = unet(**changes)
    perturb(net)
    return net


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outputs(net, x_t, t):
    with torch.no_grad():
        return net(x_t, torch.tensor(t))
