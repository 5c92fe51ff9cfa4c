"""From a configuration to its network, of whatever kind."""

from typing import TypedDict

from ddpm_core import seeding
from ddpm_core.config import (
    AdmConfig,
    ClassifierConfig,
    ClipConfig,
    DiTConfig,
    MLPConfig,
    MultiScaleConfig,
    RunConfig,
    TextConfig,
    UNetConfig,
)
from ddpm_core.models.adm import AdmUNet
from ddpm_core.models.byte_model import ByteModel
from ddpm_core.models.classifier import NoisedClassifier
from ddpm_core.models.clip import Clip, ImageTower
from ddpm_core.models.dit import DiT
from ddpm_core.models.mlp import MLP
from ddpm_core.models.multiscale import MultiScale
from ddpm_core.models.text_encoder import TextEncoder, TextReader
from ddpm_core.models.unet import UNet

AnyNetwork = UNet | DiT | MLP | MultiScale | AdmUNet | NoisedClassifier | Clip | ByteModel
"""(x_t, t, conditioning) -> prediction, logits of classes, or features, of any kind"""


def build_network(config: RunConfig) -> AnyNetwork:
    """Return the network of `config` on the CPU, initialised from `train.seed`.

    The weights depend on the model section and the seed alone: every rank builds the same.
    """
    data, generator = config.data, seeding.generator(config.train.seed, "init")
    match config.model:
        case UNetConfig() as model:
            return UNet(
                in_channels=data.channels,
                out_channels=config.out_channels,
                **_stages_of(model, data.height),
                num_classes=config.num_classes,
                takes_known=model.known,
                takes_low=model.low_size is not None,
                takes_augment=config.train.augment > 0,
                fourier=model.time_embedding == "fourier",
                generator=generator,
            )
        case DiTConfig() as model:
            return DiT(
                in_channels=data.channels,
                out_channels=config.out_channels,
                image_size=(data.height, data.width),
                patch_size=model.patch_size,
                hidden_size=model.hidden_size,
                num_layers=model.num_layers,
                num_heads=model.num_heads,
                num_classes=config.num_classes,
                takes_known=model.known,
                takes_augment=config.train.augment > 0,
                generator=generator,
            )
        case MLPConfig() as model:
            return MLP(
                shape=data.shape,
                out_channels=config.out_channels,
                hidden_size=model.hidden_size,
                num_layers=model.num_layers,
                first_gain=model.first_gain,
                num_bumps=model.num_bumps,
                num_timesteps=config.diffusion.num_timesteps,
                num_classes=config.num_classes,
                generator=generator,
            )
        case MultiScaleConfig() as model:
            return MultiScale(
                shape=data.shape,
                out_channels=config.out_channels,
                conv_channels=model.conv_channels,
                num_conv_layers=model.num_conv_layers,
                num_scales=model.num_scales,
                dense_size=model.dense_size,
                num_dense_layers=model.num_dense_layers,
                dense_channels=model.dense_channels,
                upper_channels=model.upper_channels,
                num_upper_layers=model.num_upper_layers,
                num_bumps=model.num_bumps,
                num_timesteps=config.diffusion.num_timesteps,
                num_classes=config.num_classes,
                generator=generator,
            )
        case AdmConfig() as model:
            network = AdmUNet(
                in_channels=data.channels,
                out_channels=config.out_channels,
                base_channels=model.base_channels,
                channel_mults=model.channel_mults,
                num_res_blocks=model.blocks_of_levels,
                attention_resolutions=model.attention_resolutions,
                image_height=data.height,
                head_channels=model.head_channels,
                dropout=model.dropout,
                num_groups=model.num_groups,
                resample_first=model.resample_first,
                scale_skips=model.scale_skips,
                num_classes=config.num_classes,
                takes_known=model.known,
                takes_low=model.low_size is not None,
                takes_augment=config.train.augment > 0,
                text=_reader_of(model),
                generator=generator,
            )
            if network.text_encoder is not None:
                network.text_encoder.requires_grad_(not model.text_frozen)
            return network
        case ClassifierConfig() as model:
            return NoisedClassifier(
                in_channels=data.channels,
                num_classes=config.num_classes or 0,
                **_stages_of(model, data.height),
                generator=generator,
            )
        case ClipConfig() as model:
            image = ImageTower(
                in_channels=data.channels,
                image_size=(data.height, data.width),
                patch_size=model.patch_size,
                width=model.hidden_size,
                num_layers=model.num_layers,
                num_heads=model.num_heads,
                num_features=model.num_features,
                noised=model.noised,
            )
            text = TextEncoder(
                length=model.text_length,
                width=model.text_hidden_size,
                num_layers=model.text_num_layers,
                num_heads=model.text_num_heads,
                causal=True,
            )
            return Clip(image, text, generator=generator)
        case TextConfig() as model:
            encoder = TextEncoder(
                length=model.text_length,
                width=model.hidden_size,
                num_layers=model.num_layers,
                num_heads=model.num_heads,
            )
            return ByteModel(encoder, generator=generator)


def _reader_of(model: AdmConfig) -> TextReader | None:
    if not model.uses_text:
        return None
    return TextReader(
        length=model.text_length,
        width=model.text_hidden_size,
        num_layers=model.text_num_layers,
        num_heads=model.text_num_heads,
        pooling=model.text_pool,
    )


class _Stages(TypedDict):
    """What the U-Net and the classifier of noised images are given of their stages."""

    base_channels: int
    channel_mults: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    image_height: int
    dropout: float
    num_groups: int


def _stages_of(model: UNetConfig | ClassifierConfig, image_height: int) -> _Stages:
    return _Stages(
        base_channels=model.base_channels,
        channel_mults=model.channel_mults,
        num_res_blocks=model.num_res_blocks,
        attention_resolutions=model.attention_resolutions,
        image_height=image_height,
        dropout=model.dropout,
        num_groups=model.num_groups,
    )
