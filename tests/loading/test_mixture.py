"""The order of a mixture beside a list that is written out position by position."""

import numpy as np

from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.mixture import MixedOrder, Part, seed_of
from ddpm_core.loading.proportions import Proportions
from ddpm_core.permutation import FullOrder, images_at, slice_positions

WEIGHTS, SETS = (7, 3), ("a" * 64, "b" * 64)
SIZES = (10, 4)


def mixed(seed: int = 0) -> MixedOrder[FullOrder]:
    first = (0, SIZES[0])
    return MixedOrder(
        WEIGHTS,
        [
            Part(FullOrder(seed_of(seed, one), size), at, number)
            for number, (one, size, at) in enumerate(zip(SETS, SIZES, first, strict=True))
        ],
    )


def written_out(length: int, seed: int = 0) -> list[int]:
    """The stream by its definition: the next image of the set whose turn it is."""
    sets, _ = Proportions([7, 3]).at(np.arange(length))
    seen, out = [0, 0], []
    for chosen in sets.tolist():
        size = SIZES[chosen]
        epoch, within = divmod(seen[chosen], size)
        order = FullOrder(seed_of(seed, SETS[chosen]), size)
        out.append(chosen * SIZES[0] + int(order.images(epoch, np.array([within]))[0]))
        seen[chosen] += 1
    return out


def test_a_mixture_is_what_its_definition_says():
    """Catches: own positions that restart, images of another set's numbers, one epoch for all."""
    positions = np.arange(200)
    assert images_at(mixed(), positions).tolist() == written_out(200)


def test_each_set_has_epochs_of_its_own():
    """140 of 200 positions are of 10 images, 60 of 4: each set comes in whole epochs of itself."""
    numbers = images_at(mixed(), np.arange(200))
    large, small = numbers[numbers < 10], numbers[numbers >= 10] - 10
    assert (np.sort(large.reshape(14, 10)) == np.arange(10)).all()
    assert (np.sort(small.reshape(15, 4)) == np.arange(4)).all()


def test_a_step_is_the_same_however_many_ranks_share_it_and_wherever_a_run_goes_on():
    """Catches: own positions counted within a slice, and any state of what was read before."""
    whole = images_at(mixed(), slice_positions(range(5, 9), 12, 0, 1))
    for world_size in (2, 3):
        slices = [
            images_at(mixed(), slice_positions(range(5, 9), 12, rank, world_size))
            for rank in range(world_size)
        ]
        assert np.concatenate(slices, axis=1).tolist() == whole.tolist()
    alone = images_at(mixed(), slice_positions(range(8, 9), 12, 0, 1))
    assert alone.tolist() == whole[3:].tolist()


def test_two_sets_of_one_size_have_orders_that_differ():
    """Catches: one seed for all, which pairs image j of one set with image j of another."""
    first, second = (FullOrder(seed_of(0, one), 50) for one in SETS)
    positions = np.arange(50)
    assert first.images(0, positions).tolist() != second.images(0, positions).tolist()
    assert seed_of(0, SETS[0]) != seed_of(1, SETS[0])


def test_a_mixture_of_streamed_sets_reads_far_positions_by_their_windows():
    """Step 10**6 is read without the steps before, and by the windows that the sets stand in."""
    orders = [BlockOrder(seed_of(0, one), [5] * 8, window_shards=2) for one in SETS]
    order = MixedOrder(WEIGHTS, [Part(one, 40 * at, 8 * at) for at, one in enumerate(orders)])
    position = 10**6 * 128
    own = order.own_positions(position)
    assert own == [position * 7 // 10, position * 3 // 10]
    numbers = images_at(order, np.arange(position, position + 20))
    for number, (one, at) in enumerate(zip(orders, own, strict=True)):
        epoch, within = divmod(at, 40)
        window = one.window_of(epoch, within)
        following = (epoch, window + 1) if window + 1 < one.num_windows(epoch) else (epoch + 1, 0)
        members = {*one.members(epoch, window).tolist(), *one.members(*following).tolist()}
        mine = numbers[(numbers >= 40 * number) & (numbers < 40 * (number + 1))] - 40 * number
        assert len(mine) in (6, 14)
        assert set(mine.tolist()) <= members


def test_sets_that_are_read_at_once_share_the_shards_that_a_reader_may_have_open():
    """Catches: as many open files for each of ten sets as for one, which is more than there are."""
    counts = [1000] * 2000
    alone = BlockOrder(0, counts).max_window_shards
    assert 10 * BlockOrder(0, counts, num_beside=10).max_window_shards <= 1.5 * alone
