"""Feature networks that are called by a name: which file, from where, and how images reach them.

The digests are those that public sources agree on: of the Inception the first eight digits stand in
its published name. Nothing of another digest is ever used. Knows no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FOLDER = "transformers:"
"""what `evaluate.features` begins with where a folder of transformers is meant"""

Kind = Literal["trained", "inception", "transformers", "torchscript"]
"""how a feature network is made: trained here; the Inception of 2015; by the package transformers;
by a program of its own"""


@dataclass(frozen=True)
class KnownFile:
    """A file of weights, and what is measured with it."""

    kind: Kind
    file: str
    """its name, here and there"""
    urls: tuple[str, ...]
    sha256: str
    num_bytes: int
    dim: int
    """numbers of an image"""
    about: Mapping[str, Any]
    """what a protocol says of it"""
    network: Mapping[str, Any]
    """of transformers: `config.json`, as far as it differs from the defaults of its model type"""
    preprocessor: Mapping[str, Any]
    """of transformers: what images are normalised by"""


KNOWN: Mapping[str, KnownFile] = {
    "inception": KnownFile(
        kind="inception",
        file="weights-inception-2015-12-05-6726825d.pth",
        urls=(
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
        ),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        num_bytes=95_628_359,
        dim=2048,
        about={"licence": "Apache-2.0 (tensorflow/models)"},
        network={},
        preprocessor={},
    ),
    "dinov2": KnownFile(
        kind="transformers",
        file="dinov2-large-47b73eef.safetensors",
        urls=(
            "https://huggingface.co/facebook/dinov2-large/resolve/"
            "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c/model.safetensors",
        ),
        sha256="399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
        num_bytes=1_217_522_888,
        dim=1024,
        about={"licence": "Apache-2.0 (facebookresearch/dinov2)"},
        network={
            "model_type": "dinov2",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 518,
            "patch_size": 14,
        },
        preprocessor={
            "crop_size": 224,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    ),
    "clip": KnownFile(
        kind="transformers",
        file="clip-vit-large-patch14-336-ce19dc91.bin",
        urls=(
            "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/"
            "ce19dc912ca5cd21c8a653c79e251e808ccabcd1/pytorch_model.bin",
        ),
        sha256="c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
        num_bytes=1_711_974_081,
        dim=768,
        about={"licence": "MIT (openai/CLIP)"},
        network={
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
        preprocessor={
            "crop_size": 336,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    ),
}
"""name -> its file"""


def known_by(sha256: str | None) -> KnownFile | None:
    """Return the known file of this digest, wherever it lies; None if it is none."""
    return next((one for one in KNOWN.values() if one.sha256 == sha256), None)
