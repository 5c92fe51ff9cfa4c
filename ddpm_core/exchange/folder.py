"""Folders of `diffusers`: JSON and safetensors, on a disk or in S3. Nothing is ever unpickled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ddpm_core.errors import CheckpointError
from ddpm_core.exchange.files import (
    ENCODER,
    ENCODER_WEIGHTS,
    INDEX,
    NETWORK,
    SCHEDULER,
    WEIGHTS,
    find_files,
)
from ddpm_core.exchange.headers import check_safetensors_header
from ddpm_core.exchange.networks import Written
from ddpm_core.store.storage import KeyMissingError, Store, open_store, sha256_of

MAX_WEIGHT_BYTES = 2**32
"""Of one file of weights; the largest network of the paper has 1.0e9."""

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
    encoder: dict[str, Any] | None
    """the configuration of the encoder of texts; None: there is none"""
    encoder_weights: dict[str, Tensor]
    """by transformers' names; {}: there is none"""
    digests: dict[str, str]
    """SHA-256 of the files"""


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
    found = find_files(store)
    weights, digest = _tensors(store, found.weights_key)
    digests = {"weights_sha256": digest, **found.digests}
    encoder_weights: dict[str, Tensor] = {}
    if found.encoder is not None:
        encoder_weights, digest = _tensors(store, f"{ENCODER}/{ENCODER_WEIGHTS}")
        digests[f"{ENCODER}_weights_sha256"] = digest
    return Folder(found.network, found.scheduler, weights, found.encoder, encoder_weights, digests)


def write_folder(
    uri: str,
    *,
    network: Written,
    scheduler: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    encoder_weights: Mapping[str, Tensor] | None = None,
) -> Store:
    """Write a pipeline's folder, its index last. The same again is fine; nothing is overwritten.

    Args:
        uri: where.
        network: its configuration, and that of its encoder of texts, if it has one.
        scheduler: configuration of the chain.
        weights: of the network, by diffusers' names.
        encoder_weights: of the encoder, by transformers' names.

    Raises:
        RunConflictError: other files of these names stand there.
        StorageError: the storage refuses or does not answer.
    """
    store = open_store(uri)
    store.create(f"{network.part}/{WEIGHTS}", _saved(weights))
    if network.encoder is not None:
        store.create(f"{ENCODER}/{ENCODER_WEIGHTS}", _saved(encoder_weights or {}))
        store.create(f"{ENCODER}/{NETWORK}", _json(network.encoder))
    store.create(f"{network.part}/{NETWORK}", _json(network.config))
    store.create(f"scheduler/{SCHEDULER}", _json(scheduler))
    if network.pipeline is not None:
        index = {
            "_class_name": network.pipeline,
            "scheduler": ["diffusers", scheduler["_class_name"]],
            network.part: ["diffusers", network.config["_class_name"]],
        }
        store.create(INDEX, _json(index))
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


def _saved(weights: Mapping[str, Tensor]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # Older versions of diffusers require this entry.
    return save(tensors, metadata={"format": "pt"})


def _tensors(store: Store, key: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file, in its dtypes, and its SHA-256."""
    data = _weight_bytes(store, key)
    check_safetensors_header(data, origin=store.uri_of(key))
    try:
        return load(data), sha256_of(data)
    except SafetensorError as error:
        raise CheckpointError(
            f"{store.uri_of(key)} is no safetensors file ({error}); fetch it again"
        ) from None


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
