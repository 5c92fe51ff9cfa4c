"""Mean and covariance of the features of a set, as files: .npz as other programs read and write it.

`mu` (d,), `sigma` (d, d), and of the maps within the Inception `mu_s` and `sigma_s`: the names of
pytorch-fid, ADM and EDM. Ours have `num_images`, the exact sums `scatter` and the digest of the
network, `network`, besides.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.evaluation.distances.moments import Moments
from ddpm_core.exchange.npz import members_of
from ddpm_core.sources.download import downloads_folder, fetch_pinned
from ddpm_core.store.pinned_file import MAX_PINNED_BYTES, read_pinned

_NAMES = ("mu", "sigma", "scatter", "mu_s", "sigma_s", "scatter_s", "num_images", "network")
_SYMMETRIC = 1e-6
_MAX_ARRAY_BYTES = 8 * 2**28 + 2**16  # a covariance of as many features as are taken


@dataclass(frozen=True)
class Statistics:
    """Moments of the features of a set of images, and of its maps where they were looked at."""

    moments: Moments
    spatial: Moments | None
    num_images: int | None
    """None: the file does not say; the moments then count as exact"""
    network: str | None = None
    """digest of the network whose features they are of, see `network_of`; None: the file does not
    say"""


def to_npz(statistics: Statistics) -> bytes:
    """Return the file; the same for the same."""
    arrays: dict[str, Tensor] = {}
    for suffix, moments in (("", statistics.moments), ("_s", statistics.spatial)):
        if moments is not None:
            arrays |= {
                f"mu{suffix}": moments.mean,
                f"sigma{suffix}": moments.covariance,
                f"scatter{suffix}": moments.scatter,
            }
    if statistics.num_images is not None:
        arrays["num_images"] = torch.tensor(statistics.num_images)
    if statistics.network is not None:
        arrays["network"] = torch.tensor(list(bytes.fromhex(statistics.network)), dtype=torch.int32)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: one.numpy() for name, one in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def from_npz(data: bytes, *, origin: str) -> Statistics:
    """Return the statistics of a file; nothing is unpickled.

    Raises:
        ConfigError: it has no mean and covariance that belong together.
    """
    try:
        found = members_of(data, _NAMES, at_most=_MAX_ARRAY_BYTES, origin=origin)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    if "mu" not in found or "sigma" not in found:
        raise ConfigError(
            f"{origin} has no arrays mu and sigma; give statistics as pytorch-fid, ADM or EDM "
            "write them"
        )
    count = found.get("num_images")
    number = int(count) if count is not None and count.numel() == 1 else None
    spatial = _moments(found, "_s", number, origin) if "mu_s" in found else None
    network = _digest(found.get("network"))
    return Statistics(_moments(found, "", number, origin), spatial, number, network)


def network_of(said: Mapping[str, Any]) -> str:
    """Return the digest by which statistics name a network: of its file, or of what was trained.

    Args:
        said: what a protocol says of the network.
    """
    return str(said.get("sha256") or said["network_sha256"])


def _digest(found: Tensor | None) -> str | None:
    if found is None or found.shape != (32,) or not bool(((found >= 0) & (found < 256)).all()):
        return None
    return bytes(map(int, found.tolist())).hex()


def _moments(found: Mapping[str, Tensor], suffix: str, count: int | None, origin: str) -> Moments:
    mean, covariance = found[f"mu{suffix}"].double(), found.get(f"sigma{suffix}")
    if mean.ndim != 1 or covariance is None or tuple(covariance.shape) != (len(mean), len(mean)):
        shape = None if covariance is None else tuple(covariance.shape)
        raise ConfigError(
            f"{origin}: mu{suffix} {tuple(mean.shape)} and sigma{suffix} {shape} must be (d,) and "
            "(d, d)"
        )
    covariance = covariance.double()
    if not bool(mean.isfinite().all()) or not bool(covariance.isfinite().all()):
        raise ConfigError(f"{origin}: mu{suffix} or sigma{suffix} is not finite; fetch it again")
    largest = float(covariance.abs().max())
    if float((covariance - covariance.T).abs().max()) > _SYMMETRIC * largest:
        raise ConfigError(f"{origin}: sigma{suffix} is not symmetric, and so no covariance")
    if count is None or count < 2:
        return Moments(2, mean, covariance)  # of which the covariance is this one
    return Moments(count, mean, found.get(f"scatter{suffix}", covariance * (count - 1)).double())


def require_reference(place: str, sha256: str, *, key: str = "evaluate.reference") -> Statistics:
    """Return published statistics, fetched if need be, with their digest.

    Args:
        place: path or https URL of the .npz.
        sha256: that it must have.
        key: the setting that names it.

    Raises:
        ConfigError: it is not there, another, or no statistics.
        DataError: the URL leads to no such file.
        StorageError: the server does not answer; running again may help.
    """
    if "://" in place:
        place = str(
            fetch_pinned(
                place,
                sha256,
                downloads_folder(),
                suffix=".npz",
                max_bytes=MAX_PINNED_BYTES,
                key=key,
                stage="evaluate",
            )
        )
    return from_npz(read_pinned(place, sha256, key=key), origin=f"{key}={place!r}")


def require_same_features(
    statistics: Statistics, dim: int | None, network: str | None, *, origin: str, features: str
) -> None:
    """Refuse statistics of other features.

    Args:
        statistics: which.
        dim: of the features; None: not known yet.
        network: `network_of` their network.
        origin: of the statistics, for people.
        features: the setting that names the network.

    Raises:
        ConfigError: they have another dimension, or say that they are of another network.
    """
    if statistics.network not in (None, network):
        raise ConfigError(
            f"{origin} is of the network {str(statistics.network)[:16]}..., and {features} is "
            f"{str(network)[:16]}...; give the statistics of the same network, or the network of "
            "these statistics"
        )
    if dim is not None and statistics.moments.dim != dim:
        raise ConfigError(
            f"{origin} is of {statistics.moments.dim} features, and {features} has {dim}; give the "
            "statistics of the same network, or the network of these statistics"
        )
