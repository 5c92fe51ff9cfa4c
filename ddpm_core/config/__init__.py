"""The configuration of a run, in sections: a file for each, and `run` for the whole."""

from ddpm_core.config.compute import ComputeConfig
from ddpm_core.config.data import Bundle, Collection, DataConfig
from ddpm_core.config.diffusion import (
    BinomialConfig,
    ChainConfig,
    ContinuousConfig,
    DiffusionConfig,
)
from ddpm_core.config.measure import EvaluateConfig, StudyConfig
from ddpm_core.config.model import (
    AdmConfig,
    ClassifierConfig,
    ClipConfig,
    DiTConfig,
    MLPConfig,
    ModelConfig,
    MultiScaleConfig,
    TextConfig,
    UNetConfig,
)
from ddpm_core.config.model.network import Role
from ddpm_core.config.run import RunConfig
from ddpm_core.config.sample import SampleConfig
from ddpm_core.config.section import MAX_RUN_NAME, RUN_NAME_PATTERN
from ddpm_core.config.train import TrainConfig

__all__ = [
    "MAX_RUN_NAME",
    "RUN_NAME_PATTERN",
    "AdmConfig",
    "BinomialConfig",
    "Bundle",
    "ChainConfig",
    "ClassifierConfig",
    "ClipConfig",
    "Collection",
    "ComputeConfig",
    "ContinuousConfig",
    "DataConfig",
    "DiTConfig",
    "DiffusionConfig",
    "EvaluateConfig",
    "MLPConfig",
    "ModelConfig",
    "MultiScaleConfig",
    "Role",
    "RunConfig",
    "SampleConfig",
    "StudyConfig",
    "TextConfig",
    "TrainConfig",
    "UNetConfig",
]
