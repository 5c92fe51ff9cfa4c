"""A feature network from outside: a TorchScript file, pinned by its SHA-256.

A TorchScript file is a program. It is run only if its bytes are the ones that the configuration
names; which file deserves that is for its user to say.
"""

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError
from ddpm_core.evaluation.features.network import FeatureNetwork, in_colour
from ddpm_core.sources.download import downloads_folder, fetch_pinned
from ddpm_core.store.pinned_file import MAX_PINNED_BYTES, read_pinned

_KEY = "evaluate.features"
RULE: Mapping[str, Any] = {
    "resize": "none: the program is given uint8 levels as they are, grey repeated in three channels"
}
"""what a protocol says of how images reach it"""


def fetch(uri: str, sha256: str) -> bytes:
    """Return the file at a path or https URL, if it has that SHA-256.

    Raises:
        ConfigError: there is no such file at the path, or it is another.
        DataError: the URL leads to no file of that digest.
        StorageError: the server does not answer; running again may help.
    """
    if "://" not in uri:
        return read_pinned(uri, sha256, key=_KEY)
    cached = fetch_pinned(
        uri,
        sha256,
        downloads_folder(),
        suffix=".pt",
        max_bytes=MAX_PINNED_BYTES,
        key=_KEY,
        stage="evaluate",
    )
    return read_pinned(str(cached), sha256, key=_KEY)


def load(data: bytes, device: torch.device) -> FeatureNetwork:
    """Return the network of a file that `fetch` returned.

    The network gets uint8 images with three channels (grey is repeated) and, if its forward has
    that argument, `return_features=True` for features: the convention of the StyleGAN and EDM
    detectors. It has classes if its forward has the argument `no_output_bias`, by which those
    detectors return the probabilities that the published inception scores are made of.

    Raises:
        ConfigError: the file is no TorchScript; or, of the network when it is called, it does not
            return a row of finite numbers for each image.
    """
    try:
        loaded = torch.jit.load(io.BytesIO(data), map_location=device)  # type: ignore[no-untyped-call]
        network = loaded.eval()
        arguments = [argument.name for argument in network.forward.schema.arguments]
    except (RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"the file of evaluate.features is no TorchScript module ({_reason_of(error)}); give "
            "what torch.jit.save wrote"
        ) from None
    options: dict[str, Any] = {"return_features": True} if "return_features" in arguments else {}

    def rows(images_u8: Tensor, options: dict[str, Any]) -> Tensor:
        colour = in_colour(images_u8)
        try:
            features = network(colour, **options)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device's fault, not the program's
        except (RuntimeError, torch.jit.Error) as error:
            raise ConfigError(
                f"uint8 images {tuple(colour.shape)} on {device} could not go through the network "
                f"of evaluate.features ({_reason_of(error)}); give one that takes levels 0 to 255 "
                "as uint8 (n, 3, h, w), converts them to floats itself, and runs on that device"
            ) from None
        return _checked(features, len(images_u8))

    def classify(images_u8: Tensor) -> Tensor:
        return rows(images_u8, {"no_output_bias": True})

    has_classes = "no_output_bias" in arguments
    return FeatureNetwork(
        lambda images_u8: rows(images_u8, options), classify if has_classes else None
    )


def _reason_of(error: Exception) -> str:
    """Return what an error of TorchScript says, without where: that is before its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = (lines or [type(error).__name__])[-1 if "Traceback of TorchScript" in str(error) else 0]
    return said.partition(". ")[0].rstrip(".")[:200]


def _checked(features: Any, count: int) -> Tensor:  # noqa: ANN401 - what a foreign program returns
    """Return a row of features for each of `count` images.

    Raises:
        ConfigError: they are none.
    """
    if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != count:
        found = f"a {type(features).__name__}"
        if isinstance(features, Tensor):
            found = f"a tensor of shape {tuple(features.shape)}"
        raise ConfigError(
            f"the network of evaluate.features returned {found} for {count} images, not one row of "
            "features per image; give one that maps uint8 images (n, 3, h, w) to (n, d)"
        )
    if not features.is_floating_point() or features.numel() == 0:
        raise ConfigError(
            f"the network of evaluate.features returned {tuple(features.shape)} numbers of "
            f"{features.dtype}; give one that returns floats"
        )
    if not bool(features.isfinite().all()):
        raise ConfigError(
            "the network of evaluate.features returned NaN or infinity for an image; give one that "
            "returns finite numbers for uint8 images (n, 3, h, w)"
        )
    return features.flatten(1)
