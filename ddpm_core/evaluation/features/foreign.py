"""Feature networks from outside, of every kind: fetched before the training, kept, and loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddpm_core.config import EvaluateConfig
from ddpm_core.config.feature_networks import FOLDER, KNOWN, KnownFile, known_by
from ddpm_core.evaluation.features import inception, torchscript, transformers_folder
from ddpm_core.evaluation.features.known_files import fetched
from ddpm_core.evaluation.features.network import FeatureNetwork
from ddpm_core.evaluation.features.packed import packed, unpacked, weights_of
from ddpm_core.extras import require_packages
from ddpm_core.store.pinned_file import read_pinned


@dataclass(frozen=True)
class Foreign:
    """A feature network from outside, as it is kept."""

    data: bytes
    suffix: str
    about: dict[str, Any]
    """what a protocol says of it besides its digest"""
    dim: int = 0
    """numbers of an image; 0: it was not tried"""


def fetch(evaluate: EvaluateConfig) -> Foreign:
    """Return the network that `evaluate.features` names, with its digest.

    Raises:
        ConfigError: there is no such file, it is another, or holds something else; or the package
            that it needs is not installed.
        DataError: the URL leads to no such file.
        StorageError: its server does not answer; running again may help.
    """
    if evaluate.feature_kind == "transformers":
        require_packages("transformers")  # not after a gigabyte has been fetched
    known = known_by(evaluate.pinned)
    if known is not None:
        return _known(_place_of(evaluate, known), known)
    if evaluate.feature_kind == "transformers":
        place = evaluate.features.removeprefix(FOLDER)
        data = transformers_folder.read_folder(place, str(evaluate.pinned))
        return Foreign(data, ".safetensors", transformers_folder.rule_of(unpacked(data)[1]))
    data = torchscript.fetch(evaluate.features, str(evaluate.pinned))
    return Foreign(data, ".pt", dict(torchscript.RULE))


def load(kind: str, data: bytes, device: torch.device) -> FeatureNetwork:
    """Return the network that was kept.

    Args:
        kind: `EvaluateConfig.feature_kind`.
        data: `Foreign.data`.
        device: where it computes.

    Raises:
        ConfigError: as the module of its kind.
    """
    if kind == "torchscript":
        return torchscript.load(data, device)
    weights, about = unpacked(data)
    if kind == "inception":
        return inception.network_of(weights, device)
    return transformers_folder.network_of(weights, about, device)


def _place_of(evaluate: EvaluateConfig, known: KnownFile) -> Path:
    if evaluate.is_file_here:
        read_pinned(evaluate.features, known.sha256, key="evaluate.features")
        return Path(evaluate.features).expanduser()
    return fetched(next(name for name, one in KNOWN.items() if one is known), known)


def _known(path: Path, known: KnownFile) -> Foreign:
    said = {"file": known.file, **known.about}
    weights = weights_of(path, is_safetensors=known.file.endswith(".safetensors"))
    if known.kind == "inception":
        data = packed(weights, {})
        return Foreign(data, ".safetensors", {**said, **inception.RULE})
    config, preprocessor = dict(known.network), dict(known.preprocessor)
    data = transformers_folder.pack(weights, config, preprocessor, origin=known.file)
    rule = transformers_folder.rule_of(unpacked(data)[1])
    return Foreign(data, ".safetensors", {**said, **rule})
