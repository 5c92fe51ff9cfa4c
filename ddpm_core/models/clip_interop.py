"""Which weight of our towers is which of the same networks in `transformers`.

The tower of texts is a `CLIPTextModel` that is causal; the tower of clean images a
`CLIPVisionModel`, whose patches are read by a convolution. What projects onto the features is in
neither of the two: it is `text_projection` and `visual_projection` of a `CLIPModel`. A tower of
noised images is none of them, since it is given the time.

Source: the names of transformers' `CLIPTextModel`, `CLIPVisionModel` and `CLIPModel`.
"""

from collections.abc import Mapping

from torch import Tensor

from ddpm_core.models.interop import matched
from ddpm_core.models.text_interop import OF_TEXT, transformers_name

_OF_IMAGE = {
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding",
    "patch_in": "embeddings.patch_embedding",
    "norm_in": "pre_layrnorm",
    "norm_out": "post_layernorm",
}


def text_to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a causal `TextEncoder`, by our names, as those of a `CLIPTextModel`.

    Raises:
        CheckpointError: a parameter that it does not have.
    """
    return {transformers_name(name, OF_TEXT): tensor for name, tensor in weights.items()}


def text_from_transformers(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return a `CLIPTextModel`'s weights under our names, in the order of `like`.

    Args:
        tensors: by transformers' names.
        like: the parameters of our tower by name, of which shapes count; they may be `meta`.

    Raises:
        CheckpointError: naming the weights that are missing, unknown or of another shape.
    """
    names = {transformers_name(name, OF_TEXT): name for name in like}
    found = matched(tensors, names, like, what="transformers")
    return {name: found[name] for name in like}


def image_to_transformers(weights: Mapping[str, Tensor], *, patch_size: int) -> dict[str, Tensor]:
    """Return the weights of an `ImageTower` of clean images, without what projects onto the
    features, as those of a `CLIPVisionModel`.

    Raises:
        CheckpointError: a parameter that it does not have: those of the time are such.
    """
    found = {}
    for name, tensor in weights.items():
        theirs = transformers_name(name, _OF_IMAGE)
        if name == "patch_in.weight":
            tensor = tensor.reshape(len(tensor), -1, patch_size, patch_size)
        if name == "class_token.weight":
            theirs, tensor = theirs.removesuffix(".weight"), tensor[0]
        found[theirs] = tensor
    return found


def image_from_transformers(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], *, patch_size: int
) -> dict[str, Tensor]:
    """Return a `CLIPVisionModel`'s weights under our names, as `text_from_transformers`."""
    there = image_to_transformers(like, patch_size=patch_size)
    names = dict(zip(there, like, strict=True))
    found = matched(
        tensors,
        names,
        like,
        what="transformers",
        reshaped=lambda name, tensor: tensor.reshape(-1, *like[name].shape[1:]),
    )
    return {name: found[name] for name in like}
