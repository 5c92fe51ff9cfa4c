"""Data sets of a few random digits, as the shard stage leaves them, for tests of their names."""

from ddpm_core.runs import dataset_names
from ddpm_core.runs.results import DatasetPointer
from ddpm_core.shards.index import dataset_fingerprint
from tests.sharding.small import data_config, shard_dataset, splits


def made(store, name=None, *, num_train=10, licence=None, **changes):
    """Make one, give it a name, and return where it lies; other numbers are other images."""
    config = data_config(**changes)
    index = shard_dataset(store, config, splits(num_train=num_train))
    pointer = DatasetPointer(index.folder, index.body["fingerprint"])
    assert pointer.fingerprint == dataset_fingerprint(config, index.body["images_sha256"])
    if name is not None:
        dataset_names.give(store, name, pointer, source="/gone", licence=licence)
    return pointer
