import gc
import shutil
import tarfile

import numpy as np
import pytest
import webdataset

from ddpm_core.config import SampleConfig
from ddpm_core.errors import DataError
from ddpm_core.sampling.units import (
    IMAGES_ROLE,
    Unit,
    check_archive,
    finished,
    first_images,
    publish,
    read_unit,
    units_of,
)
from ddpm_core.store.commit import write_file
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.units.units import manifest_name

SHAPE = (1, 4, 5)
UNIT = Unit(3, 24, 32)
FOLDER = "runs/r/samples/s"


def images(seed=0, *, num=8, shape=SHAPE):
    channels, height, width = shape
    return np.random.default_rng(seed).integers(0, 256, (num, height, width, channels), np.uint8)


def whole(*units: tuple[Unit, Manifest]) -> Manifest:
    files = {unit.role: made.files[IMAGES_ROLE] for unit, made in units}
    return Manifest(FOLDER, {}, files)


def test_units_cover_all_indices_once_and_only_the_last_is_smaller():
    """Catches: a remainder that is left out or rounded up."""
    units = units_of(SampleConfig(num_images=50, unit_size=20, batch_size=10))
    assert units == [Unit(0, 0, 20), Unit(1, 20, 40), Unit(2, 40, 50)]


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 6, 4)])
def test_a_unit_reads_back_as_it_was_published(store, shape):
    """Catches: height for width, or channels in another order."""
    made = publish(store, FOLDER, UNIT, images(shape=shape), seed=9)
    read = read_unit(store, whole((UNIT, made)), UNIT, shape)
    assert read.dtype == np.uint8
    assert np.array_equal(read, images(shape=shape))


@pytest.mark.parametrize(("dtype", "other"), [("uint8", "uint16"), ("uint16", "uint8")])
def test_an_archive_of_another_depth_is_refused(store, dtype, other):
    """Catches: samples of 8 bits in a run of 16, or the reverse, that `verify` calls whole."""
    made = publish(store, FOLDER, UNIT, images().astype(dtype), seed=9)
    assert len(check_archive(store, whole((UNIT, made)), UNIT, SHAPE, dtype)) == 8
    with pytest.raises(DataError, match=f"PNG of {other[4:]} bits"):
        check_archive(store, whole((UNIT, made)), UNIT, SHAPE, other)


# WebDataset leaves its last file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_unit_is_a_webdataset_tar_without_anything_of_the_moment(store):
    """Catches: times and users in the tar, names that WebDataset does not group."""
    made = publish(store, FOLDER, UNIT, images(), seed=9)
    path = store.local_path(f"{FOLDER}/{made.files[IMAGES_ROLE].name}")
    with tarfile.open(path) as archive:
        assert {(m.mtime, m.uname, m.gname, m.uid) for m in archive} == {(0, "ddpm", "ddpm", 0)}
    pipeline = webdataset.WebDataset(str(path), shardshuffle=False)
    samples = list(pipeline)
    del pipeline
    gc.collect()
    assert [sample["__key__"] for sample in samples] == [f"{i:08d}" for i in range(24, 32)]
    assert samples[1]["json"] == b'{"index":25,"seed":9}'
    # Pinned: other bytes for the same images would make resumed samples conflict.
    assert made.files[IMAGES_ROLE].sha256.startswith("071747e3a0d88a48")


def test_publishing_again_changes_nothing_and_the_first_of_two_others_counts(store):
    """Catches: a late worker (which may round otherwise) that overwrites or stops the stage."""
    first = publish(store, FOLDER, UNIT, images(0), seed=9)
    assert publish(store, FOLDER, UNIT, images(0), seed=9) == first
    assert publish(store, FOLDER, UNIT, images(1), seed=9) == first
    assert np.array_equal(read_unit(store, whole((UNIT, first)), UNIT, SHAPE), images(0))


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"x"])
@pytest.mark.parametrize("again", [0, 1])
def test_a_damaged_unit_is_not_finished_and_can_be_made_again(store, again, damage):
    """Catches: trusting a manifest whose file is broken, and a conflict when it is replaced."""
    made = publish(store, FOLDER, UNIT, images(0), seed=9)
    assert finished(store, FOLDER, [UNIT]) == {"000003": made}
    path = store.local_path(f"{FOLDER}/{made.files[IMAGES_ROLE].name}")
    path.write_bytes(damage(path.read_bytes()))
    if len(path.read_bytes()) == made.files[IMAGES_ROLE].size:
        # Its bytes are looked at when they are used, and then it is set aside.
        assert finished(store, FOLDER, [UNIT]) == {"000003": made}
        with pytest.raises(DamagedError):
            read_unit(store, whole((UNIT, made)), UNIT, SHAPE)
    assert finished(store, FOLDER, [UNIT]) == {}
    remade = publish(store, FOLDER, UNIT, images(again), seed=9)
    assert finished(store, FOLDER, [UNIT]) == {"000003": remade}
    assert np.array_equal(read_unit(store, whole((UNIT, remade)), UNIT, SHAPE), images(again))


def test_the_first_of_two_counts_only_while_it_is_whole(store):
    """Catches: a late worker that is sent away although what stands there is broken."""
    made = publish(store, FOLDER, UNIT, images(0), seed=9)
    store.delete(f"{FOLDER}/{made.files[IMAGES_ROLE].name}")
    remade = publish(store, FOLDER, UNIT, images(1), seed=9)
    assert np.array_equal(read_unit(store, whole((UNIT, remade)), UNIT, SHAPE), images(1))


def test_two_exchanged_units_are_not_finished(store):
    """Catches: images under each other's indices, by manifests that are whole."""
    other = Unit(4, 32, 40)
    publish(store, FOLDER, UNIT, images(0), seed=9)
    publish(store, FOLDER, other, images(1), seed=9)
    paths = [store.local_path(f"{FOLDER}/{manifest_name(unit)}") for unit in (UNIT, other)]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    assert finished(store, FOLDER, [UNIT, other]) == {}
    made = {unit.name: publish(store, FOLDER, unit, images(number), seed=9)
            for number, unit in enumerate((UNIT, other))}  # fmt: skip
    assert finished(store, FOLDER, [UNIT, other]) == made


def test_a_unit_of_other_samples_is_not_finished(store):
    """Catches: images of another sampler or of other weights, copied from their folder."""
    theirs = "runs/r/samples/t"
    publish(store, theirs, UNIT, images(1), seed=9)
    shutil.copytree(store.local_path(theirs), store.local_path(FOLDER))
    assert finished(store, FOLDER, [UNIT]) == {}
    assert finished(store, theirs, [UNIT]) != {}


def test_a_unit_without_its_manifest_is_not_finished(store):
    """Catches: taking a tar for finished because it is there."""
    other = Unit(4, 32, 40)
    write_file(store, FOLDER, other.name, ".tar", b"half")
    assert finished(store, FOLDER, [other]) == {}


def test_reading_refuses_changed_bytes_and_another_units_images(store):
    """Catches: images that are read without their digest, or under wrong indices."""
    made = publish(store, FOLDER, UNIT, images(), seed=9)
    with pytest.raises(DataError, match=r"that are not 00000032\.png to 00000039\.json"):
        read_unit(store, whole((Unit(3, 32, 40), made)), Unit(3, 32, 40), SHAPE)
    path = store.local_path(f"{FOLDER}/{made.files[IMAGES_ROLE].name}")
    path.write_bytes(path.read_bytes().replace(b'"seed":9', b'"seed":8'))
    with pytest.raises(DamagedError, match="SHA-256"):
        read_unit(store, whole((UNIT, made)), UNIT, SHAPE)


def test_first_images_reads_no_more_units_than_it_needs(store):
    """Catches: reading 50,000 images to show 100."""
    sample = SampleConfig(num_images=24, unit_size=8, batch_size=8)
    units = units_of(sample)
    made = [publish(store, FOLDER, unit, images(unit.number), seed=0) for unit in units[:2]]
    samples = whole(*zip(units, made, strict=False))
    found = first_images(store, samples, sample, SHAPE, 10)
    assert np.array_equal(found, np.concatenate([images(0), images(1)])[:10])
