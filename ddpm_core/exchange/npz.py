"""The original's variables out of an .npz: `numpy.savez(path, **{name: value})` of a checkpoint.

Such a file comes from outside: what it claims is held to what it has before anything is allocated,
and objects, which would have to be unpickled, are refused.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from ddpm_core.errors import CheckpointError
from ddpm_core.exchange.headers import check_shape
from ddpm_core.store.storage import KeyMissingError, open_store, sha256_of

MAX_NPZ_BYTES = 2**33
"""Of the file, and of all variables together: weights, averages and Adam's two moments."""

_MAX_VARIABLES = 100_000
_MAX_HEADER_BYTES = 10_000
_SHOWN = 300
_KINDS = ("<f4", "<f8", "<f2", "<i4", "<i8")


def read_npz(uri: str) -> tuple[dict[str, Tensor], str]:
    """Return the variables by name, and the SHA-256 of the file.

    Args:
        uri: path or s3:// URI of the file.

    Raises:
        CheckpointError: the file is not there, no .npz, too large, or holds something else than
            arrays of numbers.
        StorageError: the storage does not answer.
    """
    folder, _, name = uri.rpartition("/")
    store = open_store(folder or ("/" if uri.startswith("/") else "."))
    try:
        data = store.read(name, at_most=MAX_NPZ_BYTES)
    except KeyMissingError:
        raise CheckpointError(f"there is no file {uri}; give the .npz of the variables") from None
    if len(data) > MAX_NPZ_BYTES:
        raise CheckpointError(f"{uri} has over {MAX_NPZ_BYTES} bytes, more than are read")
    return _parse(data, origin=uri), sha256_of(data)


def _parse(data: bytes, *, origin: str) -> dict[str, Tensor]:
    variables: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > _MAX_VARIABLES or total > MAX_NPZ_BYTES:
                raise CheckpointError(
                    f"{origin} unpacks to {len(members)} files of {total} bytes; at most "
                    f"{_MAX_VARIABLES} of {MAX_NPZ_BYTES} are read"
                )
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in variables:
                    raise CheckpointError(
                        f"{origin} has {member.filename!r}, which is no .npy or there twice; it "
                        "must be a file of numpy.savez"
                    )
                variables[name] = _array(archive.read(member), origin=f"{origin}: {name}")
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{origin} is no .npz file ({error}); write it again") from None
    return variables


def members_of(
    data: bytes, names: Collection[str], *, at_most: int, origin: str
) -> dict[str, Tensor]:
    """Return those of the arrays `names` that an .npz has; others in it are not looked at.

    Raises:
        CheckpointError: it is no .npz, or one of them is too large or no array of numbers.
    """
    found: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist()[:_MAX_VARIABLES]:
                name = member.filename.removesuffix(".npy")
                if name not in names:
                    continue
                if member.file_size > at_most:
                    raise CheckpointError(
                        f"{origin}: {name} unpacks to {member.file_size} bytes; at most {at_most} "
                        "are read"
                    )
                found[name] = _array(archive.read(member), origin=f"{origin}: {name}")
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{origin} is no .npz file ({error}); write it again") from None
    return found


def _array(data: bytes, *, origin: str) -> Tensor:
    """Return the array of one .npy, whose header is believed only where the bytes bear it out."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise CheckpointError(f"{origin} has .npy version {version}; write it with numpy.savez")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(
            file, max_header_size=_MAX_HEADER_BYTES
        )
    # Brackets in a header: NumPy's tokenizer and Python's parser end in the other three.
    except (ValueError, tokenize.TokenError, RecursionError, MemoryError) as error:
        shown = str(error)[:_SHOWN]  # NumPy repeats the header
        raise CheckpointError(f"{origin} is no .npy file ({shown}); write it again") from None
    check_shape(shape, origin=origin)
    claimed, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if dtype.str not in _KINDS or claimed != found:
        raise CheckpointError(
            f"{origin} says it is {dtype} {shape} and has {found} bytes; it must be plain numbers "
            f"({', '.join(_KINDS)}) and as many as it says"
        )
    values = np.frombuffer(data, dtype, offset=file.tell()).reshape(
        shape, order="F" if fortran else "C"
    )
    return torch.from_numpy(values.copy(order="C"))
