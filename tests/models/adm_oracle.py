"""The U-Net of guided diffusion, small, and the same network in diffusers, with our weights."""

import diffusers
import torch
from transformers import SiglipTextConfig, SiglipTextModel

from ddpm_core.config import RunConfig
from ddpm_core.exchange.adm_config import write_adm_config, write_encoder_config
from ddpm_core.inference.networks import build_network
from ddpm_core.models import adm_interop, text_interop
from ddpm_core.models.adm import AdmUNet
from ddpm_core.recipes import digits
from tests.models.diffusers_oracle import perturb

SMALL = {
    "model": {
        "kind": "adm",
        "base_channels": 16,
        "channel_mults": [1, 2],
        "num_res_blocks": [1, 2],
        "attention_resolutions": [4],
        "head_channels": 8,
        "num_groups": 8,
        "dropout": 0.0,
    }
}
TEXT = SMALL | {
    "model.conditioning": "text",
    "model.text_length": 12,
    "model.text_hidden_size": 24,
    "model.text_num_layers": 2,
    "model.text_num_heads": 3,
}


def small(changes=SMALL, **more) -> RunConfig:
    return digits().replaced(changes | {key.replace("__", "."): one for key, one in more.items()})


def network_of(config: RunConfig) -> AdmUNet:
    """Return the network with weights of which none is 0, in float64."""
    network = build_network(config)
    assert isinstance(network, AdmUNet)
    network = network.double().eval()
    perturb(network)
    return network


def their_unet(config: RunConfig, ours: AdmUNet):
    values = write_adm_config(config, config.model)
    kind = getattr(diffusers, values["_class_name"])
    theirs = kind.from_config({k: v for k, v in values.items() if not k.startswith("_")}).double()
    by_attention = config.model.text_pool == "attention"
    weights = adm_interop.to_diffusers(ours.state_dict(), pools_by_attention=by_attention)
    theirs.load_state_dict(weights, strict=True)
    return theirs.eval()


def their_encoder(config: RunConfig, ours: AdmUNet) -> SiglipTextModel:
    theirs = SiglipTextModel(SiglipTextConfig(**write_encoder_config(config.model))).double()
    weights = text_interop.to_transformers(ours.text_encoder.state_dict())
    theirs.load_state_dict(weights, strict=True)
    return theirs.eval()


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
