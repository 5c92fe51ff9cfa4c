"""The diffusion transformer: against diffusers, how it begins, and where its patches lie."""

import diffusers
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.models.dit import DiT, patchify, positions, unpatchify
from ddpm_core.models.dit_interop import from_diffusers, to_diffusers
from tests.models.diffusers_oracle import perturb
from tests.models.nets import noise, outputs

SMALL = {
    "in_channels": 3,
    "out_channels": 6,
    "image_size": (12, 12),
    "patch_size": 2,
    "hidden_size": 48,
    "num_layers": 3,
    "num_heads": 4,
}


def dit(*, seed=0, **changes) -> DiT:
    return DiT(**(SMALL | changes), generator=seeding.generator(seed, "init")).eval()


def perturbed(**changes) -> DiT:
    net = dit(**changes)
    perturb(net, scale=0.1)
    return net


def theirs(ours: DiT) -> diffusers.DiTTransformer2DModel:
    """Return diffusers' network with our weights."""
    size = ours.blocks[0].linear_2.out_features
    heads = ours.blocks[0].attention.num_heads
    patches = ours.patch_size**2
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=size // heads,
        in_channels=ours.patch_in.in_features // patches,
        out_channels=ours.patch_out.out_features // patches,
        num_layers=len(ours.blocks),
        sample_size=ours.image_size[0],
        patch_size=ours.patch_size,
        num_embeds_ada_norm=ours.null.label.item() if ours.accepts else 1,
        norm_eps=1e-6,
    )
    weights = to_diffusers(ours.state_dict(), patch_size=ours.patch_size)
    net.load_state_dict(weights, strict=True)
    return net.to(ours.patch_in.weight.dtype).eval()


@pytest.mark.parametrize(("patch_size", "num_classes"), [(2, None), (3, 5)])
def test_it_is_the_network_of_diffusers(patch_size, num_classes):
    """Catches: patches, heads, or the six parts of a modulation in another order; positions with
    rows and columns exchanged; sines where cosines stand; another epsilon, GELU or scale."""
    ours = perturbed(patch_size=patch_size, num_classes=num_classes).double()
    x_t, t = noise(4, 3, 12, 12).double(), torch.tensor([0, 1, 500, 999])
    # Without classes any label is the same; with them, the last row is that of none.
    label = torch.tensor([0, 1, 1, 0] if num_classes is None else [0, 3, 4, 5])
    given = NOTHING if num_classes is None else Conditioning(label=label)
    with torch.no_grad():
        expected, found = theirs(ours)(x_t, t, class_labels=label).sample, ours(x_t, t, given)
    assert float(expected.std()) > 0.1
    # Their positions and sinusoids are float32 too; what is left is the rounding of float64.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_in_float32_it_is_diffusers_network_to_rounding():
    """Catches: a part that computes in less than float32."""
    ours, x_t, t = perturbed(), noise(2, 3, 12, 12), torch.tensor([3, 900])
    with torch.no_grad():
        expected = theirs(ours)(x_t, t, class_labels=torch.tensor([0, 1])).sample
    torch.testing.assert_close(outputs(ours, x_t, [3, 900]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "millions"),
    [((384, 12, 6), 33), ((768, 12, 12), 130), ((1024, 24, 16), 458), ((1152, 28, 16), 675)],
    ids=["S/2", "B/2", "L/2", "XL/2"],
)
def test_the_number_of_parameters_is_the_published_one(sizes, millions):
    """Catches: a layer or a multiple that is another one (the paper's table 4; theirs have a
    row for each of 1001 labels beside)."""
    hidden_size, num_layers, num_heads = sizes
    with torch.device("meta"):
        net = dit(
            in_channels=4,
            out_channels=8,
            image_size=(32, 32),
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
        )
    own = sum(one.numel() for one in net.parameters())
    assert round((own + 1001 * hidden_size) / 10**6) == millions
    assert not set(net.state_dict()) & {"positions"}


def test_it_begins_as_the_function_that_is_0():
    """Catches: a gate or a last layer that begins with random weights; in the paper the blocks
    begin as the identity (adaLN-Zero), and the output at 0."""
    net, x_t = dit(), noise(2, 3, 12, 12)
    assert torch.count_nonzero(outputs(net, x_t, [0, 999])) == 0
    x = noise(2, 36, 48)
    assert torch.equal(net.blocks[0](x, noise(2, 48)), x)
    others = [one for name, one in net.named_parameters() if "modul" not in name and one.ndim == 2]
    assert sum(bool(one.any()) for one in others) == len(others) - 1  # all but patch_out


def test_weights_begin_as_in_the_original():
    """Catches: an embedding as wide as the other layers, and weights that follow another rule than
    Glorot's: variance 2 / (in + out)."""
    net = dit(hidden_size=384, num_layers=1, num_heads=6, num_classes=60)
    assert float(net.class_embed.weight.detach().var()) == pytest.approx(0.02**2, rel=0.05)
    for layer, variance in [
        (net.time_embed.linear_1, 0.02**2),
        (net.time_embed.linear_2, 0.02**2),
        (net.blocks[0].attention.query_key_value, 2 / (384 + 3 * 384)),
        (net.blocks[0].linear_1, 2 / (384 + 4 * 384)),
        (net.patch_in, 2 / (3 * 4 + 384)),
    ]:
        assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.05)
        assert not layer.bias.any()
    again, other = dit(hidden_size=384, num_layers=1, num_heads=6, num_classes=60), dit(seed=1)
    assert torch.equal(again.time_embed.linear_2.weight, net.time_embed.linear_2.weight)
    assert not torch.equal(other.patch_in.weight, dit().patch_in.weight)


def test_patches_are_cut_and_put_back_where_they_were():
    """Catches: rows and columns exchanged, within a patch or between patches."""
    x = torch.arange(2 * 1 * 4 * 6).reshape(2, 1, 4, 6).float()
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 6, 4)
    assert tokens[0].tolist()[:2] == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert tokens[0, 3].tolist() == [12, 13, 18, 19]
    # With one channel the order of the features is the same both ways.
    assert torch.equal(unpatchify(tokens, 2, height=4, width=6), x)
    two = torch.cat([x, 100 + x], dim=1)
    features = patchify(two, 2).reshape(2, 6, 2, 4).transpose(2, 3).reshape(2, 6, 8)
    assert torch.equal(unpatchify(features, 2, height=4, width=6), two)


def test_positions_are_sines_and_cosines_of_column_and_row():
    """Catches: rows first, frequencies of another base, an interleaved order."""
    places = positions(2, 3, 8)
    assert places.shape == (6, 8)
    row, column = torch.tensor(1.0), torch.tensor(2.0)
    expected = [
        *(column * torch.tensor([1, 0.01])).sin(), *(column * torch.tensor([1, 0.01])).cos(),
        *(row * torch.tensor([1, 0.01])).sin(), *(row * torch.tensor([1, 0.01])).cos(),
    ]  # fmt: skip
    torch.testing.assert_close(places[1 * 3 + 2], torch.stack(expected), rtol=1e-6, atol=1e-7)


def test_without_positions_moving_the_patches_moves_the_prediction():
    """Catches: a token that is written to another place than it was read from, in images that are
    not square; with positions it must not be so, or they are not used."""
    net, x_t = perturbed(image_size=(4, 8), num_layers=1), noise(1, 3, 4, 8)
    moved = x_t.roll((2, 4), dims=(2, 3))
    apart = outputs(net, moved, [3]) - outputs(net, x_t, [3]).roll((2, 4), dims=(2, 3))
    assert float(apart.abs().max()) > 1e-2
    net.positions.zero_()
    expected = outputs(net, x_t, [3]).roll((2, 4), dims=(2, 3))
    torch.testing.assert_close(outputs(net, moved, [3]), expected, rtol=1e-4, atol=1e-5)


def test_images_of_a_batch_do_not_influence_each_other_and_times_do():
    """Catches: attention across the batch, and an embedding of the first image for all."""
    net, x_t = perturbed(), noise(3, 3, 12, 12)
    together = outputs(net, x_t, [1, 500, 999])
    torch.testing.assert_close(outputs(net, x_t[1:2], [500])[0], together[1], rtol=1e-4, atol=1e-5)
    assert float((outputs(net, x_t[1:2], [501.5])[0] - together[1]).abs().max()) > 1e-4


def test_autocast_to_bfloat16_predicts_in_float32():
    """Catches: a prediction rounded to 8 bits, and an operation that autocast cannot do."""
    net, x_t = perturbed(), noise(2, 3, 12, 12)
    expected = outputs(net, x_t, [3, 900])
    with torch.autocast("cpu", torch.bfloat16):
        got = outputs(net, x_t, [3, 900])
    assert got.dtype == torch.float32
    assert not torch.equal(got, got.bfloat16().float())
    assert 0 < float((got - expected).std() / expected.std()) < 0.05


def test_every_parameter_gets_a_gradient():
    """Catches: a layer that is made and never used, which stops distributed training."""
    net = perturbed(num_classes=2)
    given = Conditioning(label=torch.tensor([0, 2]))
    net(noise(2, 3, 12, 12), torch.tensor([3, 900]), given).square().mean().backward()
    assert all(float(one.grad.abs().max()) > 0 for one in net.parameters())


def test_forward_never_waits_for_its_device():
    """Catches: `.item()` and Python branches on tensors: fake tensors have no values."""
    with FakeTensorMode():
        net = dit()
        prediction = net(torch.empty(2, 3, 12, 12), torch.empty(2, dtype=torch.int64))
    assert prediction.shape == (2, 6, 12, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, "12x12 pixels cannot be cut into patches of patch_size=5"),
        ({"hidden_size": 50, "num_heads": 5}, "hidden_size=50 must be a multiple of 4"),
        ({"num_heads": 5}, "and of num_heads=5"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(changes, message):
    """Catches: torch's own message about a shape, in a worker."""
    with pytest.raises(ConfigError, match=message):
        dit(**changes)


def test_images_of_another_size_and_labels_are_refused():
    """Catches: positions that are broadcast, and a label that is given and ignored."""
    with pytest.raises(ConfigError, match=r"12x14 pixels were given .* of 12x12"):
        dit()(noise(1, 3, 12, 14), torch.tensor([0]))
    label = Conditioning(label=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="this transformer takes no conditioning"):
        dit()(noise(1, 3, 12, 12), torch.tensor([0]), label)


# -- weights of diffusers ------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [None, 4])
def test_weights_come_back_bit_for_bit(num_classes):
    """Catches: queries, keys and values joined in another order than they were split in."""
    ours = perturbed(num_classes=num_classes).state_dict()
    with torch.device("meta"):
        like = dit(num_classes=num_classes).state_dict()
    there = to_diffusers(ours, patch_size=2)
    back = from_diffusers(there, like, patch_size=2)
    assert list(back) == list(ours)
    assert all(torch.equal(back[name], one) for name, one in ours.items())
    assert len({one.data_ptr() for one in there.values()}) == len(there)  # safetensors refuses it


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight",
            "uses the label of",
        ),
        ("transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias", "each in another way"),
    ],
)
def test_a_network_that_is_another_function_is_refused(name, message):
    """Catches: labels dropped, and one embedding of several taken for all."""
    there = to_diffusers(dit().state_dict(), patch_size=2)
    there[name][0] += 1
    with pytest.raises(CheckpointError, match=message):
        from_diffusers(there, dit().state_dict(), patch_size=2)


def test_weights_of_another_network_are_refused():
    """Catches: strict=False, and a shape that is made to fit."""
    there = to_diffusers(dit(hidden_size=32).state_dict(), patch_size=2)
    del there["proj_out_2.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing \(proj_out_2.bias\); .* another shape"):
        from_diffusers(there, dit().state_dict(), patch_size=2)
    with pytest.raises(CheckpointError, match="no parameter of our DiT"):
        to_diffusers(dit().state_dict() | {"conv_in.weight": torch.zeros(1)}, patch_size=2)
