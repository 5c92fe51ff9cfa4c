"""Images cut into patches, each a token of a transformer."""

_MAX_TOKENS = 2**16
"""Each attends to each: 512x512 pixels in patches of 2."""


def require_patches(patch_size: int, *, height: int, width: int) -> None:
    """Refuse images that cannot be cut into patches, with their keys in the section `data`.

    Raises:
        ValueError: a side is no multiple of the patches', or there are too many.
    """
    for key, pixels in (("height", height), ("width", width)):
        if pixels % patch_size:
            raise ValueError(
                f"data.{key}={pixels} is not a multiple of model.patch_size={patch_size}; change "
                "one of them"
            )
    tokens = height * width // patch_size**2
    if tokens > _MAX_TOKENS:
        raise ValueError(
            f"images of {height}x{width} are {tokens} patches of model.patch_size={patch_size}, "
            f"and each attends to each: at most {_MAX_TOKENS} are taken; raise model.patch_size"
        )
