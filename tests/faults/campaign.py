"""A campaign of faults against small runs: kills, damage and swaps, drawn by a seed.

    make faults ARGS="--seconds 600 --seed 0"

Each event happens to a copy of a finished run, or to the process that makes one. Then the stages
are started again, as often as their errors allow, and what they end with is compared with the run
that nothing happened to. Right is: the same bytes; or a refusal in one sentence, after which, with
the damage taken back, the same bytes. Wrong is: other bytes with exit code 0, a traceback, no end.
"""

import argparse
import contextlib
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.runs import base, begun, going_on, layout, results
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import Manifest, load
from ddpm_core.store.storage import Store, open_store, sha256_of
from ddpm_core.training import start
from ddpm_core.training.storing import checkpoint
from ddpm_core.training.worker import train_rank
from ddpm_core.verifying.verify import verify
from tests.faults import damage, data_kills, flow_kills, kill_storing, swaps
from tests.faults.child import CRASHED, KILLED, in_child
from tests.faults.data_kills import DataCampaign
from tests.sampling.tiny import RecordingTracker, record_tracking, run_in_process
from tests.training.small import CPU, small_config

_ATTEMPTS = 3
UNIT_MANIFEST = re.compile(r"(bound|features)-[a-z]+-\d{6}\.json")
STAGES = ("shard", "train", "sample", "evaluate")


def config_of(name: str, **changes) -> RunConfig:
    """Return a run that takes two seconds from its images to its numbers."""
    return small_config(
        name=name,
        sample__num_images=16,
        sample__unit_size=4,
        sample__batch_size=4,
        sample__num_grid_images=9,
        sample__num_strip_images=2,
        evaluate__num_likelihood_images=8,
        evaluate__batch_size=16,
        evaluate__feature_steps=5,
        **changes,
    )


RUNS = {
    "a": config_of("a"),
    "b": config_of("b", train__seed=1),
    "c": config_of("c", data__num_test_images=400),
}
NEXT = config_of(
    "next", train__seed=2, train__num_steps=10, train__start_from="a:state",
    train__start_optimiser="kept",
)  # fmt: skip
"""begins from the first, and goes on for more steps"""
OTHER_SAMPLES = {"sample.sampler": "ddim"}
OTHER_NUMBERS = {"evaluate.seed": 1}


def finish(store: Store, config: RunConfig, upto: str = "evaluate") -> None:
    """Run the stages of a run, without Ray and MLflow."""
    for stage in STAGES[: STAGES.index(upto) + 1]:
        match stage:
            case "shard":
                run_shard(store, config)
            case "train":
                if checkpoint.complete(store, config) is None:
                    train_rank(store, config, cluster.Place(rank=0, world_size=1, device=CPU))
            case "sample":
                run_sample(store, config)
            case "evaluate":
                run_evaluate(store, config)


def go_on(store: Store) -> None:
    """Begin a run from another's weights, end it, and have it go on for more steps."""
    config = base.pinned(store, NEXT)
    run_shard(store, config)
    start.copy_base(store, config)
    for steps in (10, 15):
        recorded = begun.recorded(store, NEXT.name)
        if recorded is not None and steps >= recorded.train.num_steps:
            longer = config.replaced({"train.num_steps": steps})
            longer = going_on.as_on_record(store, longer)
            going_on.keep(store, longer)
            finish(store, longer, "train")


def manifests_of(store: Store, config: RunConfig) -> dict[str, Manifest]:
    """Return the manifests of the run's results, stage by stage."""
    found = {
        "shard": results.dataset_of(store, config),
        "train": results.final_checkpoint(store, config),
        "sample": results.samples_of(store, config),
        "evaluate": results.evaluation_of(store, config),
    }
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def results_of(store: Store, config: RunConfig) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of all that the run's results are, stage by stage."""
    return {
        stage: {role: record.sha256 for role, record in manifest.files.items()}
        for stage, manifest in manifests_of(store, config).items()
    }


def damaged_files(store: Store, config: RunConfig) -> list[Path]:
    """Return the files of the run's results and units whose bytes are not what was committed.

    Units that are set aside count as not there.
    """
    found = []
    made = manifests_of(store, config)
    folder = made["evaluate"].folder
    units = [
        load(store, folder, Expected({}), name=name)
        for name in store.names(folder)
        if UNIT_MANIFEST.fullmatch(name)
    ]
    for manifest in [*made.values(), *(unit for unit in units if unit is not None)]:
        for record in manifest.files.values():
            path = store.local_path(f"{manifest.folder}/{record.name}")
            if not path.exists() or sha256_of(path.read_bytes()) != record.sha256:
                found.append(path)
    return found


@dataclass
class Event:
    """What happened, and what came of it."""

    kind: str
    what: str
    outcome: str = ""
    seconds: float = 0.0
    verify_noticed: bool | None = None
    said: str = ""


@dataclass
class Campaign:
    """Events against copies of a finished world of three runs."""

    folder: Path
    rng: random.Random
    events: list[Event] = field(default_factory=list)

    @property
    def whole(self) -> Path:
        """The root that nothing happens to."""
        return self.folder / "whole"

    def prepare(self) -> None:
        """Make the runs, and other samples and numbers of the first beside its own."""
        store = open_store(str(self.whole))
        self.data = DataCampaign(self.folder / "data")
        self.data.prepare()
        for config in RUNS.values():
            store.write(layout.run_json_key(config.name), config.to_json().encode())
            finish(store, config)
        for changes in (OTHER_SAMPLES, OTHER_NUMBERS):
            finish(store, RUNS["a"].replaced(changes))
        self.expected = results_of(store, RUNS["a"])
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            finish(open_store(folder), RUNS["a"])
        self.run_s = time.monotonic() - began
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            shutil.copytree(self.whole, folder, dirs_exist_ok=True)
            began = time.monotonic()
            go_on(open_store(folder))
            self.going_on_s = time.monotonic() - began
            self.gone_on = self._gone_on(open_store(folder))

    def kill_going_on(self) -> None:
        """Kill the process in which a run begins from another and goes on, up to five times."""
        root = self._root()
        shutil.copytree(self.whole, root)
        store, times = open_store(str(root)), self.rng.randint(1, 5)
        event = Event("kill while going on", f"{times} time(s)")
        for _ in range(times):
            after_s = self.rng.uniform(0, self.going_on_s)
            in_child(lambda: go_on(store), self.folder, after_s)
        ended = in_child(lambda: go_on(store), self.folder)
        event.seconds, event.said = ended.seconds, ended.said
        same = ended.status == 0 and self._gone_on(store) == self.gone_on
        event.outcome = "same bytes" if same else f"WRONG, exit code {ended.status}"
        self.events.append(event)

    @staticmethod
    def _gone_on(store: Store) -> tuple[bytes, Manifest | None]:
        recorded = begun.recorded(store, NEXT.name)
        done = results.final_checkpoint(store, recorded) if recorded is not None else None
        return store.read(layout.run_json_key(NEXT.name)), done

    def kill(self) -> None:
        """Kill the process that makes the run, at a random moment, up to five times."""
        root = self._root()
        store, times = open_store(str(root)), self.rng.randint(1, 5)
        event = Event("kill", f"{times} time(s)")
        for _ in range(times):
            after_s = self.rng.uniform(0, self.run_s)
            in_child(lambda: finish(store, RUNS["a"]), self.folder, after_s)
        self._settle(event, store)

    def kill_storing(self) -> None:
        """Kill the process at a call of the thread that stores checkpoints, up to five times.

        Only once another step is done, if there is one: the state is no longer what is stored.
        """
        root = self._root()
        store, times = open_store(str(root)), self.rng.randint(1, 5)
        calls = [self.rng.randint(1, kill_storing.CALLS_OF_ONE + 2) for _ in range(times - 1)]
        calls.append(self.rng.randint(1, kill_storing.CALLS))
        event = Event("kill while a checkpoint is stored", f"at calls {calls}")
        for call in calls:
            in_child(lambda call=call: self._killed_storing(store, call), self.folder)
        self._settle(event, store)

    @staticmethod
    def _killed_storing(store: Store, call: int) -> None:
        kill_storing.install(call)
        finish(store, RUNS["a"], "train")

    def strike(self, kind: str, act: Callable[[Path, random.Random], str]) -> None:
        """Let something happen to a copy of the finished runs."""
        root = self._root()
        shutil.copytree(self.whole, root)
        event = Event(kind, act(root, self.rng))
        store = open_store(str(root))
        target = store.uri_of(layout.run_json_key("a"))
        noticed = in_child(lambda: verify(target), self.folder)
        event.verify_noticed = noticed.status != 0
        if noticed.status in (CRASHED, KILLED):
            event.outcome, event.said = "verify: traceback or no end", noticed.said
            self.events.append(event)
            return
        self._settle(event, store)

    def kill_data(self, kind: str) -> None:
        """Strike at a command that makes, names, mixes or deletes data sets."""
        what, outcome, said, seconds = self.data.strike(kind, self.rng)
        self.events.append(Event(f"data: {kind}", what, outcome, seconds, said=said))

    def kill_in_flows(self, count: int) -> None:
        """Kill one process of a whole flow, on a Ray of its own, as often as this."""
        whole = self.folder / "flow"
        whole.mkdir()
        flow_s = flow_kills.undisturbed(whole)
        expected = results_of(open_store(str(whole / "root")), flow_kills.CONFIG)
        for number in range(count):
            folder = self.folder / f"flow-{number}"
            folder.mkdir()
            what, outcome, seconds = flow_kills.kill_one(folder, self.rng, flow_s)
            if not outcome.isupper():
                same = results_of(open_store(str(folder / "root")), flow_kills.CONFIG) == expected
                outcome += "same bytes" if same else "WRONG"
            self.events.append(Event("kill in a flow", what, outcome, seconds))

    def _root(self) -> Path:
        root = self.folder / "struck"
        shutil.rmtree(root, ignore_errors=True)
        return root

    def _settle(self, event: Event, store: Store) -> None:
        """Start the stages again, and say what came of it."""
        for _ in range(_ATTEMPTS):
            ended = in_child(lambda: finish(store, RUNS["a"]), self.folder)
            event.seconds, event.said = max(event.seconds, ended.seconds), ended.said
            if ended.status in (0, CRASHED, KILLED):
                break
        if ended.status == 0:
            same = results_of(store, RUNS["a"]) == self.expected
            event.outcome = "same bytes" if same else "WRONG with exit code 0"
            if same and (damaged := damaged_files(store, RUNS["a"])):
                event.outcome = self._after_deleting(store, damaged, seen=event.verify_noticed)
        elif ended.status == KILLED:
            event.outcome = "NO END"
        elif ended.status == CRASHED:
            event.outcome = "TRACEBACK"
        else:
            event.outcome = self._after_restoring(store)
        self.events.append(event)

    def _after_deleting(self, store: Store, damaged: list[Path], *, seen: bool | None) -> str:
        """Do with files that nobody has read what `verify` says, and start again.

        A finished run is known by lengths; bytes are read by whoever builds on them.
        """
        if not seen:
            return "damaged, and verify did not see it"
        for path in damaged:
            path.unlink(missing_ok=True)
        ended = in_child(lambda: finish(store, RUNS["a"]), self.folder)
        same = ended.status == 0 and results_of(store, RUNS["a"]) == self.expected
        whole = same and not damaged_files(store, RUNS["a"])
        return "seen by verify, deleted: same bytes" if whole else "not made again"

    def _after_restoring(self, store: Store) -> str:
        """Put everything of the finished runs back over what stands there, and start again."""
        for path in Path(store.uri).rglob("*quarantined.json"):
            path.unlink()
        shutil.copytree(self.whole, store.uri, dirs_exist_ok=True)
        ended = in_child(lambda: finish(store, RUNS["a"]), self.folder)
        if ended.status != 0:
            return "REFUSED for ever"
        same = results_of(store, RUNS["a"]) == self.expected
        return "refused, restored: same bytes" if same else "LOST"

    def table(self) -> str:
        """Return how many events of each kind ended how."""
        counts = Counter((event.kind, event.outcome) for event in self.events)
        lines = [f"{'event':<34} {'outcome':<32} {'n':>4} {'slowest':>8} {'verify saw':>10}"]
        for (kind, outcome), count in sorted(counts.items()):
            own = [one for one in self.events if (one.kind, one.outcome) == (kind, outcome)]
            slowest = max(one.seconds for one in own)
            saw = sum(bool(one.verify_noticed) for one in own)
            seen = "" if own[0].verify_noticed is None else f"{saw}/{count}"
            lines.append(f"{kind:<34} {outcome:<32} {count:>4} {slowest:>7.1f}s {seen:>10}")
        return "\n".join([*lines, f"{len(self.events)} events, {len(self.bad)} of them bad"])

    @property
    def bad(self) -> list[Event]:
        """The events that ended wrong."""
        return [one for one in self.events if not one.outcome.endswith("same bytes")]


KILLS = ("kill", "kill while going on", "kill while a checkpoint is stored")
DATA_KILLS = tuple(f"data: {kind}" for kind in data_kills.KINDS)
KINDS: dict[str, Callable[[Path, random.Random], str]] = {**damage.KINDS, **swaps.KINDS}


def small_figure(**words) -> Figure:
    """Return a figure of few pixels that shows the same."""
    return Figure(**{**words, "layout": None, "dpi": 20})


@contextlib.contextmanager
def in_this_process() -> Iterator[None]:
    """Let the stages work without Ray and MLflow."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        run_in_process(patch)
        record_tracking(patch)
        patch.setattr("ddpm_core.training.worker.open_tracker", lambda *_, **__: RecordingTracker())
        # Half of an evaluation so small goes into laying its figures out: here they are small too.
        for module in ("drawing.plot", "evaluation.numbers.figures"):
            patch.setattr(f"ddpm_core.{module}.Figure", small_figure)
        yield


def prepared(folder: Path) -> Campaign:
    """Return a campaign before its first event; `folder` is for the runs and should be empty."""
    campaign = Campaign(folder, random.Random(0))  # noqa: S311
    with in_this_process():
        campaign.prepare()
    return campaign


def run(
    campaign: Campaign, *, seed: int, seconds: float, least: int, progress: bool = False
) -> Campaign:
    """Let events happen until the time is up; return the campaign with these alone.

    Args:
        campaign: a prepared one.
        seed: of all that is drawn; the same seed gives the same events in the same order, kills
            happening at other moments.
        seconds: no event begins later, but for the `least`.
        least: events that happen whatever the time.
        progress: whether each event is printed.
    """
    campaign.rng, campaign.events = random.Random(seed), []  # noqa: S311
    with in_this_process():
        began = time.monotonic()
        for number, kind in enumerate(_endless(campaign.rng)):
            if number >= least and time.monotonic() - began > seconds:
                break
            match kind:
                case "kill":
                    campaign.kill()
                case "kill while going on":
                    campaign.kill_going_on()
                case "kill while a checkpoint is stored":
                    campaign.kill_storing()
                case _ if kind in DATA_KILLS:
                    campaign.kill_data(kind.removeprefix("data: "))
                case _:
                    campaign.strike(kind, KINDS[kind])
            if progress:
                last = campaign.events[-1]
                print(f"{number + 1:>4} {last.kind}: {last.what}: {last.outcome}", flush=True)
    return campaign


def _endless(rng: random.Random):
    """Yield every kind of event once in random order, again and again."""
    while True:
        kinds = [*KILLS, *DATA_KILLS, *KINDS]
        rng.shuffle(kinds)
        yield from kinds


def main() -> int:
    """Run a campaign; return 1 if an event ended wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=int, default=200, help="events, whatever the time")
    parser.add_argument("--flows", type=int, default=2, help="kills in whole flows, after the rest")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = run(
            prepared(Path(folder)),
            seed=options.seed,
            seconds=options.seconds,
            least=options.least,
            progress=True,
        )
        campaign.kill_in_flows(options.flows)
    print(campaign.table())
    for event in campaign.bad:
        print(json.dumps(vars(event), indent=1))
    return 1 if campaign.bad else 0


if __name__ == "__main__":
    sys.exit(main())
