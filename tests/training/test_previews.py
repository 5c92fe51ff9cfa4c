"""Previews while it trains: what they are of, when they are made, and that no bit comes of them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpm_core import cluster, seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.inference.build import build_denoiser, build_objective, in_training
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.inference.levels import to_u8
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.runs import layout, previews
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.interleaved import Interleaved
from ddpm_core.training.preview import HeldOut, Preview, Seen
from ddpm_core.training.storing.checkpoint import Origin
from ddpm_core.training.worker import train_rank
from tests.training.small import CPU, make_learner, run_group, small_config, small_images
from tests.training.test_worker import (
    ALONE,
    FakeTracker,
    final,
    reference,
    sharded,
    store,
    trackers,
    train_until,
)

__all__ = ["reference", "sharded", "store", "trackers"]


def files_of(store, run="small") -> dict[str, bytes]:
    folder = layout.previews_folder(run)
    return {name: store.read(f"{folder}/{name}") for name in store.names(folder)}


def root_of(sharded, folder, *names):
    """Return a root with the data set and no checkpoint, of runs of these names."""
    (folder / "datasets").symlink_to(sharded.local_path("datasets"))
    store = open_store(str(folder))
    for name in names:
        pointer = sharded.read(layout.dataset_pointer_key("small"))
        store.write(layout.dataset_pointer_key(name), pointer)
    return store


@pytest.fixture(scope="module")
def shown(sharded, tmp_path_factory):
    """The previews, and the last checkpoint, of a training that nothing interrupted."""
    config, tracker = small_config(train__preview_every=5), FakeTracker()
    store = root_of(sharded, tmp_path_factory.mktemp("shown"), "small")
    before = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: tracker)
        train_rank(store, config, ALONE)
    assert (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")) == before
    assert tracker.num_previews == 5
    return files_of(store), final(store, config)


# -- the training ------------------------------------------------------------------------------


def test_previews_change_no_bit_of_the_training(reference, shown):
    """Catches dropout that goes on in another order, a network left in evaluation mode, weights
    that are swapped and not swapped back, and points of the curve that a preview moves."""
    assert small_config().model.dropout > 0
    assert shown[1] == reference


def test_a_killed_training_makes_the_same_previews(store, trackers, reference, shown, monkeypatch):
    """Catches a preview that is missing because a kill came between it and its checkpoint, one
    that is drawn twice, and one of other weights than those of its step."""
    config = small_config(train__preview_every=5, train__checkpoint_every=10)
    drawn, take = [], Preview.take
    monkeypatch.setattr(Preview, "take", lambda self, one: (drawn.append(1), take(self, one)))
    # The last one was being made; that of the newest checkpoint is made anew if it was that one.
    for step, kept in ((7, [0]), (12, [0, 5]), (17, [0, 5, 10])):
        train_until(store, config, step, monkeypatch)
        assert previews.steps(store, "small") == kept
        assert len(drawn) == 2
        drawn.clear()
    train_rank(store, config, ALONE)
    assert len(drawn) == 2
    assert (files_of(store), final(store, config)) == (shown[0], reference)


def test_what_is_there_is_not_made_again_unless_it_is_damaged(tmp_path):
    """Catches a file that stays damaged because its name is there, or another experiment's; and one
    of the run while it was shorter, set aside where it goes on."""
    store, (preview, _) = open_store(str(tmp_path)), preview_of(small_config())
    seen = Seen(np.zeros((36, 8, 8, 1), np.uint8), 0.5)
    for step in (5, 10, 15, 20, 25):
        experiment = "another" if step == 25 else "ours"
        made = preview.publish(store, Origin(experiment, "data"), step, "ema", seen)
        if step == 15:
            store.write(f"{made.folder}/{made.files['sheet'].name}", b"torn")
    ours = Origin("ours", "data").experiment_of
    longer = Origin("longer", "data", {"ours": 10}).experiment_of
    assert previews.intact(store, "small", ours, since=10) == {10, 20}
    assert previews.load(store, "small", 15) is None
    preview.publish(store, Origin("ours", "data"), 15, "ema", seen)
    assert previews.intact(store, "small", ours, since=10) == {10, 15, 20}
    assert previews.intact(store, "small", longer, since=10) == {10}
    assert previews.load(store, "small", 20) is None


def _two_ranks(rank, world_size, folder):
    worker.open_tracker = lambda *_args, **_kwargs: FakeTracker()
    place = cluster.Place(rank=rank, world_size=world_size, device=CPU)
    for name, every in (("off", None), ("on", 3)):
        config = small_config(train__preview_every=every, train__num_steps=6, name=name)
        train_rank(open_store(str(folder)), config, place)


def test_two_ranks_train_alike_with_previews_of_one(sharded, tmp_path):
    """Catches a rank that waits for an event that the others do not have, and a preview that the
    ranks' sums come by."""
    store = root_of(sharded, tmp_path, "off", "on")
    run_group(_two_ranks, 2, tmp_path)
    off, on = (final(store, small_config(train__num_steps=6, name=name)) for name in ("off", "on"))
    assert off.files == on.files
    assert previews.steps(store, "on") == [0, 3, 6]


# -- when --------------------------------------------------------------------------------------


class FakePreview:
    """Ten pieces; notes what it is given, and how far it is."""

    num_pieces = 10

    def __init__(self, loss=0.5):
        self.taken, self.done, self.loss = [], 0, loss

    def take(self, weights):
        self.taken.append({name: weight.clone() for name, weight in weights.items()})
        self.done = 0

    def pieces(self):
        for _ in range(self.num_pieces):
            self.done += 1
            yield
        return Seen(np.zeros((1, 8, 8, 1), np.uint8), self.loss)


def interleaved(preview, publish=lambda *_: None, *, made=(), **changes):
    """Return a training with previews, and what does its steps."""
    config = small_config(**changes)
    learner = make_learner(config)
    training = Interleaved(learner, config, preview, publish, made=made)
    images = small_images(config.train.global_batch_size).pixels
    return training, lambda step: training.step(step, images, Conditioning())


def settled(training, completed):
    """Wait for all that a checkpoint waits for, before it is committed."""
    for one in training.settle(completed):
        one.result()


def test_a_step_waits_for_one_piece_and_a_checkpoint_for_all(monkeypatch):
    """Catches a preview that is drawn as a whole between two steps, one that is begun before the
    checkpoint of its own step, and one that is not kept before a later checkpoint."""
    kept, preview = [], FakePreview()
    training, step = interleaved(
        preview, lambda *args: kept.append(args[0]), train__preview_every=12, train__num_steps=26
    )
    with training:
        done = []
        for number in range(20):
            if number == 18:
                settled(training, 18)
                assert kept == [0, 12]
            step(number)
            done.append(preview.done)
        assert done == [*range(1, 11), 10, 10, 1, 2, 3, 4, 5, 6, 10, 10]
        settled(training, 25)
        assert kept == [0, 12]
        settled(training, 26)
        assert kept == [0, 12, 26]


def test_the_average_is_shown_once_it_has_forgotten_the_first_weights():
    """Catches previews of little but the initial weights, and raw ones for ever."""
    kept, preview = [], FakePreview()
    training, step = interleaved(
        preview, lambda *args: kept.append(args[:2]),
        train__preview_every=1, train__num_steps=9, train__ema_decay=0.6,
    )  # fmt: skip
    with training:
        for number in range(9):
            before = {name: one.clone() for name, one in training.trainee.averaged().items()}
            raw = {
                name.removeprefix("model."): one.clone()
                for name, one in training.trainee.weights().items()
            }
            step(number)
            if number:
                expected = before if 0.6 ** (number - 1) <= 0.05 else raw
                assert all(torch.equal(preview.taken[-1][key], expected[key]) for key in expected)
        settled(training, 9)
    assert kept == [(n, "raw") for n in range(7)] + [(n, "ema") for n in (7, 8, 9)]


def test_a_storage_that_fails_ends_no_step(monkeypatch):
    """Catches an outage of the storage that the ranks wait for in a step."""

    def publish(*_args):
        raise StorageError("away")

    training, step = interleaved(FakePreview(), publish, train__preview_every=2)
    with training:
        for number in range(5):
            step(number)
        with pytest.raises(StorageError, match="away"):
            settled(training, 5)


def test_a_preview_of_diverged_weights_is_left_out(caplog):
    """Catches a NaN in JSON, and a training that a preview ends."""
    training, step = interleaved(
        FakePreview(loss=float("nan")), pytest.fail, train__preview_every=1
    )
    with training:
        for number in range(3):
            step(number)
        settled(training, 3)
    assert "the preview of step 2 is left out: its loss is nan" in caplog.text


def test_previews_that_take_much_of_the_time_are_said_once(caplog):
    """Catches a share of the wrong time, and a piece of advice that is not the remedy."""
    clock = [0.0]

    class Slow(FakePreview):
        def pieces(self):
            for _ in range(self.num_pieces):
                clock[0] += 1.0
                yield
            return Seen(np.zeros((1, 8, 8, 1), np.uint8), 0.5)

    config = small_config(train__preview_every=10, train__num_steps=50)
    learner = make_learner(config)
    images = small_images(config.train.global_batch_size).pixels
    keep, now = (lambda *_: None), (lambda: clock[0])
    with Interleaved(learner, config, Slow(), keep, made=(), now=now) as one:
        for number in range(45):
            one.step(number, images, Conditioning())
            clock[0] += 3.0  # a step
    (said,) = [record.getMessage() for record in caplog.records]
    # 10 s of 40 s; with 10 s in 63.3 steps of 3 s it is 5 %.
    assert said == (
        "warning: a preview took 10 s, 25 % of the time since the one before, with "
        "train.preview_every=10; with train.preview_every=64 it is 5 %"
    )


def test_a_network_that_needs_all_steps_is_refused():
    """Catches a traceback at the first preview."""
    changes = {"diffusion.prediction": "x_prev", "sample.clip_x_0": False}
    config = small_config(**{key.replace(".", "__"): value for key, value in changes.items()})
    with pytest.raises(ConfigError, match="preview_every=5: previews take few steps"):
        config.replaced({"train.preview_every": 5})


# -- what --------------------------------------------------------------------------------------


def preview_of(config, num_images=7):
    images = small_images(num_images).pixels
    labels = torch.arange(num_images) % (config.num_classes or 1)
    held_out = HeldOut(images, None if config.num_classes is None else labels)
    names = tuple(f"class {label}" for label in range(config.num_classes or 1))
    return Preview(config, held_out, names, ALONE), held_out


def drawn(preview) -> Seen:
    work = preview.pieces()
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


@pytest.mark.parametrize(
    ("conditioning", "precision"), [("none", "bfloat16"), ("label", "float32")]
)
def test_a_preview_is_ddim_from_the_samples_noise_and_the_loss_of_fixed_pairs(
    conditioning, precision
):
    """Catches noise or timesteps that change from step to step, a label of another row, weights
    of another moment, and a loss that is not the training's."""
    config = small_config(model__conditioning=conditioning, train__precision=precision)
    preview, held_out = preview_of(config)
    learner = make_learner(config)
    weights = {name: one.detach() + 0.02 for name, one in learner.network.named_parameters()}
    moving = {name: one.clone() for name, one in weights.items()}
    preview.take(moving)
    for one in moving.values():
        one.zero_()  # as the next step changes them
    found = drawn(preview)
    assert np.array_equal(drawn(preview).images_u8, found.images_u8)

    learner.network.load_state_dict(weights)
    network = AveragedNetwork(learner.network, CPU, dtype=getattr(torch, precision))
    denoiser = build_denoiser(config, network, network.null)
    count, rows = len(found.images_u8), None
    positions = torch.arange(count)
    if conditioning == "label":
        assert count == 40
        rows = torch.arange(10).repeat_interleave(4)
        positions = rows + 10 * (torch.arange(40) % 4)  # of balanced samples those of the class
        denoiser = denoiser.given(Conditioning(label=rows))
    x_T = seeding.normal(seeding.key(config.sample.seed, "sample_init"), 0, positions, (1, 8, 8))
    chain = respaced(denoiser, choose_timesteps("trailing", 24, 10))
    expected = to_u8(ddim_sample(chain, x_T)).numpy()
    assert np.abs(found.images_u8.astype(int) - expected).max() <= 1  # in other batches

    objective, pairs = build_objective(config), torch.arange(128)
    x_0 = to_unit_range(held_out.images[pairs % 7], CPU)
    t = ((pairs + 0.5) / 128 * 24).long()
    assert torch.bincount(t, minlength=24).min() >= 5
    eps = seeding.normal(seeding.key(config.train.seed, "preview"), 0, pairs, (1, 8, 8))
    x_t = q_sample(objective.schedule, x_0, t, eps)
    given = Conditioning() if rows is None else Conditioning(label=held_out.labels[pairs % 7])
    with torch.no_grad():
        losses = objective.losses(network(x_t, t, given), x_0, x_t, t, eps)
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["vp", "flow", "edm"])
def test_a_preview_in_continuous_time_is_of_the_path_it_is_trained_on(kind):
    """Catches code indices of the chain for times, times evenly in t where the training's are not,
    a network that is called without its clock and scales, and images of another process."""
    config = small_config(diffusion__kind=kind, train__precision="float32")
    preview, held_out = preview_of(config)
    learner = make_learner(config)
    preview.take(dict(learner.network.named_parameters()))
    found = drawn(preview)
    network = AveragedNetwork(learner.network, CPU, dtype=torch.float32)
    start = seeding.key(config.sample.seed, "sample_init")
    x_T = seeding.normal(start, 0, torch.arange(36), (1, 8, 8))
    steps = choose_timesteps("trailing", config.diffusion.num_timesteps, 10)
    chain = respaced(build_denoiser(config, network), steps)
    expected = to_u8(ddim_sample(chain, x_T)).numpy()
    assert np.abs(found.images_u8.astype(int) - expected).max() <= 1

    pairs, objective = torch.arange(128), build_objective(config)
    share, x_0 = (pairs.double() + 0.5) / 128, to_unit_range(held_out.images[pairs % 7], CPU)
    by_kind = {"vp": 1e-5 + share * (1 - 1e-5), "flow": torch.special.ndtri(share).sigmoid()}
    log_sigma = -1.2 + 1.2 * torch.special.ndtri(share)
    t = by_kind.get(kind, (log_sigma - math.log(0.002)) / math.log(80 / 0.002))
    eps = seeding.normal(seeding.key(config.train.seed, "preview"), 0, pairs, (1, 8, 8))
    x_t = objective.noised(x_0, t, eps)
    with torch.no_grad():
        output = in_training(config, network)(x_t, t)
    losses = objective.losses(output, x_0, x_t, t, eps)
    assert found.loss == pytest.approx(float(losses.mean()), rel=1e-4)


def test_a_preview_holds_no_more_images_at_once_than_a_rank_trains_on():
    """Catches a preview that ends a training for its memory, and pieces that are not counted."""
    config = small_config(train__global_batch_size=12)
    place = replace(ALONE, world_size=4)
    preview = Preview(config, preview_of(config)[1], ("all",), place)
    sizes = []
    preview._network._network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert sum(1 for _ in preview.pieces()) == preview.num_pieces == len(sizes)
    assert max(sizes) == 3
    assert sum(sizes) == 36 * 10 + 128


def test_what_is_kept_says_what_it_is_of(tmp_path):
    """Catches a result that does not say which weights and how, rows without names, and a second
    device's bytes that are a conflict."""
    store = open_store(str(tmp_path))
    preview, _ = preview_of(small_config(model__conditioning="label"))
    seen = drawn(preview)
    origin = Origin("an experiment", "a data set")
    made = preview.publish(store, origin, 40, "ema", seen)
    assert previews.load(store, "small", 40) == made
    assert previews.figures(made) == {"preview/loss_ema": seen.loss}
    assert json.dumps(made.body["drawn"]["labels"][:5]) == "[0, 0, 0, 0, 1]"
    assert {"step": 40, "average": "ema", "num_pairs": 128}.items() <= made.body.items()
    other = replace(seen, loss=seen.loss + 1e-7)
    assert preview.publish(store, origin, 40, "ema", other) == made


def test_without_held_out_images_there_is_no_loss():
    """Catches a division by no image."""
    preview = Preview(small_config(), None, ("all",), ALONE)
    assert drawn(preview).loss is None
