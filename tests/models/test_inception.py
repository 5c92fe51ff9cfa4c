"""The Inception network of 2015 beside torch-fidelity's, with equal random weights."""

from functools import cache

import pytest
import torch
from torch import Tensor

from ddpm_core.models.inception import Inception, resized_like_tensorflow
from tests.oracles.fidelity import torch_fidelity

_TAPS = {
    "64": "f64",
    "192": "f192",
    "768": "f768",
    "2048": "pooled",
    "logits_unbiased": "logits_unbiased",
    "logits": "logits",
}


@cache
def random_weights() -> dict[str, Tensor]:
    """Return weights under which every layer passes on numbers of about 1, none of them trivial."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in Inception().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = drawn.abs() * 0.2 + 0.9
        elif name.endswith(("bias", "running_mean")):
            state[name] = drawn * 0.2
        else:
            state[name] = drawn * (2 / shape[1:].numel()) ** 0.5
    return state


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (299, 299), (310, 7)])
def test_images_are_resized_as_tensorflow_1_did(size):
    """Catches: half pixels, corners aligned, antialiasing, height and width exchanged."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator).float()
    resize = torch_fidelity.interpolate_compat_tensorflow.interpolate_bilinear_2d_like_tensorflow1x
    expected = resize(images, size=(299, 299), align_corners=False)
    assert torch.equal(resized_like_tensorflow(images, 299, 299), expected)


def test_features_are_torch_fidelitys(tmp_path):
    """Catches: padding counted in an average, the average of the last block, another eps or order
    of branches, levels scaled otherwise, a bias in the logits of the score.
    """
    state = random_weights()
    torch.save(state, tmp_path / "weights.pth")
    oracle = torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
        "oracle", list(_TAPS), feature_extractor_weights_path=tmp_path / "weights.pth"
    )
    seen: list[Tensor] = []
    oracle.Mixed_6d.register_forward_hook(lambda _module, _given, found: seen.append(found))
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(state, assign=True)
    images_u8 = torch.randint(
        0, 256, (2, 3, 40, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    with torch.inference_mode():
        expected = dict(zip(_TAPS, oracle(images_u8), strict=True))
        found = network.eval()(images_u8)
    for name, tap in _TAPS.items():
        ours, scale = getattr(found, tap), expected[name].abs().max()
        assert scale > 1e-2, name
        torch.testing.assert_close(ours / scale, expected[name] / scale, rtol=0, atol=1e-5)
    # ADM's: channels last, the first seven of mixed_6/conv, which is the block's first branch.
    spatial = seen[0].permute(0, 2, 3, 1)[..., :7].reshape(2, -1)
    torch.testing.assert_close(found.spatial, spatial, rtol=1e-5, atol=1e-5)
