"""The dials of the recipe `images`: what follows from them, against papers, and who takes them."""

import math

import pytest

from ddpm_core.__main__ import _parser
from ddpm_core.cli import changes_of, options_again
from ddpm_core.config.model.count import linear
from ddpm_core.config.model.unet import _blocks, block, conv
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import recipe
from ddpm_core.recipes.sizes import SCALES, SIZES, dialled, rate, sized


def config_of(size, scale, **changes):
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return recipe("images").replaced({**sized(size, scale), "data.source": "/photos", **given})


# Of a size and a scale: parameters, batch, steps, learning rate.
TABLE = {
    (32, "S"): (8_952_067, 128, 100_000, 2e-4),
    (32, "M"): (35_746_307, 128, 250_000, 1.4e-4),  # DDPM's of CIFAR-10: 35.7 M
    (32, "L"): (110_323_011, 128, 500_000, 9.4e-5),
    (64, "S"): (20_761_923, 128, 100_000, 2e-4),
    (64, "M"): (82_958_979, 128, 250_000, 1.4e-4),
    (64, "L"): (264_904_515, 128, 500_000, 9.4e-5),
    (128, "S"): (21_424_323, 64, 200_000, 2e-4),
    (128, "M"): (85_602_691, 64, 500_000, 1e-4),
    (128, "L"): (368_482_051, 64, 1_000_000, 5e-5),
    (256, "S"): (28_447_235, 64, 200_000, 2e-4),
    (256, "M"): (113_673_219, 64, 500_000, 1e-4),  # DDPM's of CelebA-HQ and LSUN: 113.7 M
    (256, "L"): (480_721_923, 64, 1_000_000, 5e-5),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", SCALES)
def test_the_rule_is_the_table_of_the_documentation(size, scale):
    """Catches: a network or a training that changes, under which runs of this size would differ."""
    config = config_of(size, scale)
    train = config.train
    found = (config.num_parameters, train.global_batch_size, train.num_steps, train.learning_rate)
    assert found == TABLE[size, scale]
    assert config.data.shape == (3, size, size)
    assert config.sample.unit_size % config.sample.batch_size == 0


def test_m_is_the_paper_s_network():
    """Catches: another width, depth or attention than DDPM's at its own two sizes."""
    keys = ("model.base_channels", "model.channel_mults", "model.num_res_blocks")
    keys += ("model.attention_resolutions", "model.dropout", "model.num_groups")
    for size, name in ((32, "cifar10"), (256, "celebahq")):
        ours, paper = config_of(size, "M").flat(), recipe(name).flat()
        assert {key: ours[key] for key in keys} == {key: paper[key] for key in keys}


@pytest.mark.parametrize(("size", "published"), [(64, 295.9e6), (128, 421.5e6), (256, 553.8e6)])
def test_l_with_what_adm_adds_has_adm_s_parameters(size, published):
    """Catches: another width, depth or attention than ADM's, whose published networks have scaled
    norms, residual blocks that halve and double, a learned variance and 1000 classes besides.

    Source: Dhariwal and Nichol 2021, appendix I, table 11: 296, 422 and 554 M.
    """
    learned = {"diffusion__variance": "learned_range", "train__loss": "hybrid"}
    config = config_of(size, "L", **learned)
    model, embedding = config.model, 4 * config.model.base_channels
    widths = [model.base_channels * mult for mult in model.channel_mults]
    outs = [out for _, _, out in _blocks(model.base_channels, widths, model.num_res_blocks)]
    scales = sum(linear(embedding, out) for out in [*outs, widths[-1], widths[-1]])
    resampled = sum(
        block(width, width, embedding) + linear(embedding, width) - conv(width, width)
        for width in [*widths[:-1], *widths[1:]]
    )
    adm = config.num_parameters + scales + resampled + 1000 * embedding
    assert adm == pytest.approx(published, rel=2e-4)


@pytest.mark.parametrize(
    ("channels", "batch", "published"),
    [(256, 256, 1e-4), (192, 2048, 3e-4), (128, 256, 2e-4), (128, 128, 2e-4)],
)
def test_the_learning_rate_is_within_a_half_of_the_published(channels, batch, published):
    """Catches: a rate that grows with the width, or with the batch itself.

    Sources: ADM's of 256 and 64 pixels; EDM's of FFHQ at 64; DDPM's of CIFAR-10.
    """
    exact = 1e-4 * 256 / channels * math.sqrt(batch / 256)
    assert published / 1.5 < exact < published * 1.5
    assert rate(channels, batch) == pytest.approx(min(exact, 2e-4), rel=0.03)


@pytest.mark.parametrize("size", SIZES)
def test_the_schedule_has_as_much_noise_as_images_of_the_size_want(size):
    """Catches: cosine at 256 pixels, where the middle of the chain still shows the image.

    Averaging (size/64)^2 pixels takes so much noise away that log SNR is to be lower by
    2 log(size/64); linear at its middle is cosine shifted for 218 pixels, a factor of two at most
    from the size at which it is used.

    Source: Hoogeboom et al. 2023, arXiv:2301.11093, section 3.1, eq. 5.
    """
    diffusion = config_of(size, "S").diffusion
    betas = make_betas(diffusion.beta_schedule, 1000, diffusion.beta_start, diffusion.beta_end)
    middle = make_schedule(betas).alphas_cumprod[499]
    log_snr = float((middle / (1 - middle)).log())
    meant = 64 * math.exp(-log_snr / 2)
    assert max(meant, 64) / max(size, 64) == pytest.approx(1, rel=0.75)
    assert meant == pytest.approx(218 if size >= 128 else 64, rel=0.03)


def test_what_is_given_wins_and_one_dial_is_enough():
    """Catches: a dial that overwrites --set, and a scale without a size that does nothing."""
    given = {"train.num_steps": 7, "data.width": 96}
    found = dialled("images", size=128, scale="M", changes=given)
    assert found == {**sized(128, "M"), **given}
    assert dialled("images", size=None, scale="L", changes=None) == sized(64, "L")
    assert dialled("images", size=256, scale=None, changes={}) == sized(256, "S")
    assert dialled("digits", size=None, scale=None, changes=None) == {}


def test_what_is_given_as_a_section_wins_and_another_kind_of_noise_goes_with_a_dial():
    """Catches: `model={...}` overwritten by the dial without a word, and a key of chains that
    nobody gave, refused in a path.
    """
    whole = dialled("images", size=64, scale="S", changes={"model": {"base_channels": 32}})
    model = recipe("images").replaced({"data.source": "/photos", **whole}).model
    assert (model.base_channels, model.channel_mults) == (32, (1, 2, 3, 4))
    for given in ({"diffusion.kind": "edm"}, {"diffusion": {"kind": "edm"}}):
        found = dialled("images", size=64, scale="S", changes=given)
        config = recipe("images").replaced({"data.source": "/photos", **found})
        assert config.diffusion.kind == "edm"
        assert config.data.height == 64
    for given in ({"model.kind": "dit"}, {"model": {"kind": "dit"}}):
        with pytest.raises(ConfigError, match=r"--size 64 is of a U-Net, and model\.kind=dit"):
            dialled("images", size=64, scale=None, changes=given)


@pytest.mark.parametrize(
    ("target", "size", "scale", "part"),
    [
        ("digits", 64, None, "--size 64 is of the recipe images alone, not of 'digits'"),
        ("images:eps-l-fixed", None, "S", "--scale S is of the recipe images alone"),
        (
            "runs/photos",
            64,
            "S",
            "--size 64 --scale S is of the recipe images alone, not of 'runs/p",
        ),
        ("images", 48, None, "there are sizes 32, 64, 128, 256 and scales S, M, L"),
        ("images", 64, "XL", "--scale XL: there are"),
    ],
)
def test_what_takes_no_dial_is_refused_in_one_sentence(target, size, scale, part):
    """Catches: a dial that is dropped without a word, and a network that nobody asked for."""
    with pytest.raises(ConfigError) as refused:
        dialled(target, size=size, scale=scale, changes=None)
    assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_for_another_stage_has_the_dials_again():
    """Catches: "train it first: ..." with a command that trains another network."""
    words = ["train", "images", "--size", "128", "--scale", "M", "--set", "train.num_steps=7"]
    options = _parser().parse_args(words)
    assert options_again(options) == words[2:]
    assert changes_of(options, "images") == {**sized(128, "M"), "train.num_steps": 7}
