"""A network that is given texts, small and untrained, in the place of the run's own.

It is a U-Net to whose output the mean of the embedded bytes is added, channel by channel.
"""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import RunConfig, UNetConfig
from ddpm_core.inference.networks import build_network
from ddpm_core.store.storage import Store, open_store
from ddpm_core.text import tokens
from tests.sampling.tiny import commit_random_weights, tiny_config

TEXT_LENGTH = 16


class WordedUNet(nn.Module):
    """Predicts what a U-Net of no conditioning does, and something of the text besides."""

    accepts = frozenset({"text"})

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        plain = {"model.conditioning": "none", "model.text_length": 128}
        unsaid = {"sample.prompts": "held_out", "sample.guidance_scale": 1.0}
        unsaid |= {"evaluate.num_classified_images": 0, "evaluate.label_worth": False}
        self.unet = build_network(config.replaced({**plain, **unsaid}))
        self.embedding = nn.Embedding(tokens.NUM_TOKENS, config.out_channels)
        self.null = Conditioning(text=tokens.encode([""], config.model.text_length))

    @property
    def last(self) -> nn.Module:
        return self.unet.last

    def forward(self, x_t, t, conditioning: Conditioning = NOTHING):
        text = conditioning.text
        embedded = self.embedding(text.tokens) * text.mask[..., None]
        said = embedded.sum(1) / text.mask.sum(1, keepdim=True)
        return self.unet(x_t, t) + said[:, :, None, None]


def worded_config(**changes) -> RunConfig:
    """Return `tiny_config` of a network of texts; call it where `worded` is in force."""
    text = {"model.conditioning": "text", "model.text_length": TEXT_LENGTH}
    few = {"sample.prompts": ["a red seven", "two"], "sample.num_images": 4}
    return tiny_config(**{**text, **few, **changes})


def put_in_place(patch: pytest.MonkeyPatch) -> None:
    """Let configurations of texts be built, and their networks be this one."""
    patch.setattr(UNetConfig, "reads_text", True)

    def build(config: RunConfig):
        return WordedUNet(config) if config.model.uses_text else build_network(config)

    for module in ("ddpm_core.inference.denoiser", "tests.sampling.tiny"):
        patch.setattr(f"{module}.build_network", build)


@pytest.fixture
def worded(monkeypatch) -> None:
    """Let networks of texts be this one."""
    put_in_place(monkeypatch)


@pytest.fixture(scope="session")
def _worded_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("worded") / "root"
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch)
        commit_random_weights(open_store(str(root)), worded_config())
    return root


@pytest.fixture
def prompted(_worded_root, worded, store) -> Store:
    """Give a store with a run of texts and random weights."""
    shutil.copytree(_worded_root, store.uri)
    return store


def count_calls(denoiser, batch_size: int) -> list[int]:
    """Note the batches that a denoiser's network is called with, in the list that is returned."""
    network, seen = denoiser.network, []

    def counted(x_t, t, conditioning=NOTHING):
        seen.append(len(x_t) // batch_size)
        return network(x_t, t, conditioning)

    object.__setattr__(denoiser, "network", counted)
    return seen


def text_of(*texts: str) -> Conditioning:
    return Conditioning(text=tokens.encode(list(texts), TEXT_LENGTH))


def positions(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)
