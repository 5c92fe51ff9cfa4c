"""From what a user gives as data.source to the container that it means."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddpm_core.data.containers.container import Container
from ddpm_core.data.containers.folder import Folder
from ddpm_core.data.containers.tarred import Tar
from ddpm_core.data.containers.unpacking import unpacked
from ddpm_core.data.containers.zipped import Zip
from ddpm_core.errors import DataError

_ACCEPTED = (
    "a folder of images, a .zip, .tar, .tar.gz or .tgz of them, or a folder of WebDataset shards"
)
_GZIPPED = (".tar.gz", ".tgz")


def open_container(source: str, *, cache: Path, sha256: str | None = None) -> Container:
    """Return the container that `source` means.

    Args:
        source: a path on this machine.
        cache: folder for what has to be fetched or unpacked first.
        sha256: what an archive must have; None checks nothing.

    Raises:
        DataError: there is nothing, or nothing of a kind that is read, or another archive.
        StorageError: it cannot be reached.
    """
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise DataError(f"data.source={source!r} is no file or folder here; give {_ACCEPTED}")
    return _archive(path, cache, sha256)


def reopen(description: Mapping[str, Any]) -> Container:
    """Return the container whose `description()` this is."""
    words = dict(description)
    return _KINDS[words.pop("kind")](**words)


def _archive(path: Path, cache: Path, sha256: str | None) -> Container:
    name = path.name.lower()
    if name.endswith(".zip"):
        container: Container = Zip(path)
    elif name.endswith(".tar"):
        container = Tar(path)
    elif name.endswith(_GZIPPED):
        tar, found = unpacked(path, cache)
        container = Tar(tar, uri=str(path), sha256=found)
    else:
        raise DataError(f"{path} is no archive of a kind that is read; give {_ACCEPTED}")
    if sha256 is not None and container.identity() != sha256:
        raise DataError(
            f"{path} has the SHA-256 {container.identity()}, data.source_sha256 says {sha256}; "
            "fetch the file again, or correct the digest"
        )
    return container


_KINDS: Mapping[str, Callable[..., Container]] = {
    "folder": lambda path: Folder(Path(path)),
    "zip": lambda path: Zip(Path(path)),
    "tar": lambda path, uri, sha256: Tar(Path(path), uri=uri, sha256=sha256),
}
