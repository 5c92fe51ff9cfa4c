"""One step of training a classifier, against the algorithm written out plainly."""

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.diffusion.process import q_sample
from ddpm_core.inference.build import build_schedule
from ddpm_core.inference.networks import build_network
from tests.training.small import (
    average_of,
    copy_of,
    load,
    make_learner,
    rank_slice,
    small_config,
    small_images,
    state_of,
)


def classifier_config(**changes):
    config = small_config()
    keys = {"base_channels", "channel_mults", "attention_resolutions", "num_groups"}
    half = config.model.model_dump(mode="json", include=keys)
    return config.replaced({"model": {"kind": "classifier", "dropout": 0.0, **half}, **changes})


def run(learner, config, start, stop):
    for step in range(start, stop):
        labels = (torch.arange(12) * 7 + step) % 10
        learner.step(step, rank_slice(config, small_images(), step, 0, 1), Conditioning(labels))


@pytest.mark.parametrize("kind", ["chain", "vp"])
def test_steps_are_those_of_cross_entropy_on_noised_images(kind):
    """Catches: a clean image, noise or times keyed otherwise than a denoiser's, a label that is
    left out, a sum for a mean, accuracy of another quartile, a path's time in place of the chain's.
    """
    config = classifier_config(**{"diffusion.kind": kind, "diffusion.num_timesteps": 24})
    learner, network, schedule = make_learner(config), build_network(config), build_schedule(config)
    adam, positions, records = torch.optim.Adam(network.parameters()), torch.arange(12), []
    for step in range(5):
        x_0 = rank_slice(config, small_images(), step, 0, 1).float() / 127.5 - 1
        coin = seeding.coin(seeding.key(0, "flip"), step, positions)
        x_0 = torch.where(coin[:, None, None, None], x_0.flip(-1), x_0)
        t = seeding.uniform_int(seeding.key(0, "timesteps"), step, positions, 24)
        eps = seeding.normal(seeding.key(0, "noise"), step, positions, (1, 8, 8))
        log_p = network(q_sample(schedule, x_0, t, eps), t).log_softmax(dim=1)
        labels = (torch.arange(12) * 7 + step) % 10
        losses = -log_p[positions, labels]
        adam.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.grad_clip)
        adam.param_groups[0]["lr"] = config.train.learning_rate * min(step / 4, 1)
        adam.step()
        is_right = log_p.argmax(dim=1) == labels
        records += zip(t.tolist(), losses.tolist(), is_right.tolist(), strict=True)
    run(learner, config, 0, 5)
    trained = {name: one.detach() for name, one in learner.network.named_parameters()}
    wanted = dict(network.named_parameters())
    torch.testing.assert_close(trained, wanted, rtol=1e-3, atol=2e-5)
    point = learner.trainee.counts.point()
    assert point["loss"] == pytest.approx(sum(one[1] for one in records) / 60, rel=1e-4)
    assert point["accuracy"] == pytest.approx(sum(one[2] for one in records) / 60)
    assert 0 < point["accuracy"] < 1
    for quartile in range(4):
        own = [one for one in records if one[0] // 6 == quartile]
        loss, accuracy = (sum(one[place] for one in own) / len(own) for place in (1, 2))
        assert point[f"loss_q{quartile}"] == pytest.approx(loss, rel=1e-4)
        assert point[f"accuracy_q{quartile}"] == pytest.approx(accuracy)


def test_its_state_continues_bit_for_bit():
    """Catches: sums of the accuracy that are no part of the state."""
    config = classifier_config(**{"model.dropout": 0.1})
    whole, first, second = (make_learner(config) for _ in range(3))
    run(whole, config, 0, 6)
    run(first, config, 0, 3)
    load(second, state=copy_of(state_of(first)), ema=copy_of(average_of(first)))
    run(second, config, 3, 6)
    torch.testing.assert_close(state_of(second), state_of(whole), rtol=0, atol=0)
    assert second.trainee.counts.point() == whole.trainee.counts.point()
