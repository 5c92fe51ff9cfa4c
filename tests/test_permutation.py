import tracemalloc

import numpy as np
import pytest

from ddpm_core.permutation import epoch_permutation, global_batch_indices, keyed_permutation

SIZES = [1, 2, 3, 4, 5, 15, 16, 17, 64, 65, 1000, 4097, 60_000]


def all_of(size):
    return np.arange(size, dtype=np.int64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_epoch_permutation_sends_every_position_to_another_image(size, seed):
    """Catches a domain that is too small or no power of four, and walking that stops early."""
    images = epoch_permutation(seed, 3, size, all_of(size))
    np.testing.assert_array_equal(np.sort(images), all_of(size))


def test_epochs_and_seeds_have_orders_of_their_own():
    """Catches an order that repeats every epoch, as shuffling with one fixed seed does."""
    orders = [
        epoch_permutation(seed, epoch, 1000, all_of(1000))
        for seed in range(4)
        for epoch in range(4)
    ]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Of two independent permutations one place agrees on average; six never in 120 pairs.
            assert (one == other).sum() < 8


def test_seed_and_epoch_are_not_mixed_up():
    """Catches a key made by gluing numbers: seed 1, epoch 12 would be seed 11, epoch 2."""
    one = epoch_permutation(1, 12, 1000, all_of(1000))
    assert (one != epoch_permutation(11, 2, 1000, all_of(1000))).any()
    assert (one != epoch_permutation(12, 1, 1000, all_of(1000))).any()


@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_every_pair_of_images_is_as_likely_at_every_pair_of_positions(size):
    """Catches too few rounds, or a mixer that is weak on halves of one or two bits."""
    num_epochs = 4000
    positions = np.array([0, size - 1])
    pairs = np.array([epoch_permutation(5, e, size, positions) for e in range(num_epochs)])
    counts = np.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size)
    counts = counts[np.arange(size * size) % (size + 1) != 0]  # an image is not in two places
    expected = num_epochs / counts.size
    chi2 = ((counts - expected) ** 2 / expected).sum()
    # Mean k, standard deviation sqrt(2k): five of those is beyond one in 10^5.
    k = counts.size - 1
    assert abs(chi2 - k) < 5 * (2 * k) ** 0.5 + 5


def test_neighbours_are_torn_apart():
    """Catches an order that keeps runs of the source: MNIST and CIFAR mix classes, others not."""
    images = epoch_permutation(0, 0, 60_000, all_of(60_000))
    assert abs(np.corrcoef(images, all_of(60_000))[0, 1]) < 0.02
    assert (np.abs(np.diff(images)) == 1).sum() < 20


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_images", [8, 12, 50])
def test_all_ranks_together_see_every_image_once_per_epoch(world_size, num_images):
    """Catches dropped last batches, padding by repetition, and slices that overlap."""
    batch_size, num_epochs = 8, 8
    num_steps = num_images * num_epochs // batch_size
    seen = [[] for _ in range(world_size)]
    for step in range(num_steps):
        indices = global_batch_indices(9, step, batch_size, num_images)
        for rank, own in enumerate(np.split(indices, world_size)):
            seen[rank].append(own)
    stream = np.concatenate([np.concatenate(own) for own in zip(*seen, strict=True)])
    for epoch in stream.reshape(num_epochs, num_images):
        np.testing.assert_array_equal(np.sort(epoch), all_of(num_images))


def test_the_stream_does_not_depend_on_how_it_is_cut():
    """Catches an order per batch, or one that starts anew after a resume."""
    cuts = [
        np.concatenate([global_batch_indices(3, step, size, 10) for step in range(60 // size)])
        for size in (1, 4, 6, 30)
    ]
    for cut in cuts[1:]:
        np.testing.assert_array_equal(cut, cuts[0])


def test_a_batch_may_be_larger_than_the_data_set():
    """Catches a batch that reaches into at most two epochs."""
    indices = global_batch_indices(0, 1, 10, 3)  # positions 10..19: epochs 3 (rest) to 6 (start)
    assert indices.shape == (10,)
    np.testing.assert_array_equal(np.bincount(indices[2:8], minlength=3), [2, 2, 2])


def test_nothing_is_proportional_to_the_data_set_or_to_the_step():
    """Catches shuffling a list of N, and replaying the stream to resume."""
    tracemalloc.start()
    indices = global_batch_indices(0, 10**15 + 1, 128, 10**12)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10**6
    assert len(set(indices.tolist())) == 128
    assert indices.min() >= 0
    assert indices.max() < 10**12


def test_the_order_is_this_one_for_ever():
    """Catches any change of it: a run resumed by a newer version must go on where it was."""
    assert global_batch_indices(0, 0, 8, 60_000).tolist() == [
        58863,
        22855,
        47615,
        57063,
        49023,
        5931,
        1415,
        28519,
    ]
    assert global_batch_indices(1, 468, 8, 1000).tolist() == [
        714,
        716,
        502,
        901,
        231,
        318,
        814,
        383,
    ]


@pytest.mark.parametrize(("size", "positions"), [(0, [0]), (2**62 + 1, [0]), (5, [5]), (5, [-1])])
def test_what_is_out_of_range_is_refused(size, positions):
    """Catches an endless walk from a position outside."""
    with pytest.raises(ValueError, match="must"):
        keyed_permutation(b"", size, np.array(positions, dtype=np.int64))


def test_no_positions_are_no_images():
    """Catches min() of nothing."""
    assert keyed_permutation(b"", 5, np.array([], dtype=np.int64)).tolist() == []
