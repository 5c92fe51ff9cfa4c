"""One step of training CLIP, against the algorithm written out plainly; and over several ranks."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.diffusion.process import q_sample
from ddpm_core.inference.build import build_schedule
from ddpm_core.inference.networks import build_network
from ddpm_core.text.tokens import encode
from ddpm_core.training.stepping.contrasting import contrasted
from tests.training.small import (
    make_learner,
    rank_slice,
    run_group,
    small_config,
    small_images,
    state_of,
)

CLIP = {
    "kind": "clip",
    "patch_size": 4,
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "text_hidden_size": 16,
    "text_num_layers": 1,
    "text_num_heads": 2,
    "num_features": 8,
    "text_length": 6,
}
SHARED = ["a", "b", "a", "c", "d", "e", "f", "a", "g", "h", "i", "b"]
"""captions of the batch: a is there three times, b twice, not all on one rank of two"""


def clip_config(**changes):
    return small_config().replaced({"model": CLIP, **changes})


def weights_of(named):
    """Return weights without the biases of keys: their gradient is 0, and Adam makes steps of what
    rounding leaves of it."""
    return {name: one.detach() for name, one in named if not name.endswith("key.bias")}


def captions_of(step, rank=0, world_size=1):
    turned = SHARED[step:] + SHARED[:step]
    size = len(turned) // world_size
    return Conditioning(text=encode(turned[rank * size : (rank + 1) * size], 6))


def run(learner, config, start, stop, rank=0, world_size=1):
    for step in range(start, stop):
        images_u8 = rank_slice(config, small_images(), step, rank, world_size)
        learner.step(step, images_u8, captions_of(step, rank, world_size))


def test_of_several_own_the_loss_is_the_mean_and_least_where_they_are_alike():
    """Catches: one of equal captions for right and its like for wrong, a sum for a mean, the log of
    a sum of probabilities."""
    logits = torch.tensor([[1.0, 2, 3], [0, 0, 5], [60, 60, 0]])
    is_own = torch.tensor([[True, False, False], [False, False, True], [True, True, False]])
    found = contrasted(logits, is_own)
    torch.testing.assert_close(
        found[:2], cross_entropy(logits[:2], torch.tensor([0, 2]), reduction="none")
    )
    assert float(found[2]) == pytest.approx(math.log(2))
    unlike = contrasted(logits[:1], torch.tensor([[True, False, True]]))
    assert float(unlike) == pytest.approx(math.log(sum(math.exp(one) for one in (1, 2, 3))) - 2)


@pytest.mark.parametrize("noised", [True, False])
def test_steps_are_those_of_both_cross_entropies_over_the_batch(noised):
    """Catches: images without their noise, or clean ones with it, noise or times keyed otherwise
    than a denoiser's, a caption that is left out, one of the two directions alone, targets that
    take equal captions for others, the logarithm of the scale in its place, accuracy of texts."""
    config = clip_config(**{"model.noised": noised})
    learner, network, schedule = make_learner(config), build_network(config), build_schedule(config)
    adam, positions, records = torch.optim.Adam(network.parameters()), torch.arange(12), []
    for step in range(4):
        x_0 = rank_slice(config, small_images(), step, 0, 1).float() / 127.5 - 1
        coin = seeding.coin(seeding.key(0, "flip"), step, positions)
        x_0 = torch.where(coin[:, None, None, None], x_0.flip(-1), x_0)
        t = seeding.uniform_int(seeding.key(0, "timesteps"), step, positions, 24)
        eps = seeding.normal(seeding.key(0, "noise"), step, positions, (1, 8, 8))
        images = network.image(q_sample(schedule, x_0, t, eps) if noised else x_0, t)
        texts = network.of_text(captions_of(step).text)
        captions = SHARED[step:] + SHARED[:step]
        wanted = torch.tensor([[float(one == other) for other in captions] for one in captions])
        wanted /= wanted.sum(dim=1, keepdim=True)
        logits = network.log_scale.exp() * images @ texts.T
        both = [cross_entropy(one, wanted, reduction="none") for one in (logits, logits.T)]
        losses = (both[0] + both[1]) / 2
        adam.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.grad_clip)
        adam.param_groups[0]["lr"] = config.train.learning_rate * min(step / 4, 1)
        adam.step()
        finds = [
            captions[best] == own
            for best, own in zip(logits.argmax(1).tolist(), captions, strict=True)
        ]
        records += zip(t.tolist(), losses.tolist(), finds, strict=True)
    run(learner, config, 0, 4)
    trained, wanted = (weights_of(one.named_parameters()) for one in (learner.network, network))
    torch.testing.assert_close(trained, wanted, rtol=1e-3, atol=2e-5)
    point = learner.trainee.counts.point()
    assert point["loss"] == pytest.approx(sum(one[1] for one in records) / 48, rel=1e-4)
    assert point["accuracy"] == pytest.approx(sum(one[2] for one in records) / 48)
    for quartile in range(4):
        own = [one for one in records if one[0] // 6 == quartile]
        assert point[f"loss_q{quartile}"] == pytest.approx(
            sum(one[1] for one in own) / len(own), rel=1e-4
        )
        assert point[f"accuracy_q{quartile}"] == pytest.approx(
            sum(one[2] for one in own) / len(own)
        )


def test_the_scale_stays_within_its_bound_and_its_average_too():
    """Catches: a bound that no step applies, or that the average of the weights does not know."""
    config = clip_config(**{"train.learning_rate": 1e-2})
    learner = make_learner(config)
    with torch.no_grad():
        learner.network.log_scale.fill_(7.0)
    run(learner, config, 0, 1)
    assert float(learner.network.scale.detach()) == pytest.approx(100)
    assert float(learner.trainee.averaged()["log_scale"]) < 7 - 0.09 * (7 - math.log(100))


def _two_ranks(rank, world_size, folder):
    config = clip_config()
    learner = make_learner(config, rank, world_size)
    run(learner, config, 0, 5, rank, world_size)
    point = learner.trainee.counts.point()
    if rank == 0:
        torch.save([dict(state_of(learner)), point], folder / "found")


def test_two_ranks_train_as_one_does(tmp_path):
    """Catches: captions of this rank's slice alone to tell apart, a gradient that does not find its
    way to the other rank's images and texts or is counted twice, equal captions that are not seen
    across the ranks."""
    run_group(_two_ranks, 2, tmp_path)
    learner, config = make_learner(clip_config()), clip_config()
    run(learner, config, 0, 5)
    found, point = torch.load(tmp_path / "found", weights_only=True)
    alike = [
        weights_of((name, one) for name, one in state.items() if name.startswith("model."))
        for state in (found, state_of(learner))
    ]
    torch.testing.assert_close(*alike, rtol=1e-4, atol=2e-6)
    alone = learner.trainee.counts.point()
    assert point == pytest.approx(alone, rel=1e-4)
