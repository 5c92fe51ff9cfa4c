"""A UNet2DModel's configuration: taken as our network where it is that, named where it is not."""

import diffusers
import pytest

from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.unet_config import read_unet_config, write_unet_config
from ddpm_core.recipes import cifar10, digits, mnist
from tests.exchange.theirs import GOOGLE_UNET


def read(**changes):
    return read_unet_config(GOOGLE_UNET | changes, origin="config.json")


def test_the_published_network_is_the_papers():
    """Catches: a level or a width that is read off by one; dropout, which nobody wrote down."""
    network = read()
    paper = cifar10().model.model_dump(mode="json")
    assert network.model == paper | {"dropout": 0.0}
    assert network.shape == (3, 32, 32)
    assert network.out_channels == 3


def test_heights_with_attention_are_those_of_their_images():
    """Catches: attention at 16 pixels because the paper has it there."""
    network = read(sample_size=[64, 32])
    assert network.shape == (3, 64, 32)
    assert network.model["attention_resolutions"] == [32]


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("flip_sin_to_cos", True, "must be false"),
        ("freq_shift", 0, "must be 1"),
        ("norm_eps", 1e-5, "must be 1e-06"),
        ("downsample_padding", 1, "must be 0"),
        ("attention_head_dim", 8, "must be null: one head as wide as the feature map (256, 256)"),
        ("act_fn", "gelu", 'must be "silu" or "swish"'),
        ("center_input_sample", True, "must be false"),
        ("mid_block_scale_factor", 1.4, "must be 1"),
        ("mid_block_type", None, 'must be "UNetMidBlock2D"'),
        ("add_attention", False, "must be true"),
        ("time_embedding_type", "fourier", 'must be "positional"'),
        ("time_embedding_dim", 256, "must be null or 512"),
        ("class_embed_type", "timestep", "must be null"),
        ("num_class_embeds", 1, "must be null, or the number of classes and one more"),
        ("resnet_time_scale_shift", "scale_shift", 'must be "default"'),
        ("downsample_type", "resnet", 'must be "conv"'),
        ("upsample_type", "resnet", 'must be "conv"'),
        ("attn_norm_num_groups", 16, "must be null or norm_num_groups"),
        ("block_out_channels", [128, 192, 256, 256], "must be multiples of the first"),
        ("block_out_channels", [128, 256], "must be 2, as many as block_out_channels"),
        ("block_out_channels", [], "must be a list of whole numbers"),
        ("down_block_types", ["SkipDownBlock2D"] * 4, "must be a list of DownBlock2D and Attn"),
        ("up_block_types", ["UpBlock2D"] * 4, "must be the way back: UpBlock2D, UpBlock2D, Attn"),
        ("out_channels", 4, "must be in_channels=3, or twice that"),
        ("layers_per_block", 2.5, "must be a whole number"),
        ("in_channels", True, "must be a whole number"),
        ("sample_size", None, "must say one size, or height and width"),
        ("sample_size", [32], "must say one size, or height and width"),
        ("dropout", "0.1", "must be a number"),
        ("_class_name", "UNet2DConditionModel", 'must be "UNet2DModel"'),
        ("rotary_embedding", 4, "does not know what that changes"),
    ],
)
def test_another_function_is_refused_with_key_value_and_rule(key, value, rule):
    """Catches: weights that load strictly, and mean something else."""
    with pytest.raises(ConfigError) as caught:
        read(**{key: value})
    assert str(caught.value).startswith("config.json describes what this program has not:\n  ")
    lines = [line for line in str(caught.value).splitlines() if rule in line]
    assert lines, str(caught.value)


@pytest.mark.parametrize(
    "key", ["flip_sin_to_cos", "freq_shift", "norm_eps", "downsample_padding", "attention_head_dim"]
)
def test_a_key_that_is_not_there_has_their_default_and_not_ours(key):
    """Catches: an old file without the key that is taken to say what we would."""
    values = {k: v for k, v in GOOGLE_UNET.items() if k != key}
    with pytest.raises(ConfigError, match=f"{key}, not given, has diffusers' default"):
        read_unet_config(values, origin="config.json")


def test_all_that_is_wrong_is_said_at_once():
    """Catches: one error per attempt."""
    with pytest.raises(ConfigError) as caught:
        read(freq_shift=0, norm_eps=1e-5, num_class_embeds="ten")
    for line in ("freq_shift=0: must be 1", "norm_eps=1e-05:", 'num_class_embeds="ten":'):
        assert line in str(caught.value)


def test_what_changes_nothing_is_taken():
    """Catches: a refusal of every file that a newer diffusers has written."""
    assert (
        read(
            act_fn="swish",
            time_embedding_dim=512,
            attn_norm_num_groups=32,
            attention_head_dim=256,
            num_train_timesteps=1000,
            freshly_invented=None,
        )
        == read()
    )


@pytest.mark.parametrize(
    "config",
    [
        digits(),
        mnist(),
        cifar10(),
        digits().replaced(
            {
                "data.width": 12,
                "model.channel_mults": [1, 3, 2],
                "model.attention_resolutions": [2, 8],
                "diffusion.variance": "learned_range",
                "train.loss": "hybrid",
            }
        ),
    ],
)
def test_our_networks_are_written_so_that_diffusers_and_we_read_the_same(config: RunConfig):
    """Catches: a key of ours that is not written, or that diffusers spells otherwise."""
    written = write_unet_config(config, config.model)
    network = read_unet_config(written, origin="ours")
    ours = config.model.model_dump(mode="json")
    assert {**network.model, "attention_resolutions": None} == {
        **ours,
        "attention_resolutions": None,
    }
    assert set(network.model["attention_resolutions"]) == set(ours["attention_resolutions"])
    assert network.shape == config.data.shape
    assert network.out_channels == config.out_channels
    accepted, ignored = diffusers.UNet2DModel.extract_init_dict(written)[:2]
    assert not ignored
    assert set(accepted) == set(written) - {"_class_name"}


def test_a_network_that_does_not_begin_with_its_base_is_not_written():
    """Catches: a first convolution of 64 channels where ours has 32."""
    config = digits().replaced({"model.channel_mults": [2, 4]})
    with pytest.raises(ConfigError, match=r"channel_mults=\[2, 4\] does not begin with 1"):
        write_unet_config(config, config.model)


def test_classes_are_one_less_than_rows_and_go_there_and_back():
    """Catches a row of no class that counts as a class."""
    network = read(num_class_embeds=11)
    assert (network.model["conditioning"], network.model["num_classes"]) == ("label", 10)
    config = cifar10().replaced({"model.conditioning": "label"})
    assert write_unet_config(config, config.model)["num_class_embeds"] == 11
    assert write_unet_config(cifar10(), cifar10().model)["num_class_embeds"] is None
