"""The U-Net of guided diffusion: diffusers' function, and what its options change."""

import math
from dataclasses import replace

import pytest
import torch

from ddpm_core.conditioning import NOTHING, Conditioning, Known, LowRes
from ddpm_core.config import AdmConfig
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.inference.networks import build_network
from ddpm_core.models import adm_interop, text_interop
from ddpm_core.models.fit import fit
from ddpm_core.models.recompute import recompute_activations
from ddpm_core.text.tokens import encode
from tests.models.adm_oracle import SMALL, TEXT, network_of, noise, small, their_encoder, their_unet
from tests.models.diffusers_oracle import perturb

T = torch.tensor([0, 17])
CAPTIONS = ["a red 7", ""]
EFFICIENT = {"model__resample_first": True, "model__scale_skips": True}


def given(length=12, captions=CAPTIONS) -> Conditioning:
    return Conditioning(text=encode(captions, length))


@torch.no_grad()
def outputs(network, conditioning=NOTHING, x_t=None):
    return network(noise(2, 1, 8, 8) if x_t is None else x_t, T, conditioning)


@torch.no_grad()
def test_without_text_it_is_a_unet_2d_model():
    """Catches any difference in order, in what a block scales and shifts by, in resampling, heads,
    epsilon, skips or the sines of the timestep; in float64.
    """
    config = small(
        model__num_res_blocks=[2],
        model__conditioning="label",
        model__num_classes=10,
        diffusion__variance="learned_range",
        train__loss="hybrid",
    )
    ours = network_of(config)
    labels = torch.tensor([3, 10])
    found = outputs(ours, Conditioning(label=labels))
    expected = their_unet(config, ours)(noise(2, 1, 8, 8), T, class_labels=labels).sample
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["last", "attention"])
def test_with_text_it_is_a_unet_2d_condition_model_beside_a_siglip(pooling):
    """Catches: keys taken for values, padding that is masked or lost, scores scaled twice, a
    vector of another position; another encoder than the one that is written.
    """
    config = small(TEXT, model__text_pool=pooling)
    ours, text = network_of(config), given().text
    states = their_encoder(config, ours)(text_interop.input_ids(text))
    torch.testing.assert_close(
        ours.text_encoder(text), states.last_hidden_state, rtol=0, atol=1e-10
    )
    labels = states.pooler_output if pooling == "last" else None
    unet = their_unet(config, ours)
    expected = unet(noise(2, 1, 8, 8), T, states.last_hidden_state, class_labels=labels).sample
    found = outputs(ours, given())
    # There, pooling takes its softmax in float32.
    atol = 1e-10 if pooling == "last" else 1e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    # Each part of the text matters: what is there, and where it ends.
    for other in (["a red 8", ""], ["a red 7 ", ""], ["a red 7", "x"]):
        assert float((outputs(ours, given(captions=other)) - found).abs().max()) > 1e-6


def test_weights_come_back_from_there_as_they_went():
    """Catches: a weight under another's name, and padding that is read as tokens."""
    config = small(TEXT, model__text_pool="attention")
    ours = network_of(config).state_dict()
    unet = adm_interop.to_diffusers(ours, pools_by_attention=True)
    back = adm_interop.from_diffusers(unet, ours, pools_by_attention=True)
    inner = {
        name.removeprefix(adm_interop.TEXT_ENCODER): one
        for name, one in ours.items()
        if name.startswith(adm_interop.TEXT_ENCODER)
    }
    tower = text_interop.to_transformers(inner)
    older = {f"text_model.{name}": one for name, one in tower.items()}
    encoder = text_interop.from_transformers(older, inner)
    assert len(back) + len(encoder) == len(ours)
    assert all(torch.equal(back[name], ours[name]) for name in back)
    assert all(torch.equal(encoder[name], inner[name]) for name in inner)
    with pytest.raises(CheckpointError, match="head of this encoder"):
        text_interop.from_transformers(tower | {"head.bias": torch.ones(24)}, inner)
    with pytest.raises(CheckpointError, match="no parameter that a U-Net"):
        adm_interop.diffusers_name("down.0.halving.conv.weight")


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (small(), 0),
        (small(model__conditioning="label", model__known=True, train__augment=0.1), 11),
        (small(TEXT), 0),
        (small(TEXT, model__text_pool="attention", model__low_size=[4, 4], **EFFICIENT), 0),
    ],
)
def test_parameters_are_counted_as_torch_builds_them(config, rows):
    """Catches: a layer that the count forgets, before anything of torch is there."""
    built = sum(one.numel() for one in build_network(config).parameters())
    assert built == config.num_parameters
    if rows:
        without = config.replaced({"model.conditioning": "none"}).num_parameters
        assert built == without + rows * 64


def test_the_defaults_are_imagenet_64_s():
    """Catches: another width, depth or attention than the published network's, of 1000 classes and
    no row for none: 295.9 M (Dhariwal and Nichol 2021, table 11).
    """
    rows = 1000 * 4 * 192
    count = AdmConfig().num_parameters(in_channels=3, out_channels=6, height=64, width=64)
    assert count + rows == 295_904_454


def test_skips_are_scaled_and_blocks_begin_as_the_identity():
    """Catches: a factor on both sides of the concatenation, or none; a block that is not begun at
    the identity.
    """
    config = small(model__scale_skips=True)
    network = network_of(config)
    block = network.up[0].blocks[0]
    x, skip, embedding = noise(1, 32, 4, 4), noise(1, 32, 4, 4, seed=1), noise(1, 64)
    with torch.no_grad():
        found = block(x, embedding, skip)
        joined = torch.cat([x, skip / math.sqrt(2)], dim=1)
        torch.testing.assert_close(found, block(joined, embedding), rtol=0, atol=1e-12)
    begun = build_network(config).down[0].blocks[0]
    plain = noise(1, 16, 8, 8).float()
    assert torch.equal(begun(plain, embedding.float()), plain)


def test_what_resamples_first_computes_nothing_at_full_resolution():
    """Catches: blocks at the images' own resolution, attention named by another, a skip that is
    left over or missing.
    """
    config = small(**EFFICIENT)
    network, heights = network_of(config), []
    for stage in network.down:
        stage.blocks[0].register_forward_hook(lambda _, args, __: heights.append(args[0].shape[2]))
    assert outputs(network).shape == (2, 1, 8, 8)
    assert heights == [4, 2]
    assert config.model.heights(8) == [4, 2]
    assert [len(stage.attentions) for stage in network.down] == [1, 0]
    with pytest.raises(ConfigError, match=r"data.height=8 cannot be halved 4 times"):
        small(model__channel_mults=[1, 1, 1, 2], model__num_res_blocks=[1], **EFFICIENT)


def test_every_parameter_of_a_network_of_text_has_a_gradient():
    """Catches: an encoder outside of what is trained, padding or a pooling that nothing reads: the
    ranks would wait for a gradient that never comes.
    """
    network = network_of(small(TEXT, model__text_pool="attention"))
    network(noise(2, 1, 8, 8), T, given()).square().sum().backward()
    without = [
        name
        for name, one in network.named_parameters()
        if one.grad is None or not bool(one.grad.any())
    ]
    # Softmax does not notice what is added to all keys of a query.
    assert not [name for name in without if not name.endswith("key.bias")]


def test_gradients_are_the_same_when_activations_are_computed_again():
    """Catches: a block, of images or of texts, that is not computed again, or otherwise."""
    config = small(TEXT)
    grads = []
    for again in (False, True):
        network = network_of(config)
        if again:
            recompute_activations(network)
        network(noise(2, 1, 8, 8), T, given()).square().sum().backward()
        grads.append([one.grad for one in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_states_may_be_given_in_place_of_tokens_and_other_lengths_are_refused():
    """Catches: texts that are encoded again with each call though nothing of them changes."""
    network, own = network_of(small(TEXT)), given()
    states = network.text_encoder(own.text)
    encoded = Conditioning(text=replace(own.text, tokens=states))
    torch.testing.assert_close(outputs(network, encoded), outputs(network, own), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"texts of 9 tokens .* to 12, model.text_length"):
        outputs(network, given(9))
    with pytest.raises(DataError, match="takes text and was called with no conditioning"):
        outputs(network)


def test_what_is_known_and_a_low_resolution_begin_as_nothing_and_are_seen():
    """Catches: parts that change a base before they are trained (exactly 0.0 at the first step, as
    of UNet), parts that are never looked at.
    """
    base = small(TEXT)
    grown = base.replaced({"model.known": True, "model.low_size": [4, 4]})
    plain, network = (build_network(one) for one in (base, grown))
    perturb(plain)
    network.load_state_dict(fit(plain.state_dict(), network.state_dict()))
    image, mask = noise(2, 1, 8, 8, seed=1).float(), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :4], x_t = True, noise(2, 1, 8, 8).float()
    low = LowRes(image, torch.tensor([0, 20]))
    conditioning = replace(given(), known=Known(image, mask), low=low)
    assert torch.equal(outputs(network, conditioning, x_t), outputs(plain, given(), x_t))
    perturb(network)
    found = outputs(network, conditioning, x_t)
    for other in (
        replace(conditioning, known=Known(image, ~mask)),
        replace(conditioning, low=LowRes(image, torch.tensor([1, 21]))),
        replace(conditioning, low=LowRes(image + 1, low.level)),
    ):
        assert float((outputs(network, other, x_t) - found).abs().max()) > 1e-6


def test_the_null_is_the_empty_text_of_tokens():
    """Catches: zeros in place of the empty text, with which nothing is ever trained."""
    null = build_network(small(TEXT)).null
    assert null.parts == {"text"}
    assert torch.equal(null.text.tokens, encode([""], 12).tokens)
    assert null.text.mask.tolist() == [[True] + [False] * 11]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model.num_res_blocks": [1, 2, 3]}, "3 numbers, and channel_mults=[1, 2] are 2"),
        ({"model.head_channels": 3}, "head_channels=3 does not divide base_channels*2=32"),
        (
            {"model.head_channels": 32, "model.attention_resolutions": [8]},
            "model.head_channels=32 does not divide the 16 channels",
        ),
        ({"model.text_hidden_size": 64}, "text_hidden_size=64 is a setting of conditioning=text"),
        ({"model.attention_resolutions": [16]}, "which never occurs"),
        ({"model.base_channels": 6, "model.num_groups": 4}, "does not divide base_channels*1"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, part):
    """Catches: a traceback of torch, and a key that cannot matter."""
    with pytest.raises(ConfigError) as caught:
        small(SMALL | changes)
    assert part in str(caught.value)
