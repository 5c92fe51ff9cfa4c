"""A split that is read from its shards, image by image, while it is used."""

import math
from collections.abc import Callable, Collection
from functools import partial
from threading import Lock
from typing import TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.errors import DataError
from ddpm_core.images import pixels, png
from ddpm_core.images.decoding import decode_files
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.buffers import Buffers
from ddpm_core.loading.cache import Cache
from ddpm_core.loading.decode_pool import DecodePool
from ddpm_core.loading.mixture import MixedOrder, mixed_order
from ddpm_core.loading.shard_files import Places, ShardFiles, shard_at
from ddpm_core.permutation import Order
from ddpm_core.shards.index import Index, Split, key_of
from ddpm_core.shards.lineage import is_mixture, made_of
from ddpm_core.shards.members import CAPTION, LABEL
from ddpm_core.shards.one import Shard
from ddpm_core.shards.tar import BLOCK_BYTES, member_at
from ddpm_core.store.storage import Store

MAX_RANGE_BYTES = 4 * 2**30
_NUM_WINDOWS = 3  # that a reader has to do with: where stragglers are, the present one, the next
_MAX_AHEAD, _AHEAD_BYTES = 8, 2**28
_TORCH = {"uint8": torch.uint8, "uint16": torch.uint16}
_PART_BYTES = 2**26  # of a range, which is read and turned in parts

Followed = TypeVar("Followed", BlockOrder, MixedOrder[BlockOrder])


@final
class StreamedImages:
    """The images of a split by their number, out of verified shards.

    Any thread may read. Files of other programs are decoded by processes, which are started when
    the first of them is expected or read; those that this program wrote only need to be copied.

    Args:
        store: where the data set is.
        index: what it is.
        split: which part of it.
        cache: where shards of a remote store are kept.
        num_decoders: processes that decode, at least 1.
        eight_bits: give images of more bits as uint8.
    """

    def __init__(
        self,
        store: Store,
        index: Index,
        split: Split,
        cache: Cache,
        *,
        num_decoders: int,
        eight_bits: bool = False,
    ) -> None:
        self._store, self._index = store, index
        self._split, self._num_decoders = split, num_decoders
        self.num_classes = len(index.label.names)
        self._others, self._num_after = index.others, len(index.endings)
        channels, height, width = index.shape
        self._shape = (height, width, channels)
        self._dtype, self._reduced = np.dtype(index.image.dtype), eight_bits
        self._counts = index.counts(split)
        self._firsts = np.concatenate([[0], np.cumsum(self._counts)])
        if self._firsts[-1] != index.num_images[split]:
            raise DataError(
                f"{store.uri_of(index.manifest.folder)} has shards of {self._firsts[-1]} {split} "
                f"images, but says {index.num_images[split]}; run the shard stage again under "
                "another root"
            )
        # Images of 16 bits are all files that this program wrote.
        self._needs_decoders = self._dtype == np.uint8 and _has_foreign(index, split)
        self._decoders: DecodePool | None = None
        self._made_of = made_of(index.manifest) if split == "train" else ()
        self._follow(self.windows(0))
        max_shards = self.windows(0).max_window_shards
        if is_mixture(self._made_of):
            max_shards = sum(part.order.max_window_shards for part in self._mixed(0).parts)
        self._lock = Lock()
        self._buffers = Buffers()
        self._files = ShardFiles(store, index, split, cache, max_open=_NUM_WINDOWS * max_shards)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def order(self, seed: int) -> Order:
        """Return the order of training, permuted in windows of shards; `expect` goes by it."""
        if is_mixture(self._made_of):
            return self._follow(self._mixed(seed))
        return self._follow(BlockOrder(seed, self._counts))

    def windows(self, seed: int) -> BlockOrder:
        """Return the order of all images in windows, of a mixture too; `expect` goes by it."""
        return self._follow(BlockOrder(seed, self._counts))

    def num_ahead(self, batch_size: int) -> int:
        """Return how many batches to make at a time: several, within 256 MiB."""
        batch_bytes = batch_size * self._image_bytes
        return max(2, min(_MAX_AHEAD, _AHEAD_BYTES // batch_bytes))

    def expect(self, position: int) -> None:
        """Fetch what the order reads from this position of the stream of all epochs on."""
        order = self._order
        if isinstance(order, BlockOrder):
            self._expect(0, order, position, first_shard=0)
            return
        own = order.own_positions(position)
        for number, (part, at) in enumerate(zip(order.parts, own, strict=True)):
            self._expect(number, part.order, at, first_shard=part.first_shard)

    def take(self, numbers: NDArray[np.int64], *, pinned: bool = False) -> Tensor:
        """Return the images of these numbers, (b, channels, height, width).

        uint8, or uint16 of a data set of 16 bits. In memory the channels are last, as they are in
        the files.

        Raises:
            DataError: a shard is missing or is not what the index says, or an image is damaged.
            StorageError: the store does not answer, or the cache cannot be used.
            ClusterError: a process that decodes was lost.
        """
        size = (len(numbers), *self._shape)
        if pinned:  # torch itself uses such memory again, as soon as the device has read it
            images = torch.empty(size, dtype=_TORCH[self._dtype.name], pin_memory=True)
        else:
            images = torch.from_numpy(self._buffers.lease(size, self._dtype))
        places = self._places(numbers)
        out, origin = images.numpy(), self._origin(numbers)
        if self._needs_decoders:
            self._pool().decode(places, out, origin=origin)
        else:
            decode_files(places.read_all(), out, origin=origin)
        if self._reduced:
            images = torch.from_numpy(pixels.eight_bits(out))
        return images.permute(0, 3, 1, 2)

    def images(self, start: int, stop: int) -> Tensor:
        """Return images `start` to `stop` - 1, channels first also in memory.

        Raises:
            DataError: also if they have over 4 GiB of pixels.
        """
        stop = min(stop, len(self))
        num_bytes = (stop - start) * self._image_bytes
        if num_bytes > MAX_RANGE_BYTES:
            raise DataError(
                f"{stop - start} images have {num_bytes} bytes of pixels, at most "
                f"{MAX_RANGE_BYTES} are held in memory at a time; use fewer or smaller images"
            )
        height, width, channels = self._shape
        numbers = np.arange(start, stop, dtype=np.int64)
        dtype = torch.uint8 if self._reduced else _TORCH[self._dtype.name]
        images = torch.empty((len(numbers), channels, height, width), dtype=dtype)
        # In parts: turning it as a whole would take its memory twice.
        size = max(1, _PART_BYTES // self._image_bytes)
        for at in range(0, len(numbers), size):
            images[at : at + size] = self.take(numbers[at : at + size])
        return images

    @property
    def members(self) -> Collection[str]:
        """What the images come with."""
        return {*self._others, *(() if self._index.captions is None else (CAPTION,))}

    def member(self, name: str, numbers: NDArray[np.int64]) -> Tensor:
        """Return a member of the images of these numbers, e.g. of `label` (b,) int64.

        Raises:
            DataError, StorageError: as `take`; or there is no such file where one belongs.
        """
        member, origin = self._others[name], self._origin(numbers)
        places, rows = self._places(numbers), self._rows(numbers)
        files = [
            self._file(places, at, name, shard, within) for at, (shard, within) in enumerate(rows)
        ]
        return torch.from_numpy(member.decode(files, lambda at: f"the {name} of {origin(at)}"))

    def captions(self, numbers: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return the captions of the images of these numbers; () of one that has none.

        Raises:
            DataError, StorageError: as `take`.
        """
        member = self._index.captions
        if member is None:
            return [()] * len(numbers)
        places, origin = self._places(numbers), self._origin(numbers)
        files = []
        for at, (shard, within) in enumerate(self._rows(numbers)):
            offset, size = shard.beside[CAPTION][within] if CAPTION in shard.beside else (0, 0)
            file = places.files[int(places.which[at])]
            files.append(file.read(offset, size) if size else b"")
        return member.decode(files, lambda at: f"the {CAPTION} of {origin(at)}")

    def close(self) -> None:
        """End the processes and threads, and close the files."""
        self._files.close()
        if self._decoders is not None:
            self._decoders.close()

    def _mixed(self, seed: int) -> MixedOrder[BlockOrder]:
        order = partial(BlockOrder, num_beside=len(self._made_of))
        return mixed_order(seed, self._made_of, self._counts, order)

    def _follow(self, order: Followed) -> Followed:
        self._order: BlockOrder | MixedOrder[BlockOrder] = order
        self._expected: dict[int, tuple[int, int]] = {}
        return order

    def _expect(self, number: int, order: BlockOrder, position: int, *, first_shard: int) -> None:
        """Fetch what one data set of the order reads from a position of its own stream on."""
        epoch, within = divmod(position, order.num_images)
        window = order.window_of(epoch, within)
        # Batches that are made at a time come in any order: only ever forwards.
        if (epoch, window) <= self._expected.get(number, (0, -1)):
            return
        self._expected[number] = (epoch, window)
        if self._needs_decoders:
            self._pool()  # they start while the first shards are on their way
        is_last = window + 1 == order.num_windows(epoch)
        following = (epoch + 1, 0) if is_last else (epoch, window + 1)
        for one in ((epoch, window), following):
            self._files.expect((first_shard + order.shards_of(*one)).tolist())

    @property
    def _image_bytes(self) -> int:
        return math.prod(self._shape) * self._dtype.itemsize

    def _pool(self) -> DecodePool:
        with self._lock:
            if self._decoders is None:
                self._decoders = DecodePool(self._num_decoders, self._shape, self._index.image.cut)
            return self._decoders

    def _shards_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._firsts, numbers, side="right") - 1

    def _rows(self, numbers: NDArray[np.int64]) -> list[tuple[Shard, int]]:
        """Return the shard of each image, and which of its images it is."""
        shards = self._shards_of(numbers)
        known = {
            number: shard_at(self._store, self._index, self._split, number)
            for number in np.unique(shards).tolist()
        }
        within = (numbers - self._firsts[shards]).tolist()
        return [(known[at], one) for at, one in zip(shards.tolist(), within, strict=True)]

    def _places(self, numbers: NDArray[np.int64]) -> Places:
        used, which = np.unique(self._shards_of(numbers), return_inverse=True)
        rows = self._rows(numbers)
        offsets = np.array([shard.offsets[within] for shard, within in rows], np.int64)
        sizes = np.array([shard.sizes[within] for shard, within in rows], np.int64)
        return Places(self._files.get_all(used.tolist()), which, offsets, sizes)

    def _origin(self, numbers: NDArray[np.int64]) -> Callable[[int], str]:
        def origin(position: int) -> str:
            one = numbers[position : position + 1]
            ((shard, within),) = self._rows(one)
            return f"{self._places(one).files[0].where}: {self._key(shard, within)}"

        return origin

    def _key(self, shard: Shard, within: int) -> str:
        if shard.labels is not None:  # of others, or of some of a data set's images
            return f"the image at byte {shard.offsets[within]}"
        return key_of(self._split, shard.first_number + within)

    def _file(self, places: Places, position: int, member: str, shard: Shard, within: int) -> bytes:
        """Return the file of a member of an image, or what the index says in its place."""
        file = places.files[int(places.which[position])]
        if member == LABEL and shard.labels is not None:
            return b"%d" % shard.labels[within]
        if member in shard.beside:
            return file.read(*shard.beside[member][within])
        name, found = f"{self._key(shard, within)}.{self._others[member].ending}", ""
        offset, size = int(places.offsets[position]), int(places.sizes[position])
        for _ in range(self._num_after):
            at = offset + -(-size // BLOCK_BYTES) * BLOCK_BYTES
            # Header and first block at once: a small file is whole then.
            # An archive ends in two more blocks, so both are there whatever the file.
            blocks = file.read(at, 2 * BLOCK_BYTES)
            header = member_at(blocks[:BLOCK_BYTES], at, origin=file.where)
            offset, size, found = header.offset, header.size, header.name
            if found == name:
                small = blocks[BLOCK_BYTES : BLOCK_BYTES + size]
                return small if size <= BLOCK_BYTES else file.read(offset, size)
        raise DataError(f"{file.where}: {name} is not there, but {found}; shard under another root")


def _has_foreign(index: Index, split: Split) -> bool:
    """Say whether there are files that this program did not write, as far as that is known."""
    if index.image.file_bytes is not None or index.is_in_parts:
        return index.image.file_bytes is None
    channels, height, width = index.shape
    own = png.stored_bytes((height, width, channels), np.dtype(index.image.dtype))
    return any(size != own for shard in index.shards[split] for size in shard.sizes)
