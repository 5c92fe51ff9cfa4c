"""The systems of 2015, trained by the pipeline's own step and measured as the pipeline does."""

import pytest
import torch

from ddpm_core.config import RunConfig
from ddpm_core.evaluation.worker import likelihood_part
from ddpm_core.inference.build import AnyDenoiser, build_denoiser
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.loading.loader import ImageSet
from ddpm_core.recipes import recipe
from ddpm_core.sampling.draw import draw, to_levels
from ddpm_core.sources.raw_images import RawImages
from ddpm_core.sources.splits import load_splits
from tests.training.small import CPU, average_of, make_learner, rank_slice


def pixels(images: RawImages) -> torch.Tensor:
    """Return (n, channels, height, width) as batches have them."""
    return torch.from_numpy(images.images_u8.transpose(0, 3, 1, 2).copy())


def trained(config: RunConfig, train: torch.Tensor) -> AnyDenoiser:
    """Return the averaged weights after all steps, as sampling and measuring see them."""
    learner, image_set = make_learner(config), ImageSet(train, {}, 1, (len(train),))
    for step in range(config.train.num_steps):
        learner.step(step, rank_slice(config, image_set, step, 0, 1))
    learner.network.load_state_dict(average_of(learner))
    return build_denoiser(config, AveragedNetwork(learner.network, CPU, bfloat16=False))


def drawn(denoiser: AnyDenoiser, config: RunConfig, count: int) -> torch.Tensor:
    """Return samples as the stage stores them."""
    x_0 = draw(denoiser, torch.arange(count), config.data.shape, sample=config.sample, seed=0)
    return to_levels(x_0, config.data.num_levels)


@pytest.mark.slow
def test_a_network_learns_heartbeats(tmp_path):
    """Catches: a training, a sampler and a bound of bits that do not belong together.

    The bound is at least -2.60 bits, where -2.347 is the most and -14.4 that of independent bits;
    .97 of the samples are one of five sequences, of which coins draw 5 in a million.
    """
    config = recipe("heartbeat").replaced({"train.num_steps": 800, "compute.num_workers": 1})
    splits = load_splits(config.data, cache=tmp_path)
    denoiser = trained(config, pixels(splits.train))
    test = pixels(splits.test)[:250]
    part = likelihood_part(denoiser, test, torch.arange(250), seed=0)
    bits = 20 * float(part["terms"].sum(1).mean())
    assert 2.3 < bits < 2.60
    assert not part["prior"].any()
    samples = drawn(denoiser, config, 500).reshape(500, 20)
    known = {bytes(row) for row in splits.train.images_u8.reshape(-1, 20)}
    legal = sum(bytes(row) in known for row in samples.numpy())
    assert len(known) == 5
    assert legal / 500 >= 0.97
    assert len({bytes(row) for row in samples.numpy()} & known) == 5
