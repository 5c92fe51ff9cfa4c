"""A source that has not changed is not read again, and one that is read is read once."""

import json
import os
import tarfile
import time

import numpy as np
import pytest

from ddpm_core.errors import DataError, RunConflictError
from ddpm_core.runs import layout
from ddpm_core.sharding import ahead
from ddpm_core.sharding.collection_worker import AheadTask, ScanTask
from ddpm_core.sharding.stage import run_shard
from ddpm_core.shards.index import load_index
from ddpm_core.sources import ledger, seals
from ddpm_core.sources.containers import marks
from ddpm_core.sources.containers.bucket import BucketFolder
from ddpm_core.sources.containers.folder import Folder
from ddpm_core.sources.containers.shard_files import ShardFiles
from ddpm_core.sources.containers.zipped import Zip
from ddpm_core.sources.glance import glance
from ddpm_core.sources.ledger import Look
from ddpm_core.store.commit import commit
from ddpm_core.store.disk import LocalStore
from ddpm_core.store.storage import open_store
from tests.fake_s3 import BUCKET
from tests.images.image_files import files, image_file, write_folder, write_zip
from tests.sampling.tiny import in_process
from tests.sharding.small import files_below, tar_of
from tests.sharding.test_collection import config_of, datasets_below

__all__ = ["in_process"]
pytest_plugins = ["tests.s3_fixtures"]

CONTAINERS = (Folder, Zip, ShardFiles, BucketFolder)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "a root"


@pytest.fixture
def store(root):
    return open_store(str(root))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos", files())


@pytest.fixture
def settled(monkeypatch):
    """What was written before a listing was written long before."""
    monkeypatch.setattr(marks, "now_ns", lambda: time.time_ns() + 60 * 10**9)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files of sources that are read, in their order."""
    names = []
    for container in CONTAINERS:

        def reading(self, entry, read=container.read):
            names.append(entry.name)
            return read(self, entry)

        monkeypatch.setattr(container, "read", reading)
    return names


def shards_of(tmp_path):
    """Two tars of WebDataset's, as others make them."""
    images = [image_file(seed) for seed in range(14)]
    place = tmp_path / "tars"
    place.mkdir()
    for number in range(2):
        members = {}
        for at in range(7 * number, 7 * (number + 1)):
            members |= {f"{at:04d}.png": images[at], f"{at:04d}.cls": b"%d" % (at % 2)}
        (place / f"set-{number}.tar").write_bytes(tar_of(members))
    return place


@pytest.mark.parametrize("kind", ["folder", "zip", "shards"])
def test_another_run_reads_no_byte_of_an_unchanged_source(
    kind, tmp_path, store, folder, settled, in_process, reads, monkeypatch
):
    """Catches a second run that reads all, and one that lists what its archives hold."""
    source = {
        "folder": lambda: folder,
        "zip": lambda: write_zip(tmp_path / "photos.zip", files()),
        "shards": lambda: shards_of(tmp_path),
    }[kind]()
    made = run_shard(store, config_of(source))
    assert len(reads) == 14
    assert {type(unit) for unit in in_process.units} == {AheadTask}
    in_process.units.clear()
    other = config_of(source).replaced({"name": "other"})
    with monkeypatch.context() as patch:
        for container in CONTAINERS:
            patch.setattr(container, "read", lambda *_: pytest.fail("reads a file"))
        for container in (Zip, ShardFiles):
            patch.setattr(container, "entries", lambda *_: pytest.fail("lists an archive"))
        assert run_shard(store, other) == made
        found = glance(other.data, cache=tmp_path, store=store)
    assert in_process.units == []
    assert found == glance(other.data, cache=tmp_path)
    assert not any(name.startswith("making") for name in files_below(tmp_path / "a root"))
    # Another cut of the same files: their digests are known, and each is read once, to be made.
    reads.clear()
    run_shard(store, other.replaced({"name": "third", "data.images_per_shard": 5}))
    assert len(reads) == 14


def test_what_has_changed_is_read_alone(store, folder, settled, in_process, reads):
    """Catches a whole source that is read for one of its files; and a change that goes unnoticed
    since the file's length and time are what they were."""
    before = run_shard(store, config_of(folder))
    path = folder / "train/cat/003.png"
    times, content = path.stat(), path.read_bytes()
    path.write_bytes(image_file(99))
    assert len(image_file(99)) == len(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    reads.clear()
    in_process.units.clear()
    after = run_shard(store, config_of(folder).replaced({"name": "other"}))
    assert after != before
    assert [len(unit.items) for unit in in_process.units if isinstance(unit, ScanTask)] == [1]
    assert reads[0] == "train/cat/003.png"
    # As it was before: again it alone is read, and the first data set is found.
    path.write_bytes(content)
    reads.clear()
    assert run_shard(store, config_of(folder).replaced({"name": "third"})) == before
    assert reads == ["train/cat/003.png"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_was_written_just_now_or_by_a_clock_ahead_is_read_again(
    kind, tmp_path, store, folder, in_process, reads, caplog, monkeypatch
):
    """Catches a file that is written twice within one tick of a clock, and kept in the ledger."""
    place = folder if kind == "folder" else write_zip(tmp_path / "photos.zip", files())
    changed = folder / "train/dog/002.png" if kind == "folder" else place
    written_ns = max(marks.times_of(changed.stat()))
    monkeypatch.setattr(marks, "now_ns", lambda: written_ns + marks.COARSE_NS - 1)
    made = run_shard(store, config_of(place))
    assert "files nothing shows for sure that they have not changed" in caplog.text
    # Its time is settled by now, and what was read then may have been what was written before.
    monkeypatch.setattr(marks, "now_ns", lambda: written_ns + 10**12)
    reads.clear()
    assert run_shard(store, config_of(place).replaced({"name": "other"})) == made
    assert "train/dog/002.png" in reads
    # By a clock that was set back, or of another machine, it was written just now.
    monkeypatch.setattr(marks, "now_ns", lambda: written_ns)
    reads.clear()
    assert run_shard(store, config_of(place).replaced({"name": "another"})) == made
    assert "train/dog/002.png" in reads
    # Long after, by the time of a clock that is ahead; of a folder it is one file.
    os.utime(changed, ns=(written_ns + 10**13, written_ns + 10**13))
    monkeypatch.setattr(marks, "now_ns", lambda: written_ns + 10**12)
    for name in ("third", "fourth"):
        reads.clear()
        assert run_shard(store, config_of(place).replaced({"name": name})) == made
    assert reads == ["train/dog/002.png"] if kind == "folder" else len(reads) == 14


def test_of_files_from_long_ago_one_with_a_time_in_the_future_is_read(monkeypatch):
    """Catches a comparison with the wrong sign, and one of the content's time alone."""
    now = 10**18
    times = np.array([[1, 2], [now - marks.COARSE_NS, 5], [5, now - 1], [now + 9, 5]])
    assert marks.of_times(times, now).are_trusted.tolist() == [True, True, False, False]


@pytest.mark.parametrize("damage", ["flipped", "cut", "another's", "newer"])
@pytest.mark.parametrize("suffix", [".files", ".json"])
def test_a_ledger_that_is_no_use_is_one_sentence(
    damage, suffix, tmp_path, store, root, settled, in_process, reads, caplog
):
    """Catches a traceback, a wrong data set, and a run that is in the way until it is deleted."""
    source = shards_of(tmp_path)
    made = run_shard(store, config_of(source))
    (path,) = (one for one in (root / "ledgers").iterdir() if one.suffix == suffix)
    if suffix == ".files":
        next(one for one in (root / "ledgers").iterdir() if one.suffix == ".json").unlink()
    good = path.read_bytes()
    damaged = {
        "flipped": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
        "cut": good[:40],
        "another's": good.replace(str(source).encode(), b"/elsewhere"),
        "newer": good.replace(b'"format":1', b'"format":2'),
    }[damage]
    path.write_bytes(damaged)
    reads.clear()
    assert run_shard(store, config_of(source).replaced({"name": "other"})) == made
    assert len(reads) == (14 if suffix == ".files" else 0)  # the one stands in for the other
    assert caplog.text.count(f"{path.name} is no ") == 1
    assert path.read_bytes() == good


def test_recheck_reads_all_and_refuses_what_has_changed(store, folder, settled, in_process, reads):
    """Catches a flag that the ledger, the seal or "done already" overrules."""
    made = run_shard(store, config_of(folder))
    for name in ("other", "images"):  # of a run without its data set, and of one that has it
        reads.clear()
        assert run_shard(store, config_of(folder, recheck=True).replaced({"name": name})) == made
        assert len(reads) == 14
    assert json.loads(store.read("runs/other/run.json"))["data"]["recheck"] is False
    (folder / "train/cat/003.png").write_bytes(image_file(99))
    assert run_shard(store, config_of(folder)) == made
    with pytest.raises(RunConflictError, match=r"to be checked, and the images .* are others"):
        run_shard(store, config_of(folder, recheck=True))


@pytest.mark.parametrize("when", ["before", "after"])
def test_archives_that_change_while_they_are_read_are_no_data_set(
    when, tmp_path, store, root, settled, in_process, monkeypatch
):
    """Catches a data set of two states of a source, a ledger that keeps it, and an archive that is
    replaced and reads as a list of damaged images."""
    source = shards_of(tmp_path)
    good = (source / "set-1.tar").read_bytes()
    whole = in_process.map_units

    def changing(*arguments, **words):
        if when == "before":
            (source / "set-1.tar").write_bytes(bytes(len(good)))
        whole(*arguments, **words)
        if when == "after":
            (source / "set-1.tar").write_bytes(good)

    with monkeypatch.context() as patch:
        patch.setattr("ddpm_core.cluster.map_units", changing)
        with pytest.raises(DataError, match=r"has changed while it was read; let nothing write"):
            run_shard(store, config_of(source))
    assert {name.partition("/")[0] for name in files_below(root)} == {"making", "ledgers"}
    assert not list((root / "ledgers").glob("*.json"))
    (source / "set-1.tar").write_bytes(good)
    made = run_shard(store, config_of(source))
    assert load_index(store, made).num_images == {"train": 13, "test": 1}


class Killed(BaseException):
    pass


KILLS = [
    ("write", "making/", 0),
    ("write", "making/", 3),
    ("create", "making/", 2),
    ("write", "ledgers/", 0),
    ("copy", "making/", 0),
    ("copy", "making/", 3),
    ("create", "datasets/", 1),
    ("delete", "making/", 0),
    ("delete", "making/", 3),
    ("create", "datasets/", 5),
    ("delete", "making/", 10),
]


@pytest.mark.parametrize(("operation", "below", "survived"), KILLS)
def test_killed_anywhere_what_was_made_counts_and_nothing_is_left_over(
    operation, below, survived, tmp_path, root, folder, settled, in_process, reads, monkeypatch
):
    """Catches a start that reads again what shards were made of, ends with other bytes, or leaves
    what it made ahead."""
    whole = open_store(str(tmp_path / "whole"))
    run_shard(whole, config_of(folder))
    done, counted = getattr(LocalStore, operation), []

    def dying(self, key, *arguments, **words):
        if key.startswith(below) and self.uri == str(root):
            counted.append(key)
            if len(counted) > survived:
                raise Killed
        return done(self, key, *arguments, **words)

    reads.clear()
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, operation, dying)
        with pytest.raises(Killed):
            run_shard(open_store(str(root)), config_of(folder))
    finished = {name for name in files_below(root) if name.endswith(".json")}
    num_kept = sum(ROLES[role] for role in ROLES if any(one.endswith(role) for one in finished))
    if below != "making/" or operation in ("copy", "delete"):
        assert num_kept == 14  # all are made: none is lost on its way to the data set
    reads.clear()
    run_shard(open_store(str(root)), config_of(folder))
    assert len(reads) == 14 - num_kept
    assert datasets_below(root) == datasets_below(tmp_path / "whole")
    assert not any(name.startswith("making") for name in files_below(root))


ROLES = {
    "/train-000000.json": 4,
    "/train-000001.json": 4,
    "/train-000002.json": 1,
    "/test-000000.json": 4,
    "/test-000001.json": 1,
}


@pytest.mark.parametrize("at", [1, 4, "adopting"])
def test_two_that_make_the_same_do_each_other_no_harm(
    at, tmp_path, root, store, folder, settled, in_process, monkeypatch
):
    """Catches a command whose shards another one takes, or clears away, while it makes them."""
    run_shard(open_store(str(tmp_path / "whole")), config_of(folder))
    other, whole = config_of(folder).replaced({"name": "other"}), in_process.map_units
    begun, ended = [], []

    def meanwhile():
        if not begun:
            begun.append(True)
            ended.append(run_shard(open_store(str(root)), other))

    def interrupted(make_worker, payload, units, compute, *, on_done):
        seen = []

        def counting(unit, result):
            on_done(unit, result)
            seen.append(unit)
            if len(seen) == at:
                meanwhile()

        whole(make_worker, payload, units, compute, on_done=on_done if begun else counting)

    copy = LocalStore.copy

    def copying(self, key, to):
        if at == "adopting":
            monkeypatch.setattr(LocalStore, "copy", copy)
            meanwhile()
        copy(self, key, to)

    monkeypatch.setattr("ddpm_core.cluster.map_units", interrupted)
    monkeypatch.setattr("ddpm_core.sharding.collection._NUM_ADOPTING", 1)
    monkeypatch.setattr(LocalStore, "copy", copying)
    made = run_shard(store, config_of(folder))
    assert ended == [made]
    assert datasets_below(root) == datasets_below(tmp_path / "whole")
    assert not any(name.startswith("making") for name in files_below(root))


def test_shards_are_the_same_bytes_ahead_or_not(tmp_path, folder, in_process, monkeypatch):
    """Catches a pass of its own that numbers, rejects or notes otherwise."""
    write_folder(folder, {"test/dog/cut.png": image_file(1)[:-30], "train/cat/empty.png": b""})
    (folder / "train/dog/002.png").rename(folder / "train/dog/002.JPEG")
    config = config_of(folder, on_bad="skip", max_bad_share=0.3)
    run_shard(open_store(str(tmp_path / "ahead")), config)
    assert {type(unit) for unit in in_process.units} == {AheadTask}
    monkeypatch.setattr("ddpm_core.sharding.of_source.may_be_there", lambda *_: True)
    in_process.units.clear()
    run_shard(open_store(str(tmp_path / "looked at")), config)
    assert AheadTask not in {type(unit) for unit in in_process.units}
    made = datasets_below(tmp_path / "ahead")
    assert made == datasets_below(tmp_path / "looked at")
    (index,) = (json.loads(data) for name, data in made.items() if name.endswith("index.json"))
    assert index["body"]["notes"] == {"PNG files that are named as another kind": 1}
    assert len(index["body"]["rejected"]) == 2


@pytest.mark.parametrize("body", [{}, {"num_images": 14}, {"num_images": {"all": [14]}}])
def test_an_index_of_another_version_is_no_data_set_of_these(store, folder, in_process, body):
    """Catches a traceback of each shard command below a root that a later version uses too."""
    theirs = {"format_version": 99, **body}
    commit(store, "datasets/images-0123456789abcdef", {}, theirs, name=layout.DATASET_INDEX)
    made = run_shard(store, config_of(folder))
    assert load_index(store, made).num_images == {"train": 9, "test": 5}


def test_no_shard_is_made_once_too_many_files_are_bad(store, root, folder, in_process):
    """Catches hours of making for a source that is refused; and a list that ends at the first."""
    write_folder(folder, dict.fromkeys([f"train/cat/0{n}.png" for n in "ab"], b"bad"))
    write_folder(folder, {"train/dog/z.png": b"bad"})
    with pytest.raises(DataError, match="3 of the 17 images"):
        run_shard(store, config_of(folder))
    wanted = [unit.is_wanted for unit in in_process.units]
    assert wanted[0]
    assert not wanted[-1]
    assert sum(wanted) == len(list((root / "making").rglob("*.tar")))
    # Mended, what was made of files that have not changed counts.
    for name in ("train/cat/0a.png", "train/cat/0b.png", "train/dog/z.png"):
        (folder / name).write_bytes(image_file(7))
    made = run_shard(store, config_of(folder))
    assert load_index(store, made).num_images == {"train": 12, "test": 5}


def test_what_nobody_comes_back_for_is_deleted(store, root, folder, in_process, monkeypatch):
    """Catches shards made ahead that lie there for ever, and those of a command that is at work."""
    for name in ("images-old", "images-young", "images-odd"):
        store.write(f"making/{name}/train-000000-{'0' * 16}.tar", b"x")
    ahead.begin(store, "making/images-young")
    long_ago_s = time.time() - ahead.LEFT_FOR_S - 9
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: long_ago_s)
        ahead.begin(store, "making/images-old")
    run_shard(store, config_of(folder))
    assert {path.name for path in (root / "making").iterdir() if any(path.iterdir())} == {
        "images-young"
    }


def test_a_bucket_is_listed_and_an_object_is_read_once(
    store, tmp_path, s3_server, in_process, monkeypatch
):
    """Catches a second download, by the making or by another run; and a stale ETag."""
    s3_server.objects.update({f"photos/{name}": data for name, data in files().items()})
    source, got = f"s3://{BUCKET}/photos", []

    def noting(method, key, answer):
        if method == "GET" and key:
            got.append(key)
        return answer()

    s3_server.fault = noting
    made = run_shard(store, config_of(source))
    assert sorted(got) == sorted(s3_server.objects)
    got.clear()
    assert run_shard(store, config_of(source).replaced({"name": "other"})) == made
    assert got == []
    s3_server.objects["photos/train/cat/003.png"] = image_file(99)
    run_shard(store, config_of(source).replaced({"name": "third"}))
    assert got.count("photos/train/cat/003.png") == 2
    # A server without ETags shows nothing: all is read.
    got.clear()
    monkeypatch.setattr(s3_server, "tag_of", lambda _key: "")
    run_shard(store, config_of(source).replaced({"name": "fourth"}))
    assert sorted(got) == sorted(s3_server.objects)


def test_an_object_that_is_replaced_while_the_bucket_is_read_is_refused(
    store, root, s3_server, in_process
):
    """Catches an object of the same length, which its length does not give away."""
    s3_server.objects.update({f"photos/{name}": data for name, data in files().items()})

    def replacing(method, key, answer):
        if method == "GET" and key:
            s3_server.objects["photos/train/dog/008.png"] = image_file(99)
        return answer()

    s3_server.fault = replacing
    with pytest.raises(DataError, match=r"train/dog/008\.png.*has changed while the source was"):
        run_shard(store, config_of(f"s3://{BUCKET}/photos"))
    assert not (root / "datasets").exists()


def test_archives_in_a_bucket_are_known_where_they_were_never_fetched(
    store, tmp_path, s3_server, in_process, monkeypatch
):
    """Catches another machine that downloads a terabyte to find what is there already."""
    for path in shards_of(tmp_path).iterdir():
        s3_server.objects[f"tars/{path.name}"] = path.read_bytes()
    made = run_shard(store, config_of(f"s3://{BUCKET}/tars"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "another machine"))
    s3_server.fault = lambda method, key, answer: (
        pytest.fail("downloads") if method == "GET" and key else answer()
    )
    again = config_of(f"s3://{BUCKET}/tars").replaced({"name": "other"})
    assert run_shard(store, again) == made


def test_one_changed_archive_is_read_alone(tmp_path, store, settled, in_process, reads):
    """Catches a ledger whose tokens are of all archives, or of a number of an archive."""
    source = shards_of(tmp_path)
    run_shard(store, config_of(source))
    with tarfile.open(source / "set-0.tar") as tar:
        names = tar.getnames()
    os.utime(source / "set-1.tar")
    (source / "set-1.tar").rename(source / "a-set.tar")
    reads.clear()
    run_shard(store, config_of(source).replaced({"name": "other"}))
    looked = set(reads[:7])
    assert {name.partition("/")[0] for name in looked} == {"a-set"}
    assert not {name.rpartition("/")[2] for name in looked} & set(names)


def test_a_ledger_finds_rows_by_their_tokens():
    """Catches tokens that end in zeros, rows of others, and what was said of another file."""
    tokens = np.array([b"b" * 15, b"a" * 16, b"c" * 16], "S16")
    sha256s = np.arange(96, dtype=np.uint8).reshape(3, 32)
    said = {0: Look(b"", "bad", None, False), 2: Look(b"", None, "odd", True)}
    found = ledger.table(tokens, sha256s, said)
    again = ledger._parsed(found.to_bytes("here"), "here")
    for one in (found, again):
        rows = one.rows(np.array([b"c" * 16, b"d" * 16, b"b" * 15, b"a" * 16, b""], "S16"))
        assert (rows >= 0).tolist() == [True, False, True, True, False]
        known = rows[[0, 2, 3]]
        np.testing.assert_array_equal(one.sha256s(known), sha256s[[2, 0, 1]])
        assert one.said(known) == [
            (0, Look(sha256s[2].tobytes(), None, "odd", True)),
            (1, Look(sha256s[0].tobytes(), "bad", None, False)),
        ]


def test_the_seal_of_a_url_is_its_digest(monkeypatch):
    """Catches a download to see whether what is pinned has changed."""
    data = config_of("https://host/a.zip", source_sha256="a" * 64).data
    assert seals.seal_of(data).is_trusted
    assert seals.seal_of(data) != seals.seal_of(data.model_copy(update={"source_sha256": "b" * 64}))
