"""Shards and images that are damaged, exchanged or cut: named, and never taken for images."""

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_core.errors import DataError
from ddpm_core.loading.loader import load_split
from ddpm_core.shards.index import load_index
from tests.loading.streams import (
    FOLDER,
    RemoteStore,
    encoded,
    foreign_index,
    numbers,
    pixels_of,
    smooth,
)
from tests.sharding.small import data_config, shard_dataset, splits

DAMAGE = {
    "a bit": lambda data, _other: data[:700] + bytes([data[700] ^ 4]) + data[701:],
    "the last bit": lambda data, _other: data[:-1] + b"\x01",
    "cut": lambda data, _other: data[:-512],
    "empty": lambda _data, _other: b"",
    "another shard": lambda _data, other: other,
    "missing": lambda _data, _other: None,
}


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_named_when_it_is_first_used(damage, remote, store):
    """Catches images out of a file that is not what was committed, and errors without its name."""
    index, _ = foreign_index(store, [3, 3, 3], kind="PNG")
    paths = [store.local_path(f"{FOLDER}/train-00000{number}.tar") for number in (0, 1)]
    bad = damage(paths[1].read_bytes(), paths[0].read_bytes())
    paths[1].unlink()
    if bad is not None:
        paths[1].write_bytes(bad)
    used = RemoteStore(Path(store.uri)) if remote else store
    with closing(load_split(used, index, "train")) as images:
        assert len(images.take(numbers(0, 2, 6, 8))) == 4
        told = r"train-000001\.tar is (damaged: expected .* found|missing).*the shard stage"
        for _ in range(2):
            with pytest.raises(DataError, match=told):
                images.take(numbers(0, 4))


def test_a_shard_that_is_replaced_while_it_is_open_stays_what_it_was(store):
    """Catches a verified name whose file somebody exchanges later."""
    index, files = foreign_index(store, [3, 3])
    path = store.local_path(f"{FOLDER}/train-000000.tar")
    with closing(load_split(store, index, "train")) as images:
        before = images.take(numbers(0, 1, 2))
        path.unlink()
        path.write_bytes(store.read(f"{FOLDER}/train-000001.tar"))
        assert torch.equal(images.take(numbers(0, 1, 2)), before)
    assert np.array_equal(before[0].numpy(), pixels_of(files[0]))


def test_a_shard_that_is_cut_while_it_is_open_is_named(store):
    """Catches SIGBUS, and zeros taken for pixels."""
    folder = shard_dataset(store, data_config(), splits()).folder
    with closing(load_split(store, load_index(store, folder), "train")) as images:
        images.take(numbers(0))
        os.truncate(store.local_path(f"{folder}/train-000000.tar"), 700)
        with pytest.raises(DataError, match=r"train-000000\.tar ends within the .* was cut"):
            images.take(numbers(1))


SPOILT = {
    "no image": lambda _file: b"no image at all",
    "cut": lambda file: file[: len(file) // 2],
    "another size": None,
}


@pytest.mark.parametrize("name", SPOILT)
def test_an_image_that_cannot_be_decoded_is_named(name, store):
    """Catches the pixels of the image before it in its place; the others are still right."""

    def spoil(number, file):
        if number != 4:
            return file
        spoilt = SPOILT[name]
        return spoilt(file) if spoilt else encoded(smooth(4, (12, 16, 3)), "PNG")

    index, files = foreign_index(store, [3, 3], kind="PNG", spoil=spoil)
    with closing(load_split(store, index, "train")) as images:
        with pytest.raises(DataError, match=r"train-000001\.tar: train-00000004"):
            images.take(numbers(3, 4, 5))
        got = images.take(numbers(3, 5))
        assert np.array_equal(got[1].numpy(), pixels_of(files[5]))
