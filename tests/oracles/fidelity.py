"""torch-fidelity, imported without torchvision (the Makefile says why it is not installed).

Its modules import torchvision on their first lines and use of it only what resizes or normalises
images for VGG, CLIP and DINOv2: none of that is an oracle here.
"""

import sys
from types import ModuleType


def _without_torchvision() -> ModuleType:
    """Return torch_fidelity; torchvision is empty while it is imported, and gone afterwards."""
    names = ["torchvision", "torchvision.datasets", "torchvision.transforms"]
    names += ["torchvision.transforms.functional", "torchvision.models"]
    if any(name in sys.modules for name in names):
        raise ImportError("torchvision is imported already: import torch_fidelity as it is")
    for name in names:
        sys.modules[name] = ModuleType(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    for name in ("CIFAR10", "STL10", "CIFAR100"):
        setattr(sys.modules["torchvision.datasets"], name, object)
    try:
        import torch_fidelity
    finally:
        for name in names:
            del sys.modules[name]
    return torch_fidelity


torch_fidelity = _without_torchvision()
