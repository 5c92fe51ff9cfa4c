"""A feature network from outside: a TorchScript file, pinned by its SHA-256.

A TorchScript file is a program. It is run only if its bytes are the ones that the configuration
names; which file deserves that is for its user to say.
"""

import io
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.evaluation.network import FeatureNetwork
from ddpm_core.storage import sha256_of

MAX_FILE_BYTES = 2**31
_TIMEOUT_S = 60.0
_CHUNK_BYTES = 2**20


def fetch(uri: str, sha256: str) -> bytes:
    """Return the file at a path or https URL, if it has that SHA-256.

    Raises:
        ConfigError: it has another, or there is no such file, or the URL is not https.
        StorageError: the server does not answer; running again may help.
    """
    data = _download(uri) if "://" in uri else _read(uri)
    found = sha256_of(data)
    if found != sha256:
        raise ConfigError(
            f"evaluate.features={uri!r} has SHA-256 {found}; evaluate.features_sha256 is {sha256}. "
            "It was not loaded: give the file that you mean, or its digest if you trust it"
        )
    return data


def load(data: bytes, device: torch.device) -> FeatureNetwork:
    """Return the network of a file that `fetch` returned.

    The network gets uint8 images with three channels (grey is repeated) and, if its forward has
    that argument, `return_features=True` for features: the convention of the StyleGAN and EDM
    detectors. It has classes if its forward has the argument `no_output_bias`, by which those
    detectors return the probabilities that the published inception scores are made of.
    """
    loaded = torch.jit.load(io.BytesIO(data), map_location=device)  # type: ignore[no-untyped-call]
    network = loaded.eval()
    arguments = [argument.name for argument in network.forward.schema.arguments]
    options: dict[str, Any] = {"return_features": True} if "return_features" in arguments else {}

    def rows(images_u8: Tensor, options: dict[str, Any]) -> Tensor:
        colour = images_u8.expand(-1, 3, -1, -1) if images_u8.shape[1] == 1 else images_u8
        features = network(colour, **options)
        if not isinstance(features, Tensor) or features.shape[:1] != images_u8.shape[:1]:
            raise ConfigError(
                "the network of evaluate.features does not return one row of features per image; "
                "give one that maps uint8 images (n, 3, h, w) to (n, d)"
            )
        return features.flatten(1)

    def classify(images_u8: Tensor) -> Tensor:
        return rows(images_u8, {"no_output_bias": True})

    has_classes = "no_output_bias" in arguments
    return FeatureNetwork(
        lambda images_u8: rows(images_u8, options), classify if has_classes else None
    )


def _read(path: str) -> bytes:
    try:
        file = Path(path).expanduser()
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(_too_large(path))
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"evaluate.features={path!r} cannot be read: {error.strerror}; give a file or an "
            "https URL"
        ) from None


def _download(url: str) -> bytes:
    if not url.startswith("https://"):
        raise ConfigError(f"evaluate.features={url!r} must be a path or an https URL")
    parts, num_bytes = [], 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - https only
            while part := reply.read(_CHUNK_BYTES):
                parts.append(part)
                num_bytes += len(part)
                if num_bytes > MAX_FILE_BYTES:
                    raise ConfigError(_too_large(url))
    except urllib.error.HTTPError as error:
        raise DataError(
            f"evaluate.features={url!r} is not to be had: {error.code} {error.reason}; download "
            "it yourself and give its path"
        ) from None
    except OSError as error:
        raise StorageError(
            f"evaluate.features={url!r} does not answer: {error}; run again, or download it "
            "yourself and give its path"
        ) from None
    return b"".join(parts)


def _too_large(uri: str) -> str:
    return f"evaluate.features={uri!r} has over {MAX_FILE_BYTES} bytes; that is no feature network"
