"""A run that goes on for more steps under its name: the same bits, and nothing of it is lost."""

import json
import shutil
from functools import partial

import pytest
import torch

from ddpm_core import __main__ as command
from ddpm_core.errors import ConfigError, RunConflictError
from ddpm_core.inference.weights import load_average
from ddpm_core.runs import begun, chosen, going_on, layout, places, results
from ddpm_core.runs.run import check_run, check_stage, configure, open_run
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.tracking.identity import identify
from ddpm_core.training import worker
from ddpm_core.training.storing import checkpoint
from ddpm_core.training.worker import train_rank
from flows import command_line
from tests.training.small import small_config
from tests.training.test_worker import ALONE, FakeTracker, train_until

LONG = small_config(train__num_steps=16, train__checkpoint_every=4)
SHORT = LONG.replaced({"train.num_steps": 8})


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """The trackers of the trainings; nothing is started for them."""
    opened = []

    def open_tracker(*_args, **_kwargs):
        opened.append(FakeTracker())
        return opened[-1]

    monkeypatch.setattr(worker, "open_tracker", open_tracker)
    return opened


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """A root with a run of 16 steps from the start."""
    store = open_store(str(tmp_path_factory.mktemp("at once")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
        run_shard(store, LONG)
        train_rank(store, LONG, ALONE)
    return store


@pytest.fixture(scope="module")
def finished(at_once, tmp_path_factory):
    """A root with the same data set and a finished run of 8 steps."""
    root = tmp_path_factory.mktemp("finished")
    (root / "datasets").symlink_to(at_once.local_path("datasets"))
    store = open_store(str(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
        run_shard(store, SHORT)
        train_rank(store, SHORT, ALONE)
    return root


@pytest.fixture
def store(finished, tmp_path):
    """A copy of that root."""
    shutil.copytree(finished, tmp_path / "root", symlinks=True)
    return open_store(str(tmp_path / "root"))


def go_on(store, config):
    """Do what the train stage does around the group; return the run as it is on record."""
    config = going_on.as_on_record(store, config)
    assert check_run(store, config)
    going_on.keep(store, config)
    train_rank(store, config, ALONE)
    return config


def test_a_longer_run_is_the_run_of_that_length_bit_for_bit(store, at_once, opened, monkeypatch):
    """Catches: data, noise or moments that begin anew, an average that is copied again, a curve
    with a gap, another fingerprint; and the same with a kill on the way."""
    config = going_on.as_on_record(store, LONG)
    going_on.keep(store, config)
    train_until(store, config, 13, monkeypatch)
    config = go_on(store, LONG)
    assert results.final_checkpoint(store, config) == results.final_checkpoint(at_once, LONG)
    assert layout.experiment_fingerprint(config) == layout.experiment_fingerprint(LONG)
    assert [point["step"] for point in opened[-1].points][:3] == [4, 8, 12]


def test_what_was_made_of_the_shorter_run_stays_and_is_found(store):
    """Catches: checkpoints, results or MLflow's run of the first length that are another run's."""
    birth = identify(store, SHORT, {})
    before = results.final_checkpoint(store, SHORT)
    config = go_on(store, LONG)
    at_8 = chosen.require(store, config.replaced({"sample.model": "@8"}))
    assert at_8.checkpoint == before
    assert chosen.require(store, config).step == 16
    short = chosen.require(store, SHORT)
    assert places.samples(store, SHORT, short) == places.samples(store, config, at_8)
    assert identify(store, config, {}) == birth
    recorded = begun.recorded(store, "small")
    assert recorded == config
    assert [one.model_dump() for one in recorded.train.earlier] == [
        {"until": 8, "num_steps": 8, "learning_rate": 1e-3, "learning_rate_schedule": "constant"}
    ]
    assert begun.changes_of(store, "small") == "", "the run itself changed it"
    longer = going_on.as_on_record(store, LONG.replaced({"train.num_steps": 20}))
    assert [one.until for one in longer.train.earlier] == [8, 16]
    assert list(going_on.history(longer)) == [
        "from step 8 on train.num_steps: 8 -> 16",
        "from step 16 on train.num_steps: 16 -> 20",
    ]


def test_the_same_command_again_and_a_kill_before_the_first_step_change_nothing(store):
    """Catches: a segment for each start, and a run.json that says what nobody trained."""
    first = going_on.as_on_record(store, LONG)
    going_on.keep(store, first)
    text = store.read(layout.run_json_key("small"))
    again = going_on.as_on_record(store, LONG)
    assert again == first
    going_on.keep(store, again)
    assert store.read(layout.run_json_key("small")) == text
    changes = {key: value for key, value in LONG.flat().items() if key != "name"}
    del changes["train.earlier"]
    _, found = configure("digits", root=store.uri, run="small", changes=changes)
    assert found == first
    assert check_stage(store, found)
    _, found = configure("small", root=store.uri, run=None, changes={"train.num_steps": 20})
    assert [one.until for one in found.train.earlier] == [8, 8]


def test_fewer_steps_are_refused_and_named_as_a_reference(store):
    """Catches: a run that is cut short in silence, or a bare refusal."""
    go_on(store, LONG)
    with pytest.raises(RunConflictError, match=r"what it was then is --model @8\. Leave"):
        going_on.as_on_record(store, SHORT)
    with pytest.raises(RunConflictError, match="it has checkpoints of step 16, 12, 8"):
        going_on.as_on_record(store, SHORT.replaced({"train.num_steps": 7}))


@pytest.mark.parametrize(
    "change",
    [
        {"train.learning_rate": 1e-4},
        {"train.num_steps": 16, "train.seed": 3},
        {"train.num_steps": 16, "train.warmup_steps": 0},
        {"train.num_steps": 16, "model.base_channels": 16},
    ],
)
def test_nothing_else_may_change_on_the_way(store, change):
    """Catches: another experiment under the same name because it is also longer."""
    other = going_on.as_on_record(store, SHORT.replaced(change))
    with pytest.raises(RunConflictError, match=list(change)[-1]):
        check_run(store, other)
    with pytest.raises(RunConflictError):
        check_stage(store, other)


def test_another_rate_from_there_on_is_another_experiment_from_there_on(store, at_once):
    """Catches: a changed rate that is not in the identity, rates that reach back, a checkpoint of
    the first segment that is refused, and one of later steps that is taken."""
    lower = {"train.learning_rate": 1e-4, "train.learning_rate_schedule": "linear"}
    config = go_on(store, LONG.replaced(lower))
    from_start = layout.experiment_fingerprint(LONG.replaced(lower))
    assert layout.experiment_fingerprint(config) not in (
        from_start, layout.experiment_fingerprint(LONG),
    )  # fmt: skip
    done = results.final_checkpoint(store, config)
    curve = {
        point["step"]: point["learning_rate"] for point in checkpoint.load_history(store, done)
    }
    assert curve == pytest.approx({4: 7.5e-4, 8: 1e-3, 12: 1e-4 * 5 / 8, 16: 1e-4 / 8}, rel=1e-12)
    one, other = (load_average(root, found) for root, found in (
        (store, done), (at_once, results.final_checkpoint(at_once, LONG))))  # fmt: skip
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
    assert results.checkpoint_of(store, config, 8) is not None


def test_what_is_trained_past_the_end_of_a_segment_is_none_of_the_run(store, at_once):
    """Catches: what another process still trained at the old rate, taken as the newest."""
    store.write(layout.run_json_key("small"), LONG.to_json().encode())
    lower = {"train.num_steps": 20, "train.learning_rate": 1e-4}
    config = going_on.as_on_record(store, LONG.replaced(lower))
    assert [one.until for one in config.train.earlier] == [8]
    before = places.experiments_before(store, config)
    origin = checkpoint.Origin(places.experiment(store, config), "d", before)
    for step, is_ours in ((8, True), (12, False)):
        found = results.checkpoint_of(at_once, LONG, step)
        said = found.body["experiment"]
        assert (places.experiment(store, config, found) == said) is is_ours
        assert (origin.experiment_of(found) == said) is is_ours


def test_imported_weights_do_not_go_on(store, monkeypatch):
    """Catches: a training over weights without an optimiser, and no word of what to do."""
    monkeypatch.setattr(results, "is_imported", lambda _checkpoint: True)
    with pytest.raises(ConfigError, match="--from small --run NAME"):
        going_on.as_on_record(store, LONG)


def test_a_run_without_a_checkpoint_takes_the_new_length(tmp_path):
    """Catches: a run that was sharded only, and can never be made longer."""
    store = open_store(str(tmp_path))
    open_run(store, SHORT)
    config = going_on.as_on_record(store, LONG)
    going_on.keep(store, config)
    written = json.loads(store.read(layout.run_json_key("small")))
    assert written["train"]["num_steps"] == 16
    assert layout.experiment_fingerprint(config) == layout.experiment_fingerprint(LONG)


def test_a_dry_run_says_from_which_step_on_it_goes_on_and_how(store, capsys, monkeypatch):
    """Catches: a plan that hides that a run is made longer, or at another rate."""
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    more = ["--set", "train.num_steps=16", "--set", "train.learning_rate=0.0001"]
    target = ["small", "--root", store.uri, *more, "--dry-run"]
    flow = partial(command_line.main, command_line.TRAIN_DDPM)
    for main, words in ((command.main, ["train", *target]), (flow, target)):
        assert main(words) == 0
        assert (
            "run 'small' goes on: from step 8 on train.num_steps: 8 -> 16; "
            "train.learning_rate: 0.001 -> 0.0001"
        ) in capsys.readouterr().err
    assert begun.recorded(store, "small") == SHORT, "nothing was written"
