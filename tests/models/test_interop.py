"""Weights by the names of others: the same function, the same bits, and nothing wrong unnamed."""

import diffusers
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.errors import CheckpointError
from ddpm_core.models.interop import (
    diffusers_name,
    from_diffusers,
    from_original,
    original_name,
    to_diffusers,
)
from ddpm_core.models.unet import UNet
from tests.models.diffusers_oracle import perturb
from tests.models.original_oracle import Variables, original_unet

# (channel_mults, num_res_blocks, heights with attention) of images of 8x8, 16 channels.
NETWORKS = [
    ((1,), 1, ()),
    ((1, 2), 1, (4,)),
    ((1, 2, 2), 2, (8, 2)),
    ((2, 1, 3), 1, (8, 4, 2)),
]


def network(mults, num_res_blocks, attends) -> UNet:
    net = UNet(
        in_channels=2,
        out_channels=2,
        base_channels=16,
        channel_mults=mults,
        num_res_blocks=num_res_blocks,
        attention_resolutions=attends,
        image_height=8,
        dropout=0.0,
        num_groups=8,
        generator=seeding.generator(0, "init"),
    )
    net = net.double().eval()
    perturb(net)
    return net


def theirs_of(mults, num_res_blocks, attends) -> diffusers.UNet2DModel:
    kinds = [
        "AttnDownBlock2D" if 8 // 2**i in attends else "DownBlock2D" for i in range(len(mults))
    ]
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        attention_head_dim=None,
        block_out_channels=[16 * mult for mult in mults],
        down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        layers_per_block=num_res_blocks,
        norm_eps=1e-6,
        norm_num_groups=8,
    ).double()


def same_bits(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


@pytest.mark.parametrize("shape", NETWORKS[:3])
def test_every_network_computes_the_same_in_diffusers_and_comes_back_bit_for_bit(shape):
    """Catches: a level, a block or an attention that is taken for another; a rounded weight."""
    ours, theirs = network(*shape), theirs_of(*shape)
    state = ours.state_dict()
    theirs.load_state_dict(to_diffusers(state), strict=True)
    x_t = torch.randn(2, 2, 8, 8, generator=seeding.generator(1, "noise"), dtype=torch.float64)
    t = torch.tensor([3, 900])
    with torch.no_grad():
        expected = theirs(x_t, t).sample
        assert float((ours(x_t, t) - expected).abs().max()) < 1e-10
    assert float(expected.std()) > 0.1
    back = from_diffusers(theirs.state_dict(), state)
    assert list(back) == list(state)
    assert same_bits(back, state)


def test_the_old_names_of_diffusers_and_attention_as_convolutions_are_taken():
    """Catches: a folder of 2022 that is refused, or whose query is taken for the key."""
    state = network(*NETWORKS[1]).state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    theirs = {}
    for key, tensor in to_diffusers(state).items():
        for now, before in old.items():
            if f".{now}." in key:
                key = key.replace(f".{now}.", f".{before}.")
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        theirs[key] = tensor
    assert sum(".proj_attn." in key for key in theirs) == 2 * (1 + 1 + 2)
    assert same_bits(from_diffusers(theirs, state), state)


@pytest.mark.parametrize("shape", NETWORKS)
def test_the_original_network_on_its_own_variables_is_ours_on_what_is_read_of_them(shape):
    """Catches: a matrix that is not transposed though it is square, stages counted from the wrong
    end, gamma for beta, a kernel that is flipped.
    """
    mults, num_res_blocks, attends = shape
    ours, variables = network(*shape), Variables(seed=4)
    x_t = torch.randn(2, 8, 8, 2, generator=seeding.generator(1, "noise"), dtype=torch.float64)
    t = torch.tensor([3, 900])
    expected = original_unet(
        variables,
        x_t,
        t,
        base=16,
        mults=mults,
        num_res=num_res_blocks,
        attends=attends,
        groups=8,
    )
    assert float(expected.std()) > 0.1
    weights = from_original(variables, ours.state_dict(), num_levels=len(mults))
    ours.load_state_dict(weights)
    with torch.no_grad():
        found = ours(x_t.permute(0, 3, 1, 2), t).permute(0, 2, 3, 1)
    assert float((found - expected).abs().max()) < 1e-10


def original_variables(state, num_levels: int) -> dict[str, torch.Tensor]:
    """Return our weights as the original keeps them: the way back of `from_original`."""
    variables = {}
    for name, tensor in state.items():
        theirs = original_name(name, num_levels)
        if "nin_shortcut/W" in theirs:
            tensor = tensor[:, :, 0, 0].t()
        elif tensor.ndim == 4:
            tensor = tensor.permute(2, 3, 1, 0)
        elif tensor.ndim == 2:
            tensor = tensor.t()
        variables[theirs] = tensor.contiguous()
    return variables


@pytest.mark.parametrize("shape", NETWORKS)
def test_the_way_to_the_original_and_back_changes_no_bit(shape):
    """Catches: two of our parameters under one name of theirs."""
    state = network(*shape).state_dict()
    variables = original_variables(state, len(shape[0]))
    assert len(variables) == len(state)
    assert same_bits(from_original(variables, state, num_levels=len(shape[0])), state)


def test_averages_are_taken_before_the_weights_and_what_adam_keeps_is_passed_over():
    """Catches: the raw weights of a checkpoint that has averages, or Adam's moments as unknown."""
    state = network(*NETWORKS[1]).state_dict()
    variables = original_variables(state, 2)
    dump = {
        name.removeprefix("model/"): torch.zeros_like(value) for name, value in variables.items()
    }
    dump |= {f"{name}/ExponentialMovingAverage": value for name, value in variables.items()}
    dump |= {f"{name}/Adam_1": value for name, value in variables.items()}
    dump |= {"global_step": torch.tensor(7), "beta1_power": torch.tensor(0.5)}
    assert same_bits(from_original(dump, state, num_levels=2), state)

    with pytest.raises(
        CheckpointError, match=r"network, .*: 1 unknown \(model/class_emb/W\)\. All"
    ):
        from_original(dump | {"class_emb/W": torch.zeros(2)}, state, num_levels=2)
    del dump["model/conv_in/W/ExponentialMovingAverage"]
    with pytest.raises(CheckpointError, match=r"1 missing \(model/conv_in/W\)\. All"):
        from_original(dump, state, num_levels=2)


def test_everything_that_does_not_match_is_named_and_counted():
    """Catches: the first difference alone, or a key that is silently left as it was."""
    state = network(*NETWORKS[1]).state_dict()
    theirs = to_diffusers(state)
    for index in range(2):
        del theirs[f"up_blocks.0.attentions.{index}.to_q.weight"]
    del theirs["conv_in.bias"], theirs["conv_out.bias"]
    theirs["class_embedding.weight"] = torch.zeros(3)
    theirs["conv_in.weight"] = torch.zeros(16, 3, 3, 3)
    with pytest.raises(CheckpointError) as caught:
        from_diffusers(theirs, state)
    message = str(caught.value)
    assert "4 missing (conv_in.bias, conv_out.bias, up_blocks.0.attentions.0.to_q.weight, ...)" in (
        message
    )
    assert "1 unknown (class_embedding.weight)" in message
    assert "conv_in.weight is (16, 3, 3, 3) and would be conv_in.weight (16, 2, 3, 3)" in message
    assert f"All {len(state)} must be there" in message


def test_a_weight_under_both_of_its_names_is_refused():
    """Catches: one of two queries that is taken, and nobody knows which."""
    state = network(*NETWORKS[1]).state_dict()
    theirs = to_diffusers(state)
    theirs["mid_block.attentions.0.query.weight"] = theirs["mid_block.attentions.0.to_q.weight"] + 1
    with pytest.raises(CheckpointError, match="under its present name and its old one"):
        from_diffusers(theirs, state)


@pytest.mark.parametrize("name", ["down.0.blocks.0.conv_3.weight", "encoder.weight", "conv_in"])
def test_a_name_that_is_not_ours_is_refused(name):
    """Catches: a KeyError, or a made-up name."""
    for named in (diffusers_name, lambda one: original_name(one, 2)):
        with pytest.raises(CheckpointError, match="no parameter of our U-Net"):
            named(name)
