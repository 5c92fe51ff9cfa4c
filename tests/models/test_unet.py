"""The U-Net: its structure and its behaviour."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.models.blocks import Attention, Conv, ResBlock
from tests.models.nets import PAPER_256, PAPER_CIFAR10, noise, outputs, perturbed, unet


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PAPER_CIFAR10, 35_746_307),
        (PAPER_256, 113_673_219),
        (PAPER_CIFAR10 | {"out_channels": 6}, 35_749_766),
        (PAPER_256 | {"base_channels": 192}, 255_677_955),
    ],
)
def test_number_of_parameters_is_the_published_one(config, expected):
    """Catches a missing bias, block or shortcut, and another width."""
    with torch.device("meta"):
        net = unet(config)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert not list(net.buffers())


@pytest.mark.parametrize(("config", "expected"), [(PAPER_CIFAR10, 6), (PAPER_256, 6)])
def test_attention_follows_every_block_of_its_resolution_and_the_middle(config, expected):
    """Catches one attention per level on the way up, and none in the middle: 2 + 1 + 3."""
    with torch.device("meta"):
        net = unet(config)
    assert sum(isinstance(module, Attention) for module in net.modules()) == expected


def test_attention_in_the_middle_is_always_there():
    """Catches a middle that attends only at the chosen resolutions."""
    net = unet(attention_resolutions=())
    assert [isinstance(m, Attention) for m in net.modules()].count(True) == 1


def test_every_normalisation_has_the_epsilon_and_groups_of_the_original():
    """Catches torch's default 1e-5, which no comparison with random weights can see."""
    with torch.device("meta"):
        norms = [m for m in unet(PAPER_CIFAR10).modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 2 * 22 + 6 + 1
    assert {(norm.eps, norm.num_groups) for norm in norms} == {(1e-6, 32)}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_passes(channels):
    """Catches a hard-coded 3, and a number of groups taken from the image."""
    net = perturbed(in_channels=channels, out_channels=2 * channels)
    prediction = outputs(net, noise(2, channels, 8, 8), [0, 5])
    assert prediction.shape == (2, 2 * channels, 8, 8)
    assert prediction.dtype == torch.float32


def test_height_and_width_may_differ():
    """Catches rows and columns exchanged: turning the kernels and the image turns the result.

    Turning is not enough to see (0, 1, 0, 1) padding, the comparison with diffusers is.
    """
    net, x_t = perturbed(), noise(2, 3, 8, 16)
    straight = outputs(net, x_t, [3, 900])
    assert straight.shape == (2, 3, 8, 16)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, Conv):
                layer.weight.copy_(layer.weight.transpose(2, 3).clone())
    turned = outputs(net, x_t.transpose(2, 3), [3, 900]).transpose(2, 3)
    torch.testing.assert_close(turned, straight, rtol=1e-4, atol=1e-4)


def test_attention_is_placed_by_the_height():
    """Catches placement by width or by image area."""
    net = unet(channel_mults=(1, 2, 2), image_height=16, attention_resolutions=(8,))
    places = [
        any(isinstance(attention, Attention) for attention in stage.attentions)
        for stage in net.down
    ]
    assert places == [False, True, False]


def test_images_of_a_batch_do_not_influence_each_other():
    """Catches batch statistics, and attention across the batch."""
    net, x_t = perturbed(), noise(3, 3, 8, 8)
    together = outputs(net, x_t, [1, 500, 999])
    alone = outputs(net, x_t[1:2], [500])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)


def test_every_timestep_gives_another_prediction():
    """Catches an embedding that is computed and not used, or added to some of the batch only."""
    net, x_t = perturbed(), noise(1, 3, 8, 8).expand(3, 3, 8, 8)
    prediction = outputs(net, x_t, [0, 1, 999])
    assert float((prediction[0] - prediction[1]).abs().max()) > 1e-3
    assert float((prediction[0] - prediction[2]).abs().max()) > 1e-3


def test_times_between_two_steps_are_continuous_and_whole_ones_the_same():
    """Catches: a time rounded to a step, on which solvers of differential equations would stall."""
    net, x_t = perturbed(), noise(2, 3, 8, 8)
    whole = outputs(net, x_t, [3, 700])
    torch.testing.assert_close(outputs(net, x_t, [3.0, 700.0]), whole, rtol=0, atol=0)
    near, half = outputs(net, x_t, [3.01, 700.01]), outputs(net, x_t, [3.5, 700.5])
    assert 0 < float((near - whole).abs().max()) < float((half - whole).abs().max())


def test_dropout_stands_before_the_second_convolution_and_rests_in_evaluation():
    """Catches dropout elsewhere, of whole channels, or while sampling."""
    net, x_t = perturbed(dropout=0.5), noise(2, 3, 8, 8)
    zeros = []
    for block in (m for m in net.modules() if isinstance(m, ResBlock)):
        block.conv_2.register_forward_pre_hook(
            lambda _, args: zeros.append(float((args[0] == 0).float().mean()))
        )
    assert torch.equal(outputs(net, x_t, [3, 4]), outputs(net, x_t, [3, 4]))
    assert max(zeros) < 0.01
    zeros.clear()
    net.train()
    before = torch.get_rng_state()
    seeding.seed_dropout(0, 0, 0, torch.device("cpu"))
    first, second = outputs(net, x_t, [3, 4]), outputs(net, x_t, [3, 4])
    torch.set_rng_state(before)
    assert not torch.equal(first, second)
    assert len(zeros) == 2 * 12
    assert all(0.4 < share < 0.6 for share in zeros)


def test_channels_last_changes_nothing():
    """Catches a view that assumes one layout in memory."""
    net, x_t = perturbed(), noise(2, 3, 8, 16)
    expected = outputs(net, x_t, [3, 900])
    net.to(memory_format=torch.channels_last)
    got = outputs(net, x_t.to(memory_format=torch.channels_last), [3, 900])
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_autocast_to_bfloat16_predicts_in_float32():
    """Catches a prediction rounded to 8 bits, and an operation that autocast cannot do."""
    net, x_t = perturbed(), noise(2, 3, 8, 8)
    expected = outputs(net, x_t, [3, 900])
    with torch.autocast("cpu", torch.bfloat16):
        got = outputs(net, x_t, [3, 900])
    assert got.dtype == torch.float32
    assert not torch.equal(got, got.bfloat16().float())
    # About 30 roundings to 8 bits lie on the way of a signal with standard deviation near 1.
    assert float((got - expected).std() / expected.std()) < 0.05


def test_every_parameter_gets_a_gradient():
    """Catches a layer that is made and never used, which stops distributed training."""
    net = perturbed(channel_mults=(1, 2, 2), attention_resolutions=(4, 2))
    net(noise(2, 3, 8, 8), torch.tensor([3, 900])).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("key.bias"):  # softmax is indifferent to it
            assert float(parameter.grad.abs().max()) > 0, name


def test_forward_never_waits_for_its_device():
    """Catches `.item()` and Python branches on tensors: fake tensors have no values."""
    with FakeTensorMode():
        net = unet()
        prediction = net(torch.empty(2, 3, 8, 8), torch.empty(2, dtype=torch.int64))
    assert prediction.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_channels": 15, "num_groups": 5}, "must be even"),
        ({"base_channels": 2, "num_groups": 1}, "at least 4"),
        ({"num_groups": 5}, "does not divide 16 channels"),
        ({"attention_resolutions": (16,)}, "feature maps are \\[8, 4\\] pixels high"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(changes, message):
    """Catches a division by zero in the embedding, and attention that silently never occurs."""
    with pytest.raises(ConfigError, match=message):
        unet(**changes)


def test_images_that_cannot_be_halved_are_refused():
    """Catches torch's own message about sizes of tensors in a concatenation."""
    with pytest.raises(ConfigError, match="pad them to multiples of 2"):
        unet()(noise(1, 3, 8, 7), torch.tensor([0]))


def test_a_conditioning_that_the_network_does_not_take_is_refused():
    """Catches a label that is given and ignored: samples of no class that say they are of one."""
    x_t, t = noise(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match="takes no conditioning and was called with label"):
        unet()(x_t, t, Conditioning(label=torch.zeros(2, dtype=torch.int64)))
