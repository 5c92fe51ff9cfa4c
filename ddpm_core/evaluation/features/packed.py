"""Feature networks of weights alone, as they are kept: safetensors, whose header says what it is.

A file of torch is read by torch's loader of tensors alone (`weights_only`): nothing of it is run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from ddpm_core.errors import ConfigError

_ABOUT = "about"


def weights_of(path: Path, *, is_safetensors: bool) -> dict[str, Tensor]:
    """Return the tensors of a file of safetensors, or else of one that torch.save wrote.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        if is_safetensors:
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        said = str(error).partition("\n")[0][:200]
        raise ConfigError(
            f"{path} holds no tensors alone ({said}); give a file of safetensors, or of what "
            "torch.save wrote of a state_dict"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise ConfigError(f"{path} is no state_dict of tensors; give one")
    return found


def packed(weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return weights and what they are as one file of safetensors; the same for the same."""
    tensors = {name: one.contiguous() for name, one in weights.items()}
    return safetensors.torch.save(tensors, metadata={_ABOUT: json.dumps(about, sort_keys=True)})


def unpacked(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `packed` was given."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about: dict[str, Any] = json.loads(header["__metadata__"][_ABOUT])
    return safetensors.torch.load(data), about
