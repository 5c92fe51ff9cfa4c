"""The samples of a shard of which an index has some: found by where each image's file begins."""

from collections.abc import Sequence

from ddpm_core.errors import DataError
from ddpm_core.shards.one import Shard
from ddpm_core.shards.tar import Member as File


def samples(files: Sequence[File], shard: Shard, num_files: int, *, where: str) -> list[File]:
    """Return the files of the images that an index has of a shard, one sample after the other.

    Args:
        files: of the shard, in order.
        shard: what the index says of it.
        num_files: of a sample: the image's own and those that follow it.
        where: what to call the shard in an error.

    Raises:
        DataError: there is no such sample where the index says.
    """
    numbers = {file.offset: number for number, file in enumerate(files)}
    found: list[File] = []
    for offset, size in zip(shard.offsets, shard.sizes, strict=True):
        number = numbers.get(offset, len(files))
        own = files[number : number + num_files]
        stems = {file.name.rpartition(".")[0] for file in own}
        if len(own) != num_files or len(stems) != 1 or own[0].size != size:
            raise DataError(
                f"{where} has no image of {size} bytes with its {num_files - 1} other files at "
                f"byte {offset}, where the index says; shard under another root"
            )
        found += own
    return found
