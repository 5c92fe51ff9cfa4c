"""The recipes that enlarge, trained: what is drawn has its low resolution, and its class.

The gate has as closed forms what these show of whole trainings: `evaluation/measuring/
test_enlarging.py`, `training/test_low.py`, `sampling/test_cascade.py`.
"""

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from ddpm_core.conditioning import Conditioning
from ddpm_core.evaluation.measuring.enlarging import (
    LowMeasured,
    consistency_metric,
    enlarged_part,
    levels_of,
)
from ddpm_core.inference.low_resolution import LowResolutions
from ddpm_core.loading.held import ImageSet
from ddpm_core.recipes import recipe
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.sources.splits import load_splits
from tests.sampling.test_judged_digits import pixels, trained_on
from tests.training.small import CPU

pytestmark = [pytest.mark.trained, pytest.mark.timeout(1800)]

FEW = {"sample.sampler": "ddim", "sample.num_steps": 20}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return load_splits(recipe("digits").data, cache=tmp_path_factory.mktemp("cache"))


def test_what_is_drawn_has_the_low_resolution_that_it_was_made_of(splits):
    """Catches a network that does not look at what it enlarges, and one that trusts it whatever its
    noise: 5 dB above another image's, less by every level, and nothing left of it at 0.9."""
    config = recipe("digits-upscale").replaced(FEW)
    images_u8 = torch.from_numpy(splits.test.images_u8).permute(0, 3, 1, 2).contiguous()
    images = ImageSet(images_u8, {}, num_classes=1, counts=(len(images_u8),))
    found = enlarged_part(
        trained_on(config, splits.train),
        None,
        LowMeasured(config, CPU),
        images,
        0,
        len(images),
        given=Conditioning(),
        levels=levels_of(config),
        sample=config.sample,
    )
    metric = consistency_metric(found["own"].numpy(), found["other"].numpy(), config, {})
    values = [row["value"] for row in metric["by_level"]]
    print("dB by level", [round(one, 2) for one in values], "shuffled", metric["shuffled"])
    assert values[0] >= metric["shuffled"] + 5
    assert values == sorted(values, reverse=True)
    assert abs(values[-1] - metric["shuffled"]) <= 0.3


def test_a_cascade_draws_digits_of_the_classes_given(splits, tmp_path):
    """Catches labels that do not reach the second stage, and low resolutions of other images."""
    first, second = recipe("digits-4").replaced(FEW), recipe("digits-cascade").replaced(FEW)
    small = load_splits(first.data, cache=tmp_path).train
    positions = torch.arange(300)
    labels = positions % 10
    given = Conditioning(label=labels)
    drawn = _drawn(trained_on(first, small), first, given, positions)
    low = LowResolutions(second)
    levels = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
    shown = low.given(levels, low.level(0.0, levels), torch.zeros(300, 1, 8, 8))
    network = trained_on(second, splits.train)
    made = _drawn(network, second, Conditioning(label=labels, low=shown), positions)
    judge = SVC(gamma=0.05, C=10).fit(pixels(splits.train.images_u8), splits.train.labels)
    right = judge.predict(pixels(made)) == labels.numpy()
    print("judged right", right.mean())
    assert right.mean() >= 0.9
    other = low.given(levels.roll(1, 0), low.level(0.0, levels), torch.zeros(300, 1, 8, 8))
    mixed = _drawn(network, second, Conditioning(label=labels, low=other), positions)
    found = judge.predict(pixels(mixed)) == labels.numpy()
    print("judged right, low resolution of another", found.mean())
    assert found.mean() <= right.mean() - 0.1


def _drawn(denoiser, config, given, positions) -> np.ndarray:
    x_0 = draw(
        guided(denoiser, given, config.sample),
        positions,
        config.data.shape,
        sample=config.sample,
        seed=0,
    )
    return to_u8(x_0).numpy()
