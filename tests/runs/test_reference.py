"""Which weights a reference names, and what is refused before anything is made of them."""

import json
from dataclasses import replace

import pytest

from ddpm_core import __main__ as command
from ddpm_core.config.model_ref import ModelRef
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.preflight import preflight
from ddpm_core.recipes import digits
from ddpm_core.runs import chosen, layout, results
from ddpm_core.runs.reference import canonical, trained_by
from ddpm_core.runs.run import open_run
from ddpm_core.runs.weights import Weights
from ddpm_core.store.commit import commit, retire, write_file
from ddpm_core.store.manifest import DamagedError, FileRecord, Manifest, quarantine
from ddpm_core.store.storage import open_store
from ddpm_core.tracking.identity import changes_of
from flows import plan
from tests.flows.fakes import finish
from tests.sampling.tiny import tiny_config


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "ro ot"))


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)


def checkpoint(store, config, step, *, text="weights"):
    """Commit what stands for the checkpoint after a step; return its manifest."""
    folder = layout.checkpoint_folder(config.name, step)
    files = {
        role: write_file(store, folder, role, ".bin", f"{role} {text} {step}".encode())
        for role in ("state", "ema", "slow", "ema.critic", "history")
    }
    body = {"step": step, "experiment": layout.experiment_fingerprint(config), "dataset": "d" * 64}
    return commit(store, folder, files, body)


def named(config, model):
    return config.replaced({"sample.model": model})


@pytest.fixture
def half(store):
    """Give a run of ten steps that has checkpoints of 2 and 4 so far."""
    config = tiny_config(**{"train.checkpoint_every": 2, "train.keep_checkpoints": 3})
    open_run(store, config)
    finish(store, config, "shard")
    checkpoint(store, config, 2)
    checkpoint(store, config, 4)
    return config


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("@400", ModelRef(step=400)),
        ("digits", ModelRef("digits")),
        (":raw", ModelRef(average="raw")),
        ("a.b-c@newest", ModelRef("a.b-c", "newest")),
        ("d@0400:slow#0123abcd", ModelRef("d", 400, "slow", "0123abcd")),
        ("newest", ModelRef("newest")),
    ],
)
def test_a_reference_is_read_and_written(text, ref):
    """Catches: a part that is read as another one, or lost when it is pinned."""
    assert ModelRef.parse(text) == ref
    assert ModelRef.parse(str(ref)) == ref


@pytest.mark.parametrize("text", ["", "@", "@-1", "@4.0", "../x", "a@b", "a:B", "@1#12", "a b"])
def test_what_is_no_reference_is_refused_as_a_configuration(text):
    """Catches: a slip of the keys that is looked up, or comes up after the training."""
    with pytest.raises(ConfigError, match=r"names no weights; write RUN@STEP:AVERAGE"):
        named(tiny_config(), text)


def test_it_names_step_and_average_and_results_hang_on_their_digest(store, half):
    """Catches: the last or the averaged weights whatever is given, another module's average."""
    for step in (2, 4):
        files = results.checkpoint_of(store, half, step).files
        for average, role in (("ema", "ema"), ("slow", "slow"), ("raw", "state")):
            found = chosen.require(store, named(half, f"@{step}:{average}"))
            assert (found.step, found.role, found.sha256) == (step, role, files[role].sha256)
    assert results.weights_of(store, half) is None
    assert chosen.require(store, named(half, "@newest")).name == "tiny@4:ema"
    with pytest.raises(CheckpointError, match=r"no weights 'critic'; it has ema, slow, raw"):
        results.weights_of(store, named(half, "@2:critic"))


def test_weights_say_what_they_hold_of_the_first(store, half):
    """Catches: grey samples of an early step without a word, and a warning of trained weights."""
    early = chosen.require(store, named(half, "@4"))
    first = ", of which 99 % are the first weights, random ones"
    assert early.said == f"tiny@4:ema {early.sha256[:12]}{first}"
    raw = chosen.require(store, named(half, "@4:raw"))
    assert raw.said == f"tiny@4:raw {raw.sha256[:12]}"
    warm = half.replaced({"train.ema_warmup": True})
    assert replace(early, trained=warm).said == f"tiny@4:ema {early.sha256[:12]}"


def test_the_newest_is_one_that_can_be_used(store, half):
    """Catches: @newest of a checkpoint that is set aside, or that is not committed yet."""
    write_file(store, layout.checkpoint_folder("tiny", 6), "ema", ".bin", b"half written")
    assert chosen.require(store, named(half, "@newest")).step == 4
    quarantine(store, layout.checkpoint_folder("tiny", 4), "damaged")
    assert chosen.require(store, named(half, "@newest")).step == 2
    assert results.weights_of(store, named(half, "@4")) is None


def test_pinned_once_it_stays_what_it_was(store, half):
    """Catches: a stage whose workers resolve @newest each for itself, and another training's
    bytes under the same step."""
    config = chosen.pinned(store, named(half, "@newest"))
    first = chosen.require(store, config)
    assert config.sample.model == f"tiny@4:ema#{first.sha256[:16]}"
    checkpoint(store, half, 6)
    assert chosen.require(store, config) == first
    assert chosen.pinned(store, config) == config
    assert chosen.pinned(store, half) == half, "nothing is named, and nothing is looked up"
    store.delete(f"{first.checkpoint.folder}/manifest.json")
    checkpoint(store, half, 4, text="trained again")
    with pytest.raises(CheckpointError, match=r"pinned to weights .* trained again or exchanged"):
        chosen.require(store, config)


def test_a_step_that_is_not_there_is_refused_with_those_that_are(store, half, capsys):
    """Catches: a stage that needs the end of the training though it is given other weights."""

    def sample(*options):
        words = ["sample", "tiny", "--root", store.uri, "--dry-run", *options]
        return command.main(words), capsys.readouterr().err

    code, said = sample("--model", "@3")
    assert code == 4
    assert "no checkpoint of step 3 below" in said
    assert "there are those of step 4, 2" in said
    assert sample()[0] == 4, "the last weights are not there"
    assert sample("--model", "@newest")[0] == 0
    retire(store, layout.checkpoint_folder("tiny", 2))
    code, said = sample("--model", "@2")
    assert code == 4
    assert "were deleted by train.keep_checkpoints" in said
    assert "there are those of step 4" in said


def test_what_was_made_of_deleted_weights_is_still_there(store, half):
    """Catches: samples that are lost with the files of their weights."""
    config = named(half, "@2")
    finish(store, config, "sample")
    before = results.samples_of(store, config)
    retire(store, layout.checkpoint_folder("tiny", 2))
    assert results.samples_of(store, config) == before
    assert chosen.require(store, config).is_retired
    found = preflight(store, config, ["sample"], command=str, here=False)
    assert found.missing == [], "done, and not refused"
    store.delete(f"{before.folder}/{layout.whole_name(config.sample.num_images)}")
    found = preflight(store, config, ["sample"], command=str, here=False)
    assert found.missing == ["sample"], "killed before its last file: the stage needs no weights"


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("@6", {}, None),
        ("@4", {}, r"come 3 later ones: give train.keep_checkpoints=4 or more"),
        ("@4", {"train.keep_checkpoints": 4}, None),
        ("@4", {"train.checkpoint_every": 5}, None),  # it is there, and 5 and 10 are to come
        ("@7", {}, r"no checkpoint of step 7: one comes every train.checkpoint_every=2 steps"),
        ("@12", {}, r"no checkpoint of step 12"),
        ("@0", {}, r"no checkpoint of step 0"),
        ("@3", {"train.checkpoint_every": 3}, r"no checkpoint of step 3\b.*stands at step 4"),
        ("@10:raw", {}, None),
        ("@newest", {}, None),
        (":slow", {}, r"keeps the weights ema and raw"),
    ],
)
def test_what_the_training_will_not_keep_is_refused_before_it(store, half, model, changes, words):
    """Catches: days of training, and then no weights to sample from; a bound off by one."""
    config = named(half.replaced(changes), model)

    def look():
        preflight(store, config, ["train", "sample"], command=str, here=False)

    if words is None:
        look()
    else:
        with pytest.raises(ConfigError, match=words):
            look()


def test_weights_of_another_run_must_fit_this_one(store, half):
    """Catches: another network's weights in this run's folder, and a refusal without the keys."""
    other = half.replaced({"name": "other", "train.seed": 5, "train.loss": "simple"})
    with pytest.raises(ConfigError, match=r"no run 'othr'"):
        results.weights_of(store, named(half, "othr@2"))
    open_run(store, other)
    checkpoint(store, other, 2, text="others")
    config = named(half, "other@2")
    found = chosen.require(store, config)
    assert found.trained.name == "other"
    assert found.identity("tiny") == {
        "ema_sha256": found.sha256, "weights_run": "other", "step": 2,
    }  # fmt: skip
    assert "weights_run" not in found.identity("other")
    finish(store, config, "sample")
    assert results.samples_of(store, config).body["weights_run"] == "other"
    wider = half.replaced({"name": "wider", "model.base_channels": 64, "diffusion.beta_end": 0.01})
    open_run(store, wider)
    with pytest.raises(ConfigError) as refused:
        results.weights_of(store, named(half, "wider@2"))
    assert "model.base_channels: 32 here, 64 there" in str(refused.value)
    assert "diffusion.beta_end: 0.02 here, 0.01 there" in str(refused.value)
    assert "train.seed" not in str(refused.value)


def test_equal_weights_have_one_result_under_each_of_their_names(store, half):
    """Catches: valid results that are set aside since another run, or another step, has the same
    bytes."""
    other = half.replaced({"name": "other", "train.num_steps": 20, "train.loss": "vlb"})
    open_run(store, other)
    checkpoint(store, other, 2)
    one, two = named(half, "@2"), named(half, "other@2")
    for stage, find in (
        ("sample", results.samples_of),
        ("evaluate", results.evaluation_of),
        ("study", results.study_of),
    ):
        finish(store, one, stage)
        assert find(store, one).body["step"] == 2
        assert find(store, two) == find(store, one)
    assert results.samples_of(store, named(half, "@4")) is None
    damaged = results.samples_of(store, one).files["grid"].name
    store.write(f"{results.samples_of(store, one).folder}/{damaged}", b"")
    with pytest.raises(DamagedError, match=r"run\.json' --set 'sample\.model=\"@2\"'$"):
        results.samples_of(store, one)


def test_other_weights_are_another_run_in_mlflow_and_another_job(store, half):
    """Catches: numbers of step 2 in the run's own curves, the job of other weights joined; and a
    variant for the default spelt out."""
    assert changes_of(store, named(half, "@2"), "evaluate") == {"sample.model": "tiny@2:ema"}
    assert changes_of(store, named(half, "tiny@10:ema"), "evaluate") == {}
    assert changes_of(store, named(half, "@2"), "train") == {}
    moves = named(half.replaced({"name": "moves"}), "tiny@newest")
    open_run(store, moves)
    assert changes_of(store, chosen.pinned(store, moves), "sample") == {}, "run.json's weights"
    two = named(moves, "tiny@2")
    assert changes_of(store, two, "sample") == {"sample.model": "tiny@2:ema"}
    lost = named(half.replaced({"name": "lost"}), "gone")
    open_run(store, lost)
    assert changes_of(store, lost, "train") == {}, "needs no weights of a deleted run"
    assert changes_of(store, named(lost, "tiny@2"), "sample") == {"sample.model": "tiny@2:ema"}
    pinned = chosen.pinned(store, named(half, "@2"))
    assert canonical(store, pinned) == canonical(store, named(half, "tiny@2"))
    jobs = {plan.job_prefix(store, named(half, one), "sample") for one in (None, "@2", "@4")}
    assert len(jobs) == 3
    assert len({plan.job_prefix(store, named(half, one), "train") for one in (None, "@2")}) == 1


def test_a_run_on_record_may_be_sampled_from_other_weights(store, half):
    """Catches: a place that is compared as a setting, and a run.json that loses it."""
    from ddpm_core.runs.run import check_run

    assert check_run(store, named(half, "@2"))
    kept = named(half.replaced({"name": "kept"}), "@2")
    open_run(store, kept)
    assert json.loads(store.read("runs/kept/run.json"))["sample"]["model"] == "@2"


def test_files_that_retention_deletes_while_they_are_looked_at_are_not_damaged(
    store, half, monkeypatch
):
    """Catches: the advice to train again, where a later checkpoint is there."""
    true_load, folder = results.manifest.load, layout.checkpoint_folder("tiny", 2)

    def load(store, where, *args, **options):
        found = true_load(store, where, *args, **options)
        if where == folder:
            retire(store, folder)
        return found

    monkeypatch.setattr(results.manifest, "load", load)
    assert chosen.require(store, named(half, "@2")).is_retired


def test_a_number_of_classes_is_the_same_if_it_goes_without_saying(store):
    """Catches: weights that diffusers brought, refused in a run of the same data set's classes."""
    ours = tiny_config(**{"model.conditioning": "label"})
    other = ours.replaced({"name": "other", "model.num_classes": 10})
    open_run(store, other)
    assert trained_by(store, named(ours, "other")).name == "other"
    open_run(store, tiny_config(name="plain"))
    with pytest.raises(ConfigError, match=r"model\.num_classes: 10 here, null there"):
        trained_by(store, named(ours, "plain"))


@pytest.mark.parametrize("average", ["ema", "power_05"])
def test_weights_that_a_run_began_from_are_not_called_random(average):
    """Catches a division by 0 at step 0, and noise that is seen in what another run trained."""
    changes = {"train.power_averages": [0.05], "train.num_steps": 9, "train.warmup_steps": 0}
    config = digits().replaced({**changes, "train.start_from": "other@800"})
    file = FileRecord("a", 1, "f" * 64)
    checkpoint = Manifest("runs/digits/checkpoints/step_00000000", {"step": 0}, {average: file})
    assert Weights(checkpoint, config, average).said == f"digits@0:{average} ffffffffffff"
