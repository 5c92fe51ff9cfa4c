"""Image files that a command names: one file, or the images of a folder, here or in a bucket."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ddpm_core.errors import ConfigError, DataError
from ddpm_core.images.names import bytes_of, is_of_a_system, quoted, reason_to_pass_over
from ddpm_core.sources.containers.bucket import BucketFolder
from ddpm_core.sources.containers.container import Container, Entry, PassedOver
from ddpm_core.sources.containers.folder import Folder
from ddpm_core.store.foreign_bucket import ForeignBucket, bucket_and_key


@dataclass(frozen=True)
class ImageFile:
    """A file, read whole."""

    name: str
    """below the folder that was named, or of the file itself"""
    content: bytes
    origin: str
    """for people: where it lies"""

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return str(PurePosixPath(self.name).with_suffix(""))


@dataclass(frozen=True)
class ImageFiles:
    """What an option names: a file, or a folder."""

    container: Container
    entries: tuple[Entry, ...]
    """images alone, by the bytes of their names; of a file, that one"""
    is_folder: bool

    @property
    def uri(self) -> str:
        """Of the folder, or of the file."""
        return (
            self.container.uri if self.is_folder else f"{self.container.uri}/{self.entries[0].name}"
        )

    def read(self, entry: Entry) -> ImageFile:
        """Return one of them.

        Raises:
            DataError: it cannot be read, or has changed since it was listed.
            StorageError: the place does not answer.
        """
        where = f"{quoted(entry.name)} in {self.container.uri}"
        return ImageFile(entry.name, self.container.read(entry), where)


def find_images(source: str, *, option: str) -> ImageFiles:
    """Return the image files that `source` names.

    Args:
        source: path of a file or a folder, or s3://bucket/key of an object or a prefix. Of a folder
            all images below it are meant; other files are passed over.
        option: what gave it, for people, e.g. "--image".

    Raises:
        ConfigError: it is no path and no such URI.
        DataError: nothing is there, or no image.
        StorageError: it cannot be listed.
    """
    if source.startswith("s3://"):
        return _in_bucket(source, option)
    if "://" in source or not source.strip() or "\0" in source:
        raise ConfigError(
            f"{option} {quoted(source)} is no place of images; give a file, a folder, or "
            "s3://bucket/prefix"
        )
    path = Path(source).expanduser().absolute()
    if path.is_file():
        size = path.stat().st_size
        return ImageFiles(Folder(path.parent), (Entry(path.name, size),), is_folder=False)
    if not path.is_dir():
        raise DataError(
            f"{option} {quoted(source)}: there is no such file or folder; give a file, a folder, "
            "or s3://bucket/prefix"
        )
    return _below(Folder(path), option)


def _in_bucket(source: str, option: str) -> ImageFiles:
    try:
        name, key = bucket_and_key(source)
    except ConfigError:
        raise ConfigError(
            f"{option} begins with s3://, but is not s3://bucket/prefix; give that, without user, "
            "password or options: credentials come from the environment or the AWS files"
        ) from None
    bucket = ForeignBucket(name)
    bucket.check(key)
    if key and not source.endswith("/"):
        found = next((one for one in bucket.objects(key) if one.key == key), None)
        if found is not None:
            folder, _, last = key.rpartition("/")
            entries = (Entry(last, found.size),)
            return ImageFiles(BucketFolder(name, folder), entries, is_folder=False)
    return _below(BucketFolder(name, key), option)


def _below(container: Container, option: str) -> ImageFiles:
    with closing(container):
        found = list(container.entries(PassedOver()))
    images = [
        one
        for one in found
        if not is_of_a_system(one.name) and reason_to_pass_over(one.name) is None
    ]
    if not images:
        raise DataError(
            f"{option} {container.uri}: no image (png, jpg, jpeg, jpe, jfif, webp, gif) lies "
            f"there, among {len(found)} files; give another place"
        )
    ordered = sorted(images, key=lambda one: bytes_of(one.name))
    return ImageFiles(container, tuple(ordered), is_folder=True)
