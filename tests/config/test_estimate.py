"""The size of a run, known before torch is imported, against the network that torch builds."""

import pytest
import torch

from ddpm_core.config.estimate import disk_use, size_text
from ddpm_core.inference.networks import build_network
from ddpm_core.recipes import RECIPES, digits, recipe


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in RECIPES),
        ("digits", {"diffusion.variance": "learned", "train.loss": "hybrid"}),
        ("digits", {"diffusion.kind": "ve", "model.time_embedding": "fourier"}),
        ("mnist", {"model.num_res_blocks": 3, "model.channel_mults": [3, 1, 2]}),
        ("mnist", {"model.attention_resolutions": [32, 16, 8], "data.width": 64}),
        ("digits", {"model.channel_mults": [2], "model.attention_resolutions": []}),
        ("digits", {"model.kind": "dit", "model.conditioning": "label"}),
        ("images", {"model.kind": "dit", "model.patch_size": 4, "model.num_layers": 3}),
        ("digits", {"model.conditioning": "label"}),
        ("images", {"model.conditioning": "label", "model.num_classes": 3}),
    ],
)
def test_the_parameters_are_those_of_the_network(name, changes):
    """Catches: a block, an attention or a bias that is counted twice or not at all."""
    config = recipe(name).replaced(changes)
    with torch.device("meta"):
        built = sum(one.numel() for one in build_network(config).parameters())
    assert config.num_parameters == built


def test_the_disk_counts_what_is_kept():
    """Catches: all checkpoints counted that were ever made, and images of one channel."""
    config = digits().replaced({"train.num_steps": 10**6, "train.keep_checkpoints": 3})
    use = disk_use(config, 1797)
    assert use.checkpoints == 3 * 16 * config.num_parameters
    assert (
        disk_use(config.replaced({"train.num_steps": 5}), None).checkpoints == use.checkpoints // 3
    )
    assert disk_use(config, None).dataset is None
    assert use.snapshots == 0
    more = {"train.ema_decays": [0.9, 0.99], "train.power_averages": [0.05, 0.1]}
    use = disk_use(config.replaced(more), 1797)
    assert use.checkpoints == 3 * (16 + 4 * 4) * config.num_parameters
    assert use.snapshots == 32 * 8 * config.num_parameters
    assert 1797 * 64 < use.dataset < 1797 * 4096


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3_800_000_000, "3.8 GB"), (10**19, "10000 PB")],
)
def test_sizes_are_for_people(num_bytes, text):
    """Catches: a number of eleven digits."""
    assert size_text(num_bytes) == text
