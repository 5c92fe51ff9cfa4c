"""Folders of `diffusers`: JSON and safetensors, on a disk or in S3. Nothing is ever unpickled.

    model_index.json
    unet/config.json                           or transformer/
    unet/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json

Older ones, google/ddpm-cifar10-32 among them, have all of it at the top.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ddpm_core.canonical import MAX_JSON_BYTES, parse_json
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.exchange.headers import check_safetensors_header
from ddpm_core.exchange.networks import Written
from ddpm_core.store.storage import KeyMissingError, Store, open_store, sha256_of

MAX_WEIGHT_BYTES = 2**32
"""Of one file of weights; the largest network of the paper has 1.0e9."""

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_NETWORK, _SCHEDULER = "config.json", "scheduler_config.json"
_PARTS = ("unet", "transformer")
"""what the folder of a network may be called"""
_INDEX = "model_index.json"
_EXECUTABLE = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")


@dataclass(frozen=True)
class Folder:
    """What lies in a folder of `diffusers`, as it lies there."""

    network: dict[str, Any]
    """the network's configuration"""
    scheduler: dict[str, Any]
    """the chain's"""
    weights: dict[str, Tensor]
    """by diffusers' names, in the dtypes of the file"""
    digests: dict[str, str]
    """SHA-256 of the three files"""


def read_folder(uri: str) -> Folder:
    """Read a pipeline's folder, or one of a network with its scheduler's file beside it.

    Args:
        uri: a path or s3://bucket/prefix.

    Raises:
        ConfigError: a file of JSON is not there, is none, or describes another pipeline.
        CheckpointError: the weights are not there as safetensors.
        StorageError: the storage does not answer.
    """
    store = open_store(uri)
    _check_index(store)
    places = [f"{part}/{_NETWORK}" for part in _PARTS]
    network_key, network = _first(store, [*places, _NETWORK], "the network")
    scheduler_key, scheduler = _first(
        store, [f"scheduler/{_SCHEDULER}", _SCHEDULER], "the chain that it was trained on"
    )
    part, slash, _ = network_key.rpartition("/")
    weights_key = f"{part}{slash}{_WEIGHTS}"
    data = _weight_bytes(store, weights_key)
    check_safetensors_header(data, origin=store.uri_of(weights_key))
    try:
        weights = load(data)
    except SafetensorError as error:
        raise CheckpointError(
            f"{store.uri_of(weights_key)} is no safetensors file ({error}); fetch it again"
        ) from None
    return Folder(
        parse_json(network, origin=store.uri_of(network_key)),
        parse_json(scheduler, origin=store.uri_of(scheduler_key)),
        weights,
        {
            "weights_sha256": sha256_of(data),
            f"{part or _PARTS[0]}_sha256": sha256_of(network),
            "scheduler_sha256": sha256_of(scheduler),
        },
    )


def write_folder(
    uri: str,
    *,
    network: Written,
    scheduler: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> Store:
    """Write a pipeline's folder, its index last. The same again is fine; nothing is overwritten.

    Raises:
        RunConflictError: other files of these names stand there.
        StorageError: the storage refuses or does not answer.
    """
    store = open_store(uri)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # Older versions of diffusers require this entry.
    store.create(f"{network.part}/{_WEIGHTS}", save(tensors, metadata={"format": "pt"}))
    store.create(f"{network.part}/{_NETWORK}", _json(network.config))
    store.create(f"scheduler/{_SCHEDULER}", _json(scheduler))
    if network.pipeline is not None:
        index = {
            "_class_name": network.pipeline,
            "scheduler": ["diffusers", scheduler["_class_name"]],
            network.part: ["diffusers", network.config["_class_name"]],
        }
        store.create(_INDEX, _json(index))
    return store


def exact_float32(weights: Mapping[str, Tensor], *, origin: str) -> dict[str, Tensor]:
    """Return weights in float32, which changes no value, or refuse them.

    Raises:
        CheckpointError: naming the first that would be rounded, or is not finite.
    """
    found = {}
    for name, tensor in weights.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise CheckpointError(
                f"{origin}: {name} is {tensor.dtype}; weights are float32, or float16 or bfloat16, "
                "which are taken without a loss: convert the file"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{origin}: {name} holds a NaN or an infinity; fetch the file again, or take "
                "another one"
            )
        found[name] = tensor.to(torch.float32)
    return found


def _check_index(store: Store) -> None:
    """Refuse a pipeline that consists of more than a network and its scheduler."""
    try:
        data = store.read(_INDEX, at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        return
    origin = store.uri_of(_INDEX)
    parts = {k: v for k, v in parse_json(data, origin=origin).items() if not k.startswith("_")}
    if set(parts) not in [{part, "scheduler"} for part in _PARTS]:
        raise ConfigError(
            f"{origin} names a pipeline of {', '.join(sorted(parts)) or 'nothing'}; only one of "
            "unet (or transformer) and scheduler is a DDPM of images: give such a folder"
        )


def _first(store: Store, candidates: Sequence[str], what: str) -> tuple[str, bytes]:
    """Return the key and the bytes of the first of these files that is there."""
    for key in candidates:
        try:
            return key, store.read(key, at_most=MAX_JSON_BYTES)
        except KeyMissingError:
            continue
    raise ConfigError(
        f"{store.uri} has neither {' nor '.join(candidates)}, which describes {what}; it has "
        f"{', '.join(store.names('')) or 'nothing'}: give a folder that diffusers has written"
    )


def _weight_bytes(store: Store, key: str) -> bytes:
    try:
        data = store.read(key, at_most=MAX_WEIGHT_BYTES)
    except KeyMissingError:
        present = store.names(key.rpartition("/")[0])
        unsafe = [name for name in present if name.endswith(_EXECUTABLE)]
        remedy = (
            f"{', '.join(unsafe)} would have to be unpickled, which can run any program; load it "
            "with diffusers where you trust it, and save_pretrained(..., safe_serialization=True)"
            if unsafe
            else "save the network with diffusers' save_pretrained, in one file"
        )
        raise CheckpointError(
            f"{store.uri_of(key)} is not there (beside it: {', '.join(present) or 'nothing'}); "
            f"{remedy}"
        ) from None
    if len(data) > MAX_WEIGHT_BYTES:
        raise CheckpointError(
            f"{store.uri_of(key)} has over {MAX_WEIGHT_BYTES} bytes, more than are read; no "
            "network of this program is that large"
        )
    return data


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
