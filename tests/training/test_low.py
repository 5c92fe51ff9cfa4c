"""Training of a network that enlarges: low resolutions of the very images, noised by key."""

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.cluster import Place
from ddpm_core.diffusion.low_resolution import enlarged, noised_by, shrunk
from ddpm_core.diffusion.process import q_sample
from ddpm_core.errors import DataError
from ddpm_core.training.preview import HeldOut, Preview
from tests.training.small import (
    CPU,
    drawing_as,
    make_learner,
    rank_slice,
    small_config,
    small_images,
)

PLACE = Place(rank=0, world_size=1, device=CPU)
KEYS = {"model__low_size": [4, 2], "model__dropout": 0.0, "diffusion__num_timesteps": 40}


def seen_by(config, step=3, rank=0, world_size=1):
    """Return x_t, t and the low resolution, as the network of a rank sees them in a step."""
    learner, seen = make_learner(config), []
    drawing_as(learner, rank, world_size)
    learner.network.register_forward_pre_hook(lambda _, given: seen.append(given))
    learner.step(step, rank_slice(config, small_images(), step, rank, world_size))
    (x_t, t, conditioning), layer = seen[0], learner.network.low
    return learner, x_t, t, conditioning.low, layer


def test_the_network_is_shown_the_very_images_made_small():
    """Catches a low resolution of another image or before the flip, with the noise of x_t, of
    another step or of another level than it says, one that depends on the ranks, and layers that
    do not learn."""
    config = small_config(**KEYS)
    learner, x_t, t, low, layer = seen_by(config)
    positions = torch.arange(config.train.global_batch_size)
    images = _images_in(learner, x_t, t)
    own = seeding.normal(seeding.key(0, "low_noise"), 3, positions, (1, 8, 8))
    small = enlarged(shrunk(images, (4, 2)), (8, 8))
    expected = noised_by(learner._objective.schedule, small, low.level, own)
    assert torch.allclose(low.image, expected, rtol=0, atol=1e-5)
    assert float(layer.conv.weight.detach().abs().max()) > 0
    assert float(layer.linear_2.weight.detach().abs().max()) > 0
    parts = [seen_by(config, rank=rank, world_size=2)[3] for rank in (0, 1)]
    for name in ("image", "level"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(low, name)), name


@pytest.mark.parametrize(("levels", "least", "most"), [([0, 1], 0, 40), ([0.25, 0.5], 10, 20)])
def test_levels_are_drawn_of_all_that_are_named_alike(levels, least, most):
    """Catches a range without one of its ends, and one level for a whole batch."""
    config = small_config(**KEYS, train__low_levels=levels, sample__low_level=levels[0])
    learner = make_learner(config)
    positions = torch.arange(4000)
    drawn = learner._drawing._low(0, positions).level
    counts = torch.bincount(drawn, minlength=41)
    assert counts[:least].sum() == counts[most + 1 :].sum() == 0
    expected = 4000 / (most - least + 1)
    assert (counts[least : most + 1] - expected).abs().max() < 5 * expected**0.5


def test_without_levels_it_is_shown_as_it_is():
    """Catches noise of the first step where none is wanted."""
    learner, x_t, t, low, _ = seen_by(small_config(**KEYS, train__low_levels=[0, 0]))
    assert not low.level.any()
    images = _images_in(learner, x_t, t)
    assert torch.allclose(low.image, enlarged(shrunk(images, (4, 2)), (8, 8)), rtol=0, atol=1e-6)


def _images_in(learner, x_t, t):
    """Return the images that were noised, on their levels, which arithmetic has moved by 1e-6."""
    positions = torch.arange(len(t))
    eps = seeding.normal(seeding.key(0, "noise"), 3, positions, (1, 8, 8))
    signal, noise = learner._objective.schedule.signal_and_noise(t, x_t)
    images = (((x_t - noise * eps) / signal + 1) * 127.5).round() / 127.5 - 1
    assert torch.allclose(
        x_t, q_sample(learner._objective.schedule, images, t, eps), rtol=0, atol=1e-5
    )
    return images


def test_previews_enlarge_held_out_images():
    """Catches previews of images in the order of their classes, which the held-out ones have not,
    and a loss that is measured without their low resolutions."""
    config = small_config(**KEYS, model__conditioning="label", train__preview_every=5)
    images, labels = small_images(7).images(0, 7), torch.arange(7) % 3
    preview = Preview(config, HeldOut(images, labels), tuple("0123456789"), PLACE)
    preview.take(dict(make_learner(config).network.named_parameters()))
    given = preview._enlarging(torch.tensor([8, 3]))
    assert given.label.tolist() == [1, 0]
    x_0 = images[[1, 3]].float() / 127.5 - 1
    assert torch.equal(given.low.image, enlarged(shrunk(x_0, (4, 2)), (8, 8)))
    seen = _ended(preview.pieces())
    assert seen.images_u8.shape == (36, 8, 8, 1)
    assert seen.loss > 0
    with pytest.raises(DataError, match="none are held out"):
        Preview(config, None, (), PLACE)


def _ended(pieces):
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value
