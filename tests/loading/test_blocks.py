"""The windowed order: exact, the same however it is cut, and as random as docs/data.md says."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.permutation import images_at, keyed_permutation, slice_positions

COUNTS = {
    "equal": [7] * 12,
    "one shard": [13],
    "one image each": [1] * 40,
    "uneven": [5, 1, 9, 3, 3, 12, 1, 1, 8, 2, 6],
    "some empty": [0, 4, 0, 0, 7, 1, 0, 3, 0],
}


def all_of(size):
    return np.arange(size, dtype=np.int64)


def by_brute_force(seed, epoch, counts, window_shards):
    """The definition, written with lists."""
    firsts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    key = f"shards:{seed}:{epoch}:".encode()
    shards = keyed_permutation(key, len(counts), all_of(len(counts))).tolist()
    num_windows = max(1, round(len(counts) / window_shards))
    bounds = [window * len(counts) // num_windows for window in range(num_windows + 1)]
    if epoch == 0:  # the first window in four: an eighth, an eighth, a quarter and a half
        bounds = sorted({*bounds, bounds[1] // 8, bounds[1] // 4, bounds[1] // 2})
    stream = []
    for window, (begin, end) in enumerate(itertools.pairwise(bounds)):
        images = [
            image
            for shard in shards[begin:end]
            for image in range(firsts[shard], firsts[shard + 1])
        ]
        if images:
            key = f"window:{seed}:{epoch}:{window}:".encode()
            order = keyed_permutation(key, len(images), all_of(len(images)))
            stream += [images[place] for place in order]
    return stream


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("window_shards", [1, 2, 3, 100])
def test_an_epoch_is_every_image_once_in_the_order_defined(counts, window_shards):
    """Catches images lost or doubled at the edges of windows and of shards of other lengths."""
    order = BlockOrder(3, counts, window_shards=window_shards)
    for epoch in (0, 1, 5):
        images = order.images(epoch, all_of(sum(counts)))
        np.testing.assert_array_equal(np.sort(images), all_of(sum(counts)))
        assert images.tolist() == by_brute_force(3, epoch, counts, window_shards)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_ranks_together_read_one_global_order_from_any_step(world_size):
    """Catches an order that depends on the number of ranks, or on where a run was resumed."""
    counts, batch, num_steps = COUNTS["uneven"], 16, 12
    stream = np.concatenate(
        [by_brute_force(3, epoch, counts, 3) for epoch in range(-(-batch * num_steps // 51))]
    )
    for start in (0, 1, 7, 11):
        slices = [
            images_at(
                BlockOrder(3, counts, window_shards=3),
                slice_positions(range(start, num_steps), batch, rank, world_size),
            )
            for rank in range(world_size)
        ]
        together = np.concatenate(slices, axis=1)
        np.testing.assert_array_equal(together.ravel(), stream[start * batch : num_steps * batch])


def test_a_window_is_in_the_shards_that_it_names():
    """Catches a reader that fetches other shards than those it will need."""
    counts = COUNTS["uneven"]
    order = BlockOrder(1, counts, window_shards=3)
    shard_of = np.repeat(all_of(len(counts)), counts)
    assert [order.num_windows(epoch) for epoch in (0, 1, 2)] == [5, 4, 4]
    for epoch in (0, 1):
        images = order.images(epoch, all_of(sum(counts)))
        windows = [order.window_of(epoch, position) for position in range(sum(counts))]
        assert windows == sorted(windows)
        for window in range(order.num_windows(epoch)):
            own = images[np.array(windows) == window]
            assert set(shard_of[own]) == set(order.shards_of(epoch, window).tolist())


def test_epochs_and_seeds_have_orders_of_their_own():
    """Catches shards, or images within windows, that come in the same order every epoch."""
    counts = [50] * 40
    orders = [
        BlockOrder(seed, counts, window_shards=4).images(epoch, all_of(2000))
        for seed in range(3)
        for epoch in range(3)
    ]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).sum() < 10


def test_windows_are_permuted_apart():
    """Catches one permutation for all windows of an epoch."""
    places = BlockOrder(0, [40] * 8, window_shards=2).images(0, all_of(320)) % 40
    one, other = places[:80], places[80:160]
    assert (one == other).sum() < 14  # 2 expected of independent ones


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1000] * 60, (1, 60)),
        ([1000] * 1300, (20, 65)),  # 66 shards have 65,536 images
        ([100] * 1300, (14, 92)),  # never over 96, and half more
        ([10_000] * 100, (6, 16)),  # never under 16, and half less
    ],
    ids=["few", "common", "small shards", "large shards"],
)
def test_windows_have_about_65536_images(counts, expected):
    """Catches windows of a few shards, which hardly shuffle, and of more than can be open."""
    order = BlockOrder(0, counts)
    assert (order.num_windows(1), len(order.shards_of(1, 0))) == expected


@pytest.mark.parametrize(
    ("num_shards", "expected"),
    [
        (960, [12, 12, 24, 48, 96, 96]),
        (96, [12, 12, 24, 48]),
        (16, [2, 2, 4, 8]),
        (5, [1, 1, 3]),
        (2, [1, 1]),
        (1, [1]),
    ],
)
def test_a_run_begins_with_small_windows(num_shards, expected):
    """Catches a first batch that waits for a whole window, also where there is but one; parts that
    grow faster than what is read while they are fetched; small windows in later epochs too."""
    order = BlockOrder(0, [100] * num_shards)
    sizes = [len(order.shards_of(0, window)) for window in range(order.num_windows(0))]
    assert sizes[: len(expected)] == expected
    assert sum(sizes) == num_shards
    later = {len(order.shards_of(1, window)) for window in range(order.num_windows(1))}
    assert later == {min(num_shards, 96)}
    assert order.max_window_shards == min(num_shards, 96)


def test_nothing_is_proportional_to_the_images():
    """Catches a permutation of N that is written out, and a replayed stream."""
    order = BlockOrder(0, [10**7] * 1000)
    tracemalloc.start()
    images = images_at(order, slice_positions(range(10**12, 10**12 + 1), 128, 0, 1))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10**6
    assert len(set(images.ravel().tolist())) == 128


def test_two_images_of_a_shard_are_as_far_apart_as_documented():
    """Catches shards that are read through one after the other: P(within d) = 2d/n - (d/n)^2."""
    counts, window_shards, d = [10] * 64, 16, 8
    order, near, total = BlockOrder(11, counts, window_shards=window_shards), 0, 0
    for epoch in range(60):
        position = np.empty(640, np.int64)
        position[order.images(epoch, all_of(640))] = all_of(640)
        # Images 0 and 1, 2 and 3, ... of each shard: pairs without a common image.
        near += int((np.abs(position[0::2] - position[1::2]) <= d).sum())
        total += 320
    share = d / (160 - 1)
    expected = 2 * share - share**2 * (159 + 1 / d) / 160
    deviation = math.sqrt(expected * (1 - expected) / total)
    assert abs(near / total - expected) < 4 * deviation
    assert near / total < 2 * d / 10 / 4  # without a window it would be nearly certain


def test_classes_that_fill_shards_are_mixed_as_documented():
    """Catches a window of neighbouring shards: variance p(1-p)(1/B + (1/G)(S-G)/(S-1))."""
    num_shards, per_shard, window_shards, batch = 100, 50, 20, 50
    order = BlockOrder(5, [per_shard] * num_shards, window_shards=window_shards)
    shares = []
    for epoch in range(60):
        classes = order.images(epoch, all_of(5000)) // 500  # ten classes, sorted
        # One batch of each window: two of a window would not be independent.
        shares += [
            np.bincount(classes[at : at + batch], minlength=10) / batch
            for at in range(0, 5000, 1000)
        ]
    p = 0.1
    among = (num_shards - window_shards) / (num_shards - 1) / window_shards
    within = (1 - 1 / window_shards) / batch  # about 1/B; drawn from a window of 1000
    expected = p * (1 - p) * (among + within)
    assert np.var(shares) == pytest.approx(expected, rel=0.12)
    assert np.mean(shares) == pytest.approx(p)
