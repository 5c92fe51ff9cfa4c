"""A split that is read from its shards, image by image, while it is used."""

import math
from collections.abc import Callable, Collection
from threading import Lock
from typing import final

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
from ddpm_core.loading.shard_files import Places, ShardFiles
from ddpm_core.shards.index import Index, Split, key_of
from ddpm_core.shards.tar import BLOCK_BYTES, member_at
from ddpm_core.store.storage import Store

MAX_RANGE_BYTES = 4 * 2**30
_NUM_WINDOWS = 3  # that a reader has to do with: where stragglers are, the present one, the next
_MAX_AHEAD, _AHEAD_BYTES = 8, 2**28
_TORCH = {"uint8": torch.uint8, "uint16": torch.uint16}
_PART_BYTES = 2**26  # of a range, which is read and turned in parts


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
        shards = index.shards[split]
        self._split, self._shards, self._num_decoders = split, shards, num_decoders
        self.num_classes = len(index.label.names)
        self._others, self._num_after = index.others, len(index.endings)
        channels, height, width = index.shape
        self._shape = (height, width, channels)
        self._dtype, self._reduced = np.dtype(index.image.dtype), eight_bits
        self._counts = [shard.num_images for shard in shards]
        self._firsts = np.cumsum([0, *self._counts])
        if self._firsts[-1] != index.num_images[split]:
            raise DataError(
                f"{store.uri_of(index.manifest.folder)} has shards of {self._firsts[-1]} {split} "
                f"images, but says {index.num_images[split]}; run the shard stage again under "
                "another root"
            )
        self._offsets = np.concatenate([np.array(shard.offsets, np.int64) for shard in shards])
        self._sizes = np.concatenate([np.array(shard.sizes, np.int64) for shard in shards])
        is_foreign = self._sizes != png.stored_bytes(self._shape, self._dtype)
        # Images of 16 bits are all files that this program wrote.
        self._needs_decoders = self._dtype == np.uint8 and bool(is_foreign.any())
        self._decoders: DecodePool | None = None
        self._order = BlockOrder(0, self._counts)
        self._expected = (0, -1)
        self._lock = Lock()
        self._buffers = Buffers()
        self._files = ShardFiles(
            store, index, split, cache, max_open=_NUM_WINDOWS * self._order.max_window_shards
        )

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def order(self, seed: int) -> BlockOrder:
        """Return the order of training, permuted in windows of shards; `expect` goes by it."""
        self._order, self._expected = BlockOrder(seed, self._counts), (0, -1)
        return self._order

    def windows(self, seed: int) -> BlockOrder:
        """Return the same order: as of a split in memory, which is trained on in another."""
        return self.order(seed)

    def num_ahead(self, batch_size: int) -> int:
        """Return how many batches to make at a time: several, within 256 MiB."""
        batch_bytes = batch_size * self._image_bytes
        return max(2, min(_MAX_AHEAD, _AHEAD_BYTES // batch_bytes))

    def expect(self, position: int) -> None:
        """Fetch what the order reads from this position of the stream of all epochs on."""
        order = self._order
        epoch, within = divmod(position, len(self))
        window = order.window_of(epoch, within)
        # Batches that are made at a time come in any order: only ever forwards.
        if (epoch, window) <= self._expected:
            return
        self._expected = (epoch, window)
        if self._needs_decoders:
            self._pool()  # they start while the first shards are on their way
        self._files.expect(order.shards_of(epoch, window).tolist())
        is_last = window + 1 == order.num_windows(epoch)
        following = (epoch + 1, 0) if is_last else (epoch, window + 1)
        self._files.expect(order.shards_of(*following).tolist())

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
        return self._others.keys()

    def member(self, name: str, numbers: NDArray[np.int64]) -> Tensor:
        """Return a member of the images of these numbers, e.g. of `label` (b,) int64.

        Raises:
            DataError, StorageError: as `take`; or there is no such file where one belongs.
        """
        member, origin = self._others[name], self._origin(numbers)
        places = self._places(numbers)
        files = [
            self._file(places, at, f"{key}.{member.ending}")
            for at, key in enumerate(self._keys(numbers))
        ]
        return torch.from_numpy(member.decode(files, lambda at: f"the {name} of {origin(at)}"))

    def close(self) -> None:
        """End the processes and threads, and close the files."""
        self._files.close()
        if self._decoders is not None:
            self._decoders.close()

    @property
    def _image_bytes(self) -> int:
        return math.prod(self._shape) * self._dtype.itemsize

    def _pool(self) -> DecodePool:
        with self._lock:
            if self._decoders is None:
                self._decoders = DecodePool(self._num_decoders, self._shape)
            return self._decoders

    def _places(self, numbers: NDArray[np.int64]) -> Places:
        shards = np.searchsorted(self._firsts, numbers, side="right") - 1
        used, which = np.unique(shards, return_inverse=True)
        files = [self._files.get(shard) for shard in used.tolist()]
        return Places(files, which, self._offsets[numbers], self._sizes[numbers])

    def _origin(self, numbers: NDArray[np.int64]) -> Callable[[int], str]:
        def origin(position: int) -> str:
            places = self._places(numbers[position : position + 1])
            return f"{places.files[0].where}: {self._keys(numbers[position : position + 1])[0]}"

        return origin

    def _file(self, places: Places, position: int, name: str) -> bytes:
        """Return the file of this name, one of those that follow an image's."""
        file, found = places.files[int(places.which[position])], ""
        offset, size = int(places.offsets[position]), int(places.sizes[position])
        for _ in range(self._num_after):
            at = offset + -(-size // BLOCK_BYTES) * BLOCK_BYTES
            # Header and first block at once: a small file is whole then.
            # An archive ends in two more blocks, so both are there whatever the file.
            blocks = file.read(at, 2 * BLOCK_BYTES)
            member = member_at(blocks[:BLOCK_BYTES], at, origin=file.where)
            offset, size, found = member.offset, member.size, member.name
            if found == name:
                small = blocks[BLOCK_BYTES : BLOCK_BYTES + size]
                return small if size <= BLOCK_BYTES else file.read(offset, size)
        raise DataError(f"{file.where}: {name} is not there, but {found}; shard under another root")

    def _keys(self, numbers: NDArray[np.int64]) -> list[str]:
        shards = np.searchsorted(self._firsts, numbers, side="right") - 1
        within = numbers - self._firsts[shards]
        rows = zip(shards.tolist(), within.tolist(), strict=True)
        return [key_of(self._split, self._shards[at].first_number + one) for at, one in rows]
