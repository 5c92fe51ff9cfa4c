"""A training that begins from another's weights: what is taken, kept, copied once and refused."""

import shutil
from dataclasses import replace

import pytest
import torch

from ddpm_core.conditioning import NOTHING, Conditioning, Known
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.exchange.folder import write_folder
from ddpm_core.exchange.networks import to_diffusers, write_network
from ddpm_core.exchange.scheduler_config import write_scheduler_config
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.weights import load_average
from ddpm_core.recipes import recipe
from ddpm_core.runs import base, layout, places, results
from ddpm_core.runs.misfits import misfits, other_chain
from ddpm_core.runs.run import configure, open_run
from ddpm_core.runs.table import show_run
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store import manifest
from ddpm_core.store.storage import open_store, sha256_of
from ddpm_core.training import start, worker
from ddpm_core.training.start import copy_base
from ddpm_core.training.worker import train_rank
from ddpm_core.verifying.verify import verify
from tests.training.small import make_learner, small_config
from tests.training.test_worker import ALONE, FakeTracker, Killed, train_until

NEXT = {"name": "next", "train.seed": 7, "train.start_from": "small@20"}


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch):
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root with a run `small` of 20 steps, and one with labels, of ten classes."""
    store = open_store(str(tmp_path_factory.mktemp("ro ot")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
        for config in (small_config(), LABELLED):
            run_shard(store, config)
            train_rank(store, config, ALONE)
    return store


LABELLED = small_config(name="labelled", model__conditioning="label", train__num_steps=2)


@pytest.fixture
def store(trained, tmp_path):
    """Give a root of its own with the same data set and the same runs."""
    root = tmp_path / "root"
    (root / "runs").mkdir(parents=True)
    for place in ("datasets", "runs/small", "runs/labelled"):
        (root / place).symlink_to(trained.local_path(place))
    return open_store(str(root))


def begun(store, **changes):
    """Pin, record and copy what a run begins from; return its configuration."""
    config = base.pinned(store, small_config().replaced({**NEXT, **changes}))
    base.require_fit(store, config)
    run_shard(store, config)
    copy_base(store, config)
    return config


def checkpoint(store, config, step):
    return results.checkpoint_of(store, config, step)


def weights(store, run, step, average="ema"):
    found = manifest.load(
        store, layout.checkpoint_folder(run, step), places.checkpoint_expected(step)
    )
    return load_average(store, found, average=average)


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize(
    ("reference", "network", "average"),
    [("small", "ema", "ema"), ("small@15:raw", "raw", "raw"), ("small@20:state", "raw", "ema")],
)
def test_it_begins_with_the_weights_that_are_named(store, reference, network, average):
    """Catches: the average where the trained ones are meant, an average that begins at random,
    moments that are taken though nobody asked for them."""
    config = begun(store, **{"train.start_from": reference})
    step = config.train.start.model.step
    assert same(weights(store, "next", 0, "raw"), weights(store, "small", step, network))
    assert same(weights(store, "next", 0, "ema"), weights(store, "small", step, average))
    learner = make_learner(config)
    worker._resume(
        store, "next", worker._data(store, config)[-1], learner.trainee, learner._parallel
    )
    state = learner.trainee.parts()["state"]
    assert all(not one.any() for name, one in state.items() if name.startswith("adam."))
    body = checkpoint(store, config, 0).body
    assert body["base"]["from"] == config.train.start.name
    assert (body["step"], body["images_seen"]) == (0, 0)


def test_the_optimiser_goes_on_where_it_is_kept(store):
    """Catches: moments of other weights, a count of steps at 0 whose correction is too large."""
    config = begun(store, **{"train.start_from": "small:state", "train.start_optimiser": "kept"})
    ours, theirs = make_learner(config), make_learner(small_config())
    for learner, one, step in ((ours, config, 0), (theirs, small_config(), 20)):
        origin = worker._data(store, one)[-1]
        found = worker.checkpoint.resume(store, one.name, origin, learner.trainee.parts())
        assert found.step == step
    own, other = (one.trainee.parts() for one in (ours, theirs))
    assert same({k: v for k, v in own["state"].items() if k != "window"},
                {k: v for k, v in other["state"].items() if k != "window"})  # fmt: skip
    assert same(own["ema"], other["ema"])
    assert int(own["state"]["adam.step"]) == 20
    refused = {**NEXT, "train.start_optimiser": "kept"}
    with pytest.raises(
        ConfigError, match=r"start_optimiser=kept takes the moments .* small@20:ema"
    ):
        small_config().replaced(refused)


def test_an_average_that_goes_on_is_not_copied_over_by_the_first_step(store):
    """Catches: the rule of a run's first step, by which the average becomes the weights."""
    config = begun(store, **{"train.start_from": "small:state", "train.num_steps": 1})
    train_rank(store, config, ALONE)
    before, after = weights(store, "next", 0), weights(store, "next", 1)
    raw = weights(store, "next", 1, "raw")
    name = "conv_in.weight"
    expected = torch.lerp(before[name], raw[name], 1 - config.train.ema_decay)
    torch.testing.assert_close(after[name], expected)


def test_a_classifier_begins_from_one_and_goes_on(store):
    """Catches: a first checkpoint with the counts of a denoiser, without the accuracy, which no
    classifier can be resumed from.
    """
    keys = {"base_channels", "channel_mults", "attention_resolutions", "num_groups"}
    half = small_config().model.model_dump(mode="json", include=keys)
    changes = {"model": {"kind": "classifier", **half}, "train.num_steps": 2}
    first = small_config().replaced({"name": "says", **changes})
    run_shard(store, first)
    train_rank(store, first, ALONE)
    config = begun(store, **changes, **{"train.start_from": "says:state"})
    assert same(weights(store, "next", 0), weights(store, "says", 2))
    train_rank(store, config, ALONE)
    assert checkpoint(store, config, 2) is not None


def test_averages_that_are_to_go_on_must_be_there(store):
    """Catches: an average that begins at random beside others that go on, or that is refused only
    once all is sharded; powers of the steps of another run."""
    more = {"train.start_from": "small:state", "train.ema_decays": [0.99]}
    config = base.pinned(store, small_config().replaced({**NEXT, **more}))
    with pytest.raises(ConfigError, match=r"the average 'ema_99' .* has ema, raw"):
        base.require_fit(store, config)
    alone = base.pinned(store, config.replaced({"train.start_from": "small"}))
    base.require_fit(store, alone)
    with pytest.raises(ConfigError, match="weigh steps by their number since the beginning"):
        config.replaced({"train.ema_decays": [], "train.power_averages": [0.1]})


def test_conditioning_is_added_to_a_base_without_and_begins_as_it(store):
    """Catches: rows of classes, or channels of what is known, that begin as noise and not at 0: a
    step 0 that is not the base."""
    more = {"model.conditioning": "label", "model.known": True, "train.num_steps": 1}
    config = begun(store, **more)
    ours, theirs = build_network(config).eval(), build_network(small_config()).eval()
    ours.load_state_dict(weights(store, "next", 0))
    theirs.load_state_dict(weights(store, "small", 20))
    x_t, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 23])
    with torch.no_grad():
        known = Known(x_t.flip(0), x_t > 0)
        found = ours(x_t, t, Conditioning(label=torch.tensor([0, 9, 10]), known=known))
        assert torch.equal(found, theirs(x_t, t, NOTHING))
    train_rank(store, config, ALONE)


def test_augmentation_is_added_to_a_base_without_and_left_out_again(store):
    """Catches: a layer that begins drawn; a run that cannot go on without what adds nothing."""
    begun(store, **{"train.augment": 0.2})
    ours, theirs = weights(store, "next", 0), weights(store, "small", 20)
    assert not ours.pop("augment_embed.weight").any()
    assert same(ours, theirs)
    begun(store, **{"name": "third", "train.start_from": "next@0:state"})
    assert same(weights(store, "third", 0), theirs)


def test_classes_go_by_their_names(store, monkeypatch):
    """Catches: the rows of a base by number, where other folders come first by name."""
    config = base.pinned(
        store,
        LABELLED.replaced({"name": "next", "train.start_from": "labelled"}),
    )
    found = base.base_of(store, config)
    assert start.class_rows(store, config, found) is None, "not sharded yet: preflight looks"
    run_shard(store, config)
    assert start.class_rows(store, config, found) == list(range(10))
    real = start.known_classes(store, config)
    moved = type(real)(("new", *real.names[::-1]), (1, *real.counts))
    monkeypatch.setattr(
        start, "known_classes", lambda _store, one: moved if one.name == "next" else real
    )
    assert start.class_rows(store, config, found) == [None, *range(9, -1, -1)]


def test_killed_anywhere_it_ends_in_the_same_bytes_and_needs_its_base_once(store, monkeypatch):
    """Catches: a base that is read again after it was trained on or deleted, random weights in its
    place, and a start that a kill between weights and manifest spoils."""
    config = begun(store, **{"train.num_steps": 6, "train.checkpoint_every": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "base_of", lambda *_: pytest.fail("it was copied already"))
        train_rank(store, config, ALONE)
    whole = checkpoint(store, config, 6)

    other = base.pinned(store, config.replaced({"name": "other"}))
    run_shard(store, other)

    def killed(*_args, **_kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(start.checkpoint, "commit", killed)
        with pytest.raises(Killed):
            copy_base(store, other)
    with pytest.raises(CheckpointError, match="run the train stage again"):
        train_rank(store, other, ALONE)
    copy_base(store, other)
    copy_base(store, other)
    (store.local_path("runs/small")).unlink()
    for step in (0, 3):
        train_until(store, other, step, monkeypatch)
        copy_base(store, other)
    train_rank(store, other, ALONE)
    assert checkpoint(store, other, 6).files == whole.files
    repeated = other.replaced({"train.start_from": "small"})
    assert base.pinned(store, repeated) == other, "the same command goes on without its base"


def test_a_damaged_copy_is_made_again_while_its_base_is_there(store):
    """Catches: a training over a torn copy, or one that is refused though nothing is lost."""
    config = begun(store)
    made = checkpoint(store, config, 0)
    store.local_path(f"{made.folder}/{made.files['ema'].name}").write_bytes(b"torn")
    copy_base(store, config)
    assert checkpoint(store, config, 0) == made
    assert same(weights(store, "next", 0), weights(store, "small", 20))


def test_what_does_not_fit_is_refused_key_by_key_before_anything_is_written(store):
    """Catches: the first misfit alone, a traceback of shapes, and a run that took its name."""
    changes = {
        **NEXT,
        "model.base_channels": 16,
        "model.num_groups": 8,
        "model.attention_resolutions": [4],
        "diffusion.prediction": "v",
        "diffusion.variance": "learned_range",
        "train.loss": "hybrid",
        "train.start_from": "labelled",
    }
    config = base.pinned(store, small_config().replaced(changes))
    with pytest.raises(ConfigError) as caught:
        base.require_fit(store, config)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "model.base_channels",
        "model.num_groups",
        "model.attention_resolutions",
        "model.conditioning",
        "diffusion.prediction",
        "diffusion.variance",
    ]
    assert "8 there, 16 here; set model.base_channels=8" in lines[0]
    assert not store.names("runs/next")


def test_another_resolution_and_another_chain_fit(store):
    """Catches: a size that the network allows and is refused; and a chain that is not spoken of."""
    there = small_config(model__attention_resolutions=[4])
    large = {"data.height": 16, "data.width": 16, "data.name": "images", "data.grey": True}
    here = there.replaced({**large, "model.attention_resolutions": [8]})
    assert misfits(there, here) == []
    moved = misfits(there, here.replaced({"model.attention_resolutions": [16]}))
    assert len(moved) == 1
    assert "set model.attention_resolutions=[8]" in moved[0]
    known = there.replaced({"model.known": True})
    assert misfits(there, known) == [], "it is added, and begins at 0"
    assert misfits(known, there) == ["model.known: true there, false here; set model.known=true"]
    assert other_chain(there, here) is None
    longer = here.replaced({"diffusion.num_timesteps": 30, "train.start_from": "small"})
    assert "diffusion.num_timesteps is 24 there and 30 here" in other_chain(there, longer)


def test_what_sees_images_of_one_size_or_none_fits_so():
    """Catches: towers whose rows are of other patches, found when a job copies them; and a language
    model refused for images that it does not see."""
    clip = recipe("digits-clip")
    larger = clip.replaced({"data.height": 16, "data.width": 16, "data.name": "mnist"})
    assert misfits(clip, larger) == [
        f"data.{key}: 8 there, 16 here; set data.{key}=8" for key in ("height", "width")
    ]
    words = clip.replaced({"model": {"kind": "text"}, "diffusion.prediction": "x_0"})
    coloured = {"data.name": "coloured_digits", "data.captions": "beside", "data.grey": False}
    other = {"data.num_test_images": None, "diffusion.prediction": "v"}
    assert misfits(words, words.replaced(coloured | other)) == []


def test_outputs_that_mean_something_else_do_not_fit(store):
    """Catches: outputs compared by the name of the prediction, which for bits, EDM's network and
    the paper's chain is x_0 alike; and two learned variances taken for one."""
    chain = small_config(diffusion__prediction="x_0")
    edm, vp = (chain.replaced({"diffusion.kind": kind}) for kind in ("edm", "vp"))
    bits = recipe("heartbeat")
    values = bits.replaced({"diffusion.kind": "chain", "diffusion.prediction": "x_0"})
    line = 'diffusion.kind: "{0}" there, "{1}" here; set diffusion.kind="{0}"'
    assert misfits(chain, edm) == [line.format("chain", "edm")]
    assert misfits(edm, chain) == [line.format("edm", "chain")]
    assert misfits(bits, values) == [line.format("binomial", "chain")]
    assert misfits(edm, edm.replaced({"diffusion.sigma_data": 1.0})) == []

    eps = small_config()
    assert misfits(eps, vp) == [], "the noise is the noise on both"
    assert other_chain(eps, vp).endswith('diffusion.kind is "chain" there and "vp" here')
    learned, between = (
        small_config(diffusion__variance=variance, train__loss="hybrid")
        for variance in ("learned", "learned_range")
    )
    assert len(misfits(learned, between)) == 1
    assert misfits(eps, small_config(diffusion__variance="fixed_large")) == []


def test_what_is_not_there_is_refused_with_what_is(store):
    """Catches: a run that begins at random since its base has no such weights."""

    def refusal(reference, error, **changes):
        config = small_config().replaced({**NEXT, "train.start_from": reference, **changes})
        with pytest.raises(error) as caught:
            base.pinned(store, config)
        return str(caught.value)

    assert "did you mean 'small'" in refusal("smal", ConfigError)
    assert "cannot begin from itself" in refusal("next", ConfigError)
    assert "there are those of step 20, 15, 10" in refusal("small@5", CheckpointError)
    assert "it has ema, raw" in refusal("small:slow", CheckpointError)
    assert "pinned to weights" in refusal("small@20:ema#01234567", CheckpointError)


def test_it_counts_by_digest_and_goes_by_what_is_on_record(store):
    """Catches: a fingerprint of the name of a place, two bases in one experiment, a second start
    of the same command that is another run, since its base was trained on."""
    config = base.pinned(store, small_config().replaced(NEXT))
    digest = checkpoint(store, small_config(), 20).files["ema"].sha256
    assert config.train.start_from == f"small@20:ema#{digest[:16]}"
    renamed = config.replaced({"train.start_from": f"else@9:ema#{digest[:16]}"})
    others = ["small@15", "small@20:raw", "small@20:state"]
    found = [base.pinned(store, config.replaced({"train.start_from": one})) for one in others]
    prints = [layout.experiment_fingerprint(one) for one in (config, renamed, *found)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    open_run(store, config)
    for again in ("small", "small@newest", "small@20"):
        named = config.replaced({"train.start_from": again})
        assert base.pinned(store, named) == config
    other = config.replaced({"train.start_from": "small@15"})
    assert base.pinned(store, other) == other, "and check_run refuses it"


def test_the_command_lines_pin_it_for_every_stage(store):
    """Catches: a run.json that names what moves, and `--from` that only some commands have."""
    open_run(store, small_config())
    changes = {"train.start_from": "small@newest", "train.num_steps": 20}
    _where, config = configure("digits", root=store.uri, run="next", changes=changes)
    assert config.train.start.model.step == 20
    assert config.train.start.sha256 is not None


def test_what_it_came_from_is_shown_and_verified(store):
    """Catches: a run whose base only its run.json knows, and a copy that is of something else."""
    config = begun(store)
    assert f"from       {config.train.start_from}" in show_run(store, "next").splitlines()
    report = verify(store.uri_of("runs/next"))
    assert any("checkpoint of step 0" in line for line in report.looked_at)
    made = checkpoint(store, config, 0)
    other = {"from": "small@20:ema", "files": {"ema": "f" * 64}}
    with pytest.raises(
        manifest.DamagedError, match=r"f{16}, and the run begins from small@20:ema#"
    ):
        base.require_record(store, config, replace(made, body=made.body | {"base": other}))


def small_folder(trained, path, **changes):
    """Write a run's weights for diffusers; return the folder."""
    config = small_config(**changes)
    found = weights(trained, config.name, config.train.num_steps)
    write_folder(
        str(path),
        network=write_network(config),
        scheduler=write_scheduler_config(config.diffusion),
        weights=to_diffusers(config, found),
    )
    return path


def test_a_folder_of_diffusers_is_begun_from_and_needed_once(store, trained, tmp_path):
    """Catches: weights of a folder under other names, a folder that is read at every start, a
    digest that nobody compares."""
    folder = small_folder(trained, tmp_path / "their folder")
    config = begun(store, **{"train.start_from": str(folder), "train.num_steps": 1})
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    digest = sha256_of(file.read_bytes())
    assert config.train.start_from == f"{folder}#{digest}"
    for average in ("raw", "ema"):
        assert same(weights(store, "next", 0, average), weights(store, "small", 20))
    assert checkpoint(store, config, 0).body["base"]["files"]["weights_sha256"] == digest
    shutil.rmtree(folder)
    base.require_fit(store, config)
    copy_base(store, config)
    verify(store.uri_of("runs/next"))
    train_rank(store, config, ALONE)

    small_folder(trained, folder, name="labelled", model__conditioning="label", train__num_steps=2)
    other = config.replaced({"name": "other", "model.conditioning": "label"})
    with pytest.raises(CheckpointError, match="it was written anew"):
        copy_base(store, other)
    named = other.replaced({"train.start_from": str(folder), "model.conditioning": "none"})
    with pytest.raises(ConfigError, match=r'model\.conditioning: "label" there, "none" here'):
        base.require_fit(store, base.pinned(store, named))
    images = {"data.name": "images", "data.height": 8, "data.width": 8, "data.grey": True}
    few = {"name": "few", "model.conditioning": "label", "model.num_classes": 4, **images}
    with pytest.raises(ConfigError, match=r"model\.num_classes: 10 there, 4 here"):
        base.require_fit(store, base.pinned(store, named.replaced(few)))


def test_folders_that_are_none_are_refused_in_words(store, tmp_path):
    """Catches: a traceback of a file that is not there, and a run that is taken for a folder."""
    for folder, words in (
        (store.uri_of("runs/small"), "is the folder of a run; name it by its name"),
        (str(tmp_path / "nothing"), "which describes the network"),
    ):
        open_run(store, small_config()) if "small" in folder else None
        named = small_config().replaced({**NEXT, "train.start_from": folder})
        with pytest.raises(ConfigError, match=words):
            base.pinned(store, named)
