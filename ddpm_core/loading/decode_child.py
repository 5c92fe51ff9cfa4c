"""The process that decodes for a loader: files in, pixels into shared memory out.

A process, not a thread: for an image of 32x32 pixels most of the time is Python's, and threads
would take turns. It is started as a program of its own, so that nothing of its parent comes along
(no CUDA, no locks, no `__main__`), and it ends when its parent does: then its sockets are closed.

It serves several channels. A request is one packet, int64 numbers and the descriptors of shards
that this channel did not have yet:

    height, width, channels, number of new shards, of old shards, of images,
    whether the files are of any size, and how they become of one (`Cut.numbers`, else zeros),
    names of the new shards, names of the old ones, which are not needed any more,
    (shard, offset, size) of each image

The answer is a byte for each image: 1, its pixels are in the channel's part of the memory; or 0,
it could not be decoded, and the parent may see for itself why.
"""

import mmap
import os
import selectors
import signal
import socket
import sys

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError
from ddpm_core.images.decoding import decode_files
from ddpm_core.images.shaped import NUM_NUMBERS, Cut, shape_files

MAX_PACKET_BYTES = 2**16
MAX_NEW_SHARDS = 200  # of a packet; Linux passes at most 253 descriptors
HEADER = 7 + NUM_NUMBERS


def main() -> None:
    """Serve until the parent has gone. Arguments: memory, bytes of a channel's part, channels."""
    memory, num_bytes, *channels = (int(argument) for argument in sys.argv[1:])
    # Control-C is for the parent, which will close the channels.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mapped = mmap.mmap(memory, num_bytes * len(channels))
    selector = selectors.DefaultSelector()
    for number, descriptor in enumerate(channels):
        part = np.frombuffer(mapped, np.uint8, num_bytes, offset=number * num_bytes)
        selector.register(socket.socket(fileno=descriptor), selectors.EVENT_READ, _Channel(part))
    while selector.get_map():
        for key, _ in selector.select():
            connection, channel = key.fileobj, key.data
            if not isinstance(connection, socket.socket):
                raise TypeError
            if not channel.serve(connection):
                selector.unregister(connection)
                connection.close()


class _Channel:
    """One conversation: the shards that it knows, and where its pixels go."""

    def __init__(self, part: NDArray[np.uint8]) -> None:
        self._part = part
        self._shards: dict[int, int] = {}

    def serve(self, connection: socket.socket) -> bool:
        """Answer one request; say whether there was one."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                connection, MAX_PACKET_BYTES, MAX_NEW_SHARDS
            )
        except ConnectionResetError:
            return False  # the parent was killed with an answer of ours unread
        if not packet:
            return False
        numbers = np.frombuffer(packet, np.int64)
        height, width, channels, num_new, num_old, num_images, *words = numbers[:HEADER].tolist()
        cut = Cut.of_numbers(words[1:]) if words[0] else None
        names = numbers[HEADER:].tolist()
        self._shards.update(zip(names[:num_new], descriptors, strict=True))
        for name in names[num_new : num_new + num_old]:
            os.close(self._shards.pop(name))
        rows = names[num_new + num_old :]
        shape = (num_images, height, width, channels)
        pixels = self._part[: num_images * height * width * channels].reshape(shape)
        try:
            connection.sendall(self._decode(rows, pixels, cut))
        except (BrokenPipeError, ConnectionResetError):
            return False  # killed meanwhile
        return True

    def _decode(self, rows: list[int], pixels: NDArray[np.uint8], cut: Cut | None) -> bytes:
        files = [
            _read(self._shards[shard], size, offset)
            for shard, offset, size in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        ]
        if cut is not None:
            problems = shape_files(files, pixels, cut)
            return bytes(number not in problems for number in range(len(files)))
        try:
            decode_files(files, pixels, origin=str)
        except DataError:
            return bytes(_is_decoded(file, pixels[i : i + 1]) for i, file in enumerate(files))
        return b"\1" * len(files)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Return the file; nothing if it cannot be read: the parent then reads it, and reports."""
    try:
        return os.pread(descriptor, size, offset)
    except OSError:
        return b""


def _is_decoded(file: bytes, pixels: NDArray[np.uint8]) -> bool:
    try:
        decode_files([file], pixels, origin=str)
    except DataError:
        return False
    return True


if __name__ == "__main__":
    main()
