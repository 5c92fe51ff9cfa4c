"""Kills for the campaign: commands that make, name, mix, let grow and delete data sets.

Each is struck once to three times, at calls that change a file or at a moment, and given again.
Right is: everything below the root is what it is after a command that nothing happened to, byte for
byte. And after each strike: every name means one whole data set, that of `faces` from before among
them, and a training on that one goes on to the same weights.
"""

import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.datasets.deletion import delete_dataset
from ddpm_core.errors import ConfigError, PipelineError
from ddpm_core.loading.cache import FOLDER_VARIABLE
from ddpm_core.runs import layout, results
from ddpm_core.runs.dataset_names import NamedSet, lineage, names
from ddpm_core.runs.deletion import delete_run
from ddpm_core.runs.run import begin_stage, configure
from ddpm_core.sharding.stage import run_shard
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import load_index
from ddpm_core.sources.containers import marks
from ddpm_core.store.durable import is_temporary
from ddpm_core.store.storage import Store, open_store, sha256_of
from ddpm_core.training.worker import train_rank
from tests.faults.child import CRASHED, KILLED, Ended, in_child
from tests.faults.kill_points import Interruption
from tests.images.image_files import image_file, write_folder, write_zip
from tests.training.small import CPU

_ERRORS = ("ENOSPC", "EIO")
MODES = ("kill before", "kill after", "torn write", "moment", *_ERRORS)
_NEVER = 10**9
_PINNED = re.compile(rb'(?<="append_to": "faces)@[0-9a-f]{16}')
"""in run.json: after its last step an append begins with what it has made itself"""
_TRAINED, _MORE = "first", "more"
_DATA = {"height": 8, "width": 8, "images_per_shard": 4, "num_test_images": 2}
_SMALL = {
    "model.base_channels": 8,
    "model.channel_mults": [1],
    "model.num_res_blocks": 1,
    "model.num_groups": 4,
    "model.attention_resolutions": [],
    "diffusion.num_timesteps": 24,
    "train.num_steps": 6,
    "train.global_batch_size": 4,
    "train.checkpoint_every": 3,
    "train.keep_checkpoints": 3,
    "evaluate.num_likelihood_images": 2,
    "compute.num_workers": 1,
}


def config_of(store: Store, run: str, **data: Any) -> RunConfig:
    """Return a run of own images; `source="/a"` is `data.source`."""
    given = {f"data.{key}": value for key, value in data.items()}
    return configure("images", root=store.uri, run=run, changes={**_SMALL, **given})[1]


def shard(store: Store, config: RunConfig) -> None:
    """Shard, as the command does."""
    begin_stage(store, config)
    run_shard(store, config)


def train(store: Store, config: RunConfig) -> None:
    """Shard and train, without Ray and MLflow."""
    shard(store, config)
    train_rank(store, config, cluster.Place(rank=0, world_size=1, device=CPU))


def append(store: Store, folder: Path) -> None:
    """Let `faces` grow by what its own folder has besides."""
    source = str(folder / "my photos")
    shard(store, config_of(store, _MORE, append_to="faces", source=source))


def append_others(store: Store, folder: Path) -> None:
    """Let `faces` grow by what an archive has, of which some images are there already."""
    source = str(folder / "others.zip")
    shard(store, config_of(store, _MORE, append_to="faces", source=source))


def first_making(store: Store, folder: Path) -> None:
    """Make a data set of an archive: a ledger and a seal are written."""
    source = str(folder / "others.zip")
    shard(store, config_of(store, _MORE, source=source, set_name="others", **_DATA))


def naming(store: Store, folder: Path) -> None:
    """Give `flowers` another name, and a note on its licence."""
    data = {**_DATA, "set_name": "plants", "licence": "CC0"}
    shard(store, config_of(store, _MORE, source=str(folder / "plants.zip"), **data))


def mixture(store: Store, _folder: Path) -> None:
    """Train on two data sets with weights."""
    train(store, config_of(store, _MORE, sets="faces:0.7,flowers:0.3"))


def part(store: Store, _folder: Path) -> None:
    """Use two classes of two data sets, without duplicates."""
    chosen = {"only_classes": ["cat", "rose"], "duplicates": "drop"}
    shard(store, config_of(store, _MORE, sets="faces,flowers", **chosen))


def deletion(store: Store, _folder: Path) -> None:
    """Delete a data set that grew, and that no run uses; a second start may find it gone."""
    try:
        delete_dataset(store, "flowers", confirmed=True)
    except ConfigError as error:
        if "there is no data set 'flowers'" not in str(error):
            raise


KINDS: dict[str, Callable[[Store, Path], None]] = {
    "append": append,
    "append of another source": append_others,
    "making, ledger and seal": first_making,
    "naming": naming,
    "mixture": mixture,
    "part": part,
    "deletion": deletion,
}


class DataCampaign:
    """Strikes at commands on copies of a root with two data sets and a half-trained run."""

    def __init__(self, folder: Path) -> None:
        """Take an empty folder for roots and sources."""
        self._folder, self._whole = folder, folder / "whole"
        self._faces: NamedSet
        self._files: dict[str, dict[str, str]] = {}
        """by command: what lies below the root, if nothing happens to it"""
        self._num_calls: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._weights: dict[str, str] = {}

    def prepare(self) -> None:
        """Make the root, and what each command makes of it."""
        with self._surroundings():
            store = open_store(str(self._whole))
            self._make_sets(store)
            config = config_of(store, _TRAINED, sets="faces")
            train(store, config)
            self._faces = lineage(store, "faces")[0]
            self._weights = _weights(store)
            shutil.rmtree(self._whole / layout.checkpoint_folder(_TRAINED, config.train.num_steps))
            write_folder(self._folder / "my photos", _images("bee", 5) | _images("cat", 9))
            for kind in KINDS:
                root = self._copy()
                ended = self._run(kind, root, Interruption("", _NEVER))
                if ended.status:
                    raise AssertionError(f"{kind}: {ended.said}")
                self._files[kind] = _files_below(root)
                self._num_calls[kind] = int((self._folder / "calls").read_text())
                self._seconds[kind] = ended.seconds

    def strike(self, kind: str, rng: random.Random) -> tuple[str, str, str, float]:
        """Strike at a command, and give it again; return what was done, how it ended, and why."""
        with self._surroundings():
            root, did, slowest = self._copy(), [], 0.0
            store = open_store(str(root))
            for _ in range(rng.randint(1, 3)):
                mode, at = rng.choice(MODES), rng.randrange(self._num_calls[kind])
                moment = rng.uniform(0, self._seconds[kind]) if mode == "moment" else None
                did.append(f"{mode} {at}" if moment is None else f"after {moment:.3f} s")
                at = at if moment is None else _NEVER
                ended = self._run(kind, root, Interruption(mode, at), kill_after_s=moment)
                if ended.status == CRASHED or (ended.status == KILLED and mode in _ERRORS):
                    return ", ".join(did), "TRACEBACK or no end", ended.said, ended.seconds
                if wrong := self._wrong(store, kind):
                    return ", ".join(did), "WRONG after a strike", wrong, ended.seconds
            ended = self._run(kind, root, Interruption("", _NEVER))
            outcome, said = self._outcome(kind, root, ended)
            return ", ".join(did), outcome, said, max(slowest, ended.seconds)

    def _outcome(self, kind: str, root: Path, ended: Ended) -> tuple[str, str]:
        if ended.status:
            return f"REFUSED with {ended.status}", ended.said
        files, expected = _files_below(root), self._files[kind]
        if files != expected:
            keys = files.keys() | expected.keys()
            other = sorted(key for key in keys if files.get(key) != expected.get(key))
            return "OTHER FILES", ", ".join(other)
        store = open_store(str(root))
        if wrong := self._wrong(store, kind):
            return "WRONG at the end", wrong
        again = in_child(lambda: train(store, config_of(store, _TRAINED, sets="faces")), root)
        if again.status or _weights(store) != self._weights:
            return "OTHER WEIGHTS of what was trained before", again.said
        return "same bytes", ""

    def _wrong(self, store: Store, kind: str) -> str:
        """Return what is wrong with the names below a root and what they mean."""
        if self._faces not in lineage(store, "faces"):
            return "faces does not mean what it meant"
        for one in [one for name in names(store) for one in lineage(store, name)]:
            if kind == "deletion" and one.name == "flowers":
                continue
            try:
                index = load_index(store, one.pointer.folder, one.pointer.fingerprint)
                problems = problems_of(store, index)
            except PipelineError as error:
                problems = [str(error)]
            if problems:
                return f"{one.pinned}: {problems[0]}"
        return ""

    def _run(
        self, kind: str, root: Path, struck: Interruption, *, kill_after_s: float | None = None
    ) -> Ended:
        def work() -> None:
            struck.install()
            KINDS[kind](open_store(str(root)), self._folder)
            (self._folder / "calls").write_text(str(struck.seen))

        return in_child(work, self._folder, kill_after_s)

    def _make_sets(self, store: Store) -> None:
        photos = write_folder(self._folder / "my photos", _images("cat", 8) | _images("owl", 4))
        same = {f"owl/same-{at}.png": data for at, data in enumerate(_images("owl", 2).values())}
        write_zip(self._folder / "others.zip", _images("bee", 7) | same)
        plants = _images("rose", 6) | _images("cat", 3)
        plants = write_zip(self._folder / "plants.zip", plants)
        for name, source in (("faces", photos), ("flowers", plants)):
            run_shard(store, config_of(store, name, source=str(source), set_name=name, **_DATA))
            delete_run(store, name, confirmed=True)
        more = str(write_zip(self._folder / "roses.zip", _images("tulip", 4)))
        run_shard(store, config_of(store, "grown", source=more, append_to="flowers"))
        delete_run(store, "grown", confirmed=True)

    def _copy(self) -> Path:
        root = self._folder / "struck"
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(self._whole, root))

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(FOLDER_VARIABLE, str(self._folder / "cache"))
            # Files that were written just now are trusted by no ledger.
            patch.setattr(marks, "now_ns", lambda: time.time_ns() + 60 * 10**9)
            yield


def _images(kind: str, count: int) -> dict[str, bytes]:
    return {f"{kind}/{at:02d}.png": image_file(100 * ord(kind[0]) + at) for at in range(count)}


def _weights(store: Store) -> dict[str, str]:
    done = results.final_checkpoint(store, config_of(store, _TRAINED, sets="faces"))
    return {} if done is None else {role: one.sha256 for role, one in done.files.items()}


def _files_below(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): sha256_of(_PINNED.sub(b"", path.read_bytes()))
        for path in sorted(root.rglob("*"))
        # What a killed process has not finished goes with the next write beside it.
        if path.is_file() and not is_temporary(path.name) and path.name != "begun.json"
    }
