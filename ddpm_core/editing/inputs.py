"""The images and masks of a request, read, checked, and brought to the model's canvas."""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.config import RunConfig
from ddpm_core.editing.canvas import Canvas, Margins, low_data_of
from ddpm_core.editing.files import ImageFile, ImageFiles, find_images
from ddpm_core.editing.request import Request
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.images.names import quoted, shown

_MAX_BYTES = 2**31
"""of all images in the model's size, which are held in memory"""


@dataclass(frozen=True)
class Inputs:
    """The images of a request on the model's canvas, and what is known of them."""

    files: tuple[ImageFile, ...]
    """without their contents"""
    sha256: tuple[str, ...]
    masks: tuple[str, ...]
    """their names; empty: there are none"""
    masks_sha256: tuple[str, ...]
    levels: NDArray[Any]
    """(n, h, w, c)"""
    known: NDArray[np.bool_] | None
    """(n, h, w); None: no pixel is kept as it is"""


def read_inputs(request: Request, config: RunConfig, out_uri: str) -> Inputs:
    """Read and check all images and masks.

    Args:
        request: whose.
        config: of the run.
        out_uri: of the store in which the results will lie.

    Raises:
        ConfigError, DataError, StorageError: one of them cannot be used.
    """
    data = low_data_of(config) if request.is_enlarging else config.data
    canvas = Canvas(data, Margins() if request.margins is None else request.margins)
    images = find_images(request.images, option=request.option)
    masks = None if request.masks is None else find_images(request.masks, option="--mask")
    if images.is_folder:
        _require_apart(images.container.uri, "--out", out_uri, of=request.option)
        if masks is not None:
            _require_apart(images.container.uri, "--mask", masks.uri)
    height, width = data.height, data.width
    image_bytes = height * width * data.channels * data.depth // 8
    if len(images.entries) * image_bytes > _MAX_BYTES:
        raise DataError(
            f"{request.option} {request.images}: {len(images.entries)} images of {width}x{height} "
            f"are more than the {_MAX_BYTES // 2**30} GiB that are held at once; give a part of "
            "them"
        )
    files, sha256, of_masks, levels, known = [], [], [], [], []
    for entry in images.entries:
        file = images.read(entry)
        levels.append(canvas.place(file))
        if request.is_inpainting:
            mask = None if masks is None else _mask_of(masks, file)
            known.append(canvas.known(mask, file))
            of_masks += [] if mask is None else [(mask.name, _sha256(mask))]
        files.append(ImageFile(file.name, b"", file.origin))
        sha256.append(_sha256(file))
    return Inputs(
        tuple(files),
        tuple(sha256),
        tuple(name for name, _ in of_masks),
        tuple(digest for _, digest in of_masks),
        np.stack(levels),
        np.stack(known) if request.is_inpainting else None,
    )


def _require_apart(folder: str, option: str, uri: str, *, of: str = "--image") -> None:
    """Refuse what would be taken for an image of the folder itself, now or the next time."""
    if uri.startswith("s3://") or folder.startswith("s3://"):
        is_below = f"{uri}/".startswith(f"{folder}/")
    else:
        is_below = Path(uri).resolve().is_relative_to(Path(folder).resolve())
    if is_below:
        raise ConfigError(
            f"{option} {shown(uri)} lies in the folder of {of}, {shown(folder)}, all images of "
            "which are edited: it would be edited itself; give a place outside of it"
        )


def _sha256(file: ImageFile) -> str:
    return hashlib.sha256(file.content).hexdigest()


def _mask_of(masks: ImageFiles, image: ImageFile) -> ImageFile:
    """Return the one mask, or that of the image's name: with its ending, or with another."""
    if not masks.is_folder:
        return masks.read(masks.entries[0])
    same = [one for one in masks.entries if one.name == image.name]
    same = same or [
        one for one in masks.entries if str(PurePosixPath(one.name).with_suffix("")) == image.stem
    ]
    if len(same) != 1:
        number = "no mask" if not same else f"{len(same)} masks"
        raise DataError(
            f"{masks.container.uri} has {number} for {quoted(image.name)}; give one of its name, "
            "or one mask for all images"
        )
    return masks.read(same[0])
