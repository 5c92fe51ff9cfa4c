"""Which files of a folder of `diffusers` describe a network and its chain. Knows no torch.

    model_index.json
    unet/config.json                           or transformer/
    unet/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json
    text_encoder/config.json                   of a network that reads texts, as transformers
    text_encoder/model.safetensors             writes it

Older ones, google/ddpm-cifar10-32 among them, have all of it at the top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_core.canonical import MAX_JSON_BYTES, parse_json
from ddpm_core.errors import ConfigError
from ddpm_core.store.storage import KeyMissingError, Store, sha256_of

WEIGHTS = "diffusion_pytorch_model.safetensors"
NETWORK, SCHEDULER = "config.json", "scheduler_config.json"
PARTS = ("unet", "transformer")
"""what the folder of a network may be called"""
INDEX = "model_index.json"
ENCODER, ENCODER_WEIGHTS = "text_encoder", "model.safetensors"
"""folder of the encoder of texts, and its weights"""


@dataclass(frozen=True)
class Files:
    """The files of a folder: what is described, and where the weights are."""

    part: str
    """the folder of the network, "" where it lies at the top"""
    network: dict[str, Any]
    """the network's configuration"""
    scheduler: dict[str, Any]
    """the chain's"""
    encoder: dict[str, Any] | None
    """the configuration of the encoder of texts; None: there is none"""
    digests: dict[str, str]
    """SHA-256 of all of them"""

    @property
    def weights_key(self) -> str:
        """Where the weights lie."""
        return f"{self.part}/{WEIGHTS}" if self.part else WEIGHTS


def find_files(store: Store) -> Files:
    """Read what a folder describes; its weights are not read.

    Raises:
        ConfigError: a file is not there, is no JSON, or describes another pipeline.
        StorageError: the storage does not answer.
    """
    _check_index(store)
    places = [f"{part}/{NETWORK}" for part in PARTS]
    network_key, network = _first(store, [*places, NETWORK], "the network")
    scheduler_key, scheduler = _first(
        store, [f"scheduler/{SCHEDULER}", SCHEDULER], "the chain that it was trained on"
    )
    part = network_key.rpartition("/")[0]
    digests = {
        f"{part or PARTS[0]}_sha256": sha256_of(network),
        "scheduler_sha256": sha256_of(scheduler),
    }
    encoder_key, encoder = f"{ENCODER}/{NETWORK}", None
    try:
        data = store.read(encoder_key, at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        pass
    else:
        encoder = parse_json(data, origin=store.uri_of(encoder_key))
        digests[f"{ENCODER}_sha256"] = sha256_of(data)
    return Files(
        part,
        parse_json(network, origin=store.uri_of(network_key)),
        parse_json(scheduler, origin=store.uri_of(scheduler_key)),
        encoder,
        digests,
    )


def _check_index(store: Store) -> None:
    """Refuse a pipeline that consists of more than a network and its scheduler."""
    try:
        data = store.read(INDEX, at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        return
    origin = store.uri_of(INDEX)
    parts = {k: v for k, v in parse_json(data, origin=origin).items() if not k.startswith("_")}
    if set(parts) not in [{part, "scheduler"} for part in PARTS]:
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
