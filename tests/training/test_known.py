"""Training of a network that is given what is known of an image."""

import torch

from ddpm_core import seeding
from ddpm_core.diffusion.process import q_sample
from ddpm_core.training.stepping.regions import known_regions
from tests.training.small import drawing_as, make_learner, rank_slice, small_config, small_images

CONFIG = small_config(model__known=True, model__dropout=0.0)


def seen_by(rank: int = 0, world_size: int = 1):
    """Return x_t, t and what is known, as the network of a rank sees them in step 3."""
    learner, seen = make_learner(CONFIG), []
    drawing_as(learner, rank, world_size)
    learner.network.register_forward_pre_hook(lambda _, given: seen.append(given))
    learner.step(3, rank_slice(CONFIG, small_images(), 3, rank, world_size))
    (x_t, t, conditioning), weights = seen[0], learner.network.conv_known.weight
    return x_t, t, conditioning.known, weights


def test_the_network_is_shown_regions_of_the_very_images_that_are_noised():
    """Catches what is known of another image or before the flip, regions of another step,
    regions that depend on the ranks, and new weights that stay 0."""
    x_t, t, known, weights = seen_by()
    learner = make_learner(CONFIG)
    size = CONFIG.train.global_batch_size
    regions = known_regions(learner._drawing._known_key, 3, torch.arange(size), x_t)
    assert torch.equal(known.mask, regions)
    assert 0 < float(regions.float().mean()) < 1
    eps = seeding.normal(learner._drawing._noise_key, 3, torch.arange(size), (1, 8, 8))
    assert torch.equal(x_t, q_sample(learner._objective.schedule, known.values, t, eps))
    assert float(weights.detach().abs().max()) > 0
    parts = [seen_by(rank, 2)[2] for rank in (0, 1)]
    for name in ("values", "mask"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(known, name)), name
