"""Feature networks by the package transformers: DINOv2, and CLIP's tower of images.

A folder has `config.json`, `preprocessor_config.json` and `model.safetensors`; nothing of it is
run, and nothing is fetched. Images are made square as the references of the metrics do, which is
not always what the folder's own preprocessor does.
"""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from ddpm_core.canonical import fingerprint
from ddpm_core.errors import ConfigError
from ddpm_core.evaluation.features.network import FeatureNetwork, in_colour
from ddpm_core.evaluation.features.packed import packed
from ddpm_core.exchange.headers import check_safetensors_header
from ddpm_core.extras import require_packages
from ddpm_core.store.storage import KeyMissingError, open_store, sha256_of

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_MAX_JSON_BYTES = 2**20
MAX_WEIGHT_BYTES = 2**32
_DINO, _CLIP = ("dinov2",), ("clip_vision_model", "clip")
_TOWER = ("vision_model.", "visual_projection.")

RULES: Mapping[str, Mapping[str, str]] = {
    "dinov2": {
        "resize": "bicubic, antialiased, to a square, not rounded, cut to 0...255 (dgm-eval)",
        "features": "the class token after the last normalisation",
    },
    "clip_vision_model": {
        "resize": "the largest square of the middle; bicubic, antialiased, rounded to 8 bits",
        "features": "the projected embedding, of length 1",
    },
}
"""model type -> what a protocol says of how images reach it, and of what is read off"""


def read_folder(place: str, sha256: str) -> bytes:
    """Return what is kept of a folder of transformers, if it has that digest.

    The digest is the SHA-256 of the canonical JSON of file name -> SHA-256 of the three files.

    Raises:
        ConfigError: a file is missing, is another than the digest says, or no such file; or the
            model is of a type that is not read.
        StorageError: the storage does not answer.
    """
    store = open_store(place)
    files = {}
    for name in (CONFIG, PREPROCESSOR, WEIGHTS):
        limit = MAX_WEIGHT_BYTES if name == WEIGHTS else _MAX_JSON_BYTES
        try:
            files[name] = store.read(name, at_most=limit)
        except KeyMissingError:
            raise ConfigError(
                f"{store.uri_of(name)} is not there; a folder of transformers has {CONFIG}, "
                f"{PREPROCESSOR} and {WEIGHTS}, of safetensors alone"
            ) from None
    found = fingerprint({name: sha256_of(data) for name, data in files.items()})
    if found != sha256:
        raise ConfigError(
            f"{store.uri} has the digest {found}; evaluate.features_sha256 is {sha256}. It was not "
            "loaded: give the folder that you mean, or its digest if you trust it"
        )
    check_safetensors_header(files[WEIGHTS], origin=store.uri_of(WEIGHTS))
    try:
        weights = safetensors.torch.load(files[WEIGHTS])
        config, preprocessor = (json.loads(files[name]) for name in (CONFIG, PREPROCESSOR))
    except (SafetensorError, ValueError) as error:
        raise ConfigError(
            f"a file of {store.uri} cannot be read ({error}); fetch it again"
        ) from None
    return pack(weights, config, preprocessor, origin=store.uri)


def pack(
    weights: Mapping[str, Tensor], config: object, preprocessor: object, *, origin: str
) -> bytes:
    """Return the weights of the tower of images, and what is needed to build it.

    Raises:
        ConfigError: the model is of a type that is not read, or its images of no known size.
    """
    if not isinstance(config, dict) or not isinstance(preprocessor, dict):
        raise ConfigError(f"{origin}: {CONFIG} and {PREPROCESSOR} must be objects of JSON")
    kind = config.get("model_type")
    if kind == "clip":
        tower = config.get("vision_config")
        config = {
            **(tower if isinstance(tower, dict) else {}),
            "projection_dim": config.get("projection_dim", 512),
        }
        kind = "clip_vision_model"
    if kind not in RULES:
        raise ConfigError(
            f"{origin} is a model of type {kind!r}; {', '.join((*_DINO, *_CLIP))} are read here. "
            "Give another as TorchScript"
        )
    about = {
        "config": {**config, "model_type": kind},
        "side": _side(preprocessor, origin),
        "mean": _three(preprocessor, "image_mean", origin),
        "std": _three(preprocessor, "image_std", origin),
    }
    if kind == "clip_vision_model":
        weights = {
            name: one
            for name, one in weights.items()
            if name.startswith(_TOWER) and not name.endswith("position_ids")
        }
    return packed(weights, about)


def rule_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a protocol says of a network, by what `packed` keeps of it."""
    kind = about["config"]["model_type"]
    normalised = {key: about[key] for key in ("mean", "std")}
    return {"network": kind, "side": about["side"], "normalised": normalised, **RULES[kind]}


def network_of(
    weights: Mapping[str, Tensor], about: Mapping[str, Any], device: torch.device
) -> FeatureNetwork:
    """Return the network of what `pack` made.

    Raises:
        ConfigError: the package is not installed, or the weights are not those of the model.
    """
    require_packages("transformers")
    # Seconds, which whoever measures with another network does without.
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        Dinov2Config,
        Dinov2Model,
        logging,
    )

    logging.disable_progress_bar()  # what is shown of a stage is shown by the stage
    is_clip = about["config"]["model_type"] == "clip_vision_model"
    model: Any = CLIPVisionModelWithProjection if is_clip else Dinov2Model
    config = (CLIPVisionConfig if is_clip else Dinov2Config)(**about["config"])
    network, loaded = model.from_pretrained(
        None, config=config, state_dict=dict(weights), output_loading_info=True
    )
    wrong = sorted(map(str, [*loaded["missing_keys"], *loaded["mismatched_keys"]]))
    if wrong:
        raise ConfigError(
            f"the weights are not those of a {about['config']['model_type']} of this "
            f"configuration: {wrong[0]} and {len(wrong) - 1} more are missing or of another shape"
        )
    network = network.float().to(device).requires_grad_(False).eval()
    side = about["side"]
    mean, std = (torch.tensor(about[key], device=device)[:, None, None] for key in ("mean", "std"))

    def embed(images_u8: Tensor) -> Tensor:
        seen = squared(in_colour(images_u8), side, is_clip=is_clip)
        found = network(pixel_values=(seen / 255 - mean) / std)
        if not is_clip:
            tokens: Tensor = found.last_hidden_state
            return tokens[:, 0]
        return functional.normalize(found.image_embeds, dim=1)

    return FeatureNetwork(embed, None)


def squared(images_u8: Tensor, side: int, *, is_clip: bool) -> Tensor:
    """Return images (n, 3, h, w) as floats (n, 3, side, side), levels 0 to 255.

    Source: dgm-eval (Stein et al. 2023, arXiv:2306.04675), whose images Pillow resizes as floats;
    and of CLIP the CMMD's code (Jayasumana et al. 2024), where it resizes bytes, cut to a square.
    """
    height, width = images_u8.shape[-2:]
    if is_clip and height != width:
        shorter = min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        images_u8 = images_u8[..., top : top + shorter, left : left + shorter]
    images = images_u8.float()
    if not is_clip:
        return _resized(images, side, side)
    # Pillow rounds its bytes after each of two passes, across and then down.
    across = _resized(images, images.shape[2], side).round()
    return _resized(across, side, side).round()


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    size = (height, width)
    return functional.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 255)


def _side(preprocessor: Mapping[str, Any], origin: str) -> int:
    found = preprocessor.get("crop_size", preprocessor.get("size"))
    if isinstance(found, dict):
        found = found.get("height", found.get("shortest_edge"))
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= 2**12:
        raise ConfigError(f"{origin}: {PREPROCESSOR} says no crop_size or size in pixels; add it")
    return found


def _three(preprocessor: Mapping[str, Any], key: str, origin: str) -> list[float]:
    found = preprocessor.get(key)
    numbers = found if isinstance(found, list) else []
    if len(numbers) != 3 or not all(isinstance(one, (int, float)) for one in numbers):
        raise ConfigError(f"{origin}: {PREPROCESSOR} has no {key} of three numbers; add it")
    return [float(one) for one in numbers]
