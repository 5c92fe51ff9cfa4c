"""Augmentation that does not leak: what is done, what is said of it, and that none is drawn."""

import math
from dataclasses import fields, replace

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.diffusion.process import q_sample
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.exchange.networks import to_diffusers
from ddpm_core.inference.build import build_denoiser
from ddpm_core.inference.networks import build_network
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.models.fit import fit
from ddpm_core.recipes import recipe
from ddpm_core.training.stepping.augmentation import Augmentation, Transform, draw_transform
from ddpm_core.training.stepping.resampling import Resampler
from tests.models.diffusers_oracle import perturb
from tests.training.small import (
    CPU,
    average_of,
    copy_of,
    load,
    make_learner,
    rank_slice,
    small_config,
    small_images,
    state_of,
)

NAMES = [one.name for one in fields(Transform)]
CONFIG = small_config(
    model__dropout=0.0, train__augment=0.5, train__random_flip=False, train__num_steps=4
)
SIZE = 16
Y, X = torch.meshgrid(
    *[torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2] * 2, indexing="ij"
)


def transform(count=1, **values) -> Transform:
    nothing = {name: torch.zeros(count, dtype=torch.float64) for name in NAMES}
    given = {name: torch.tensor([value] * count).double() for name, value in values.items()}
    return Transform(**(nothing | given))


def blob(x, y):
    """Return a blob with its middle 2.5 to the right and 2 above the middle, drawn at x and y."""
    return torch.exp(-((x - 2.5) ** 2) / 14 - ((y + 2) ** 2) / 8)


def turned(x, y, angle):
    """Return where x and y were before they were turned counter-clockwise, y pointing downwards."""
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def stretched(x, y, angle, factor):
    """Return where x and y were before they were stretched along a line that rises at an angle."""
    along, across = turned(x, y, angle)
    return turned(along / factor, across * factor, -angle)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"turn": math.pi / 2}, blob(X, Y).rot90(1)),
        ({"turn": 0.4}, blob(*turned(X, Y, 0.4))),
        ({"scale": 1.5}, blob(X / 2**0.3, Y / 2**0.3)),
        ({"stretch": 2.0, "axis": 0.5}, blob(*stretched(X, Y, 0.5, 2**0.4))),
        ({"right": 0.75, "down": -0.3}, blob(X - 1.5, Y + 0.6)),
        ({"scale": 1.5, "right": 1.0}, blob((X - 2) / 2**0.3, Y / 2**0.3)),
        ({"turn": math.pi / 2, "stretch": 2.0}, blob(-Y * 2**0.4, X / 2**0.4)),
    ],
    ids=["quarter", "turn", "scale", "stretch", "move", "scale, move", "turn, stretch"],
)  # fmt: skip
def test_each_transform_is_what_it_says(values, expected):
    """Catches a direction or an order that is exchanged, a scale of its inverse, eighths of the
    other side, and a stretch along another line.

    The filter's middle is a twentieth of a pixel from where it is counted from: turned, this image
    is off by 0.025. A wrong sign makes 0.2.
    """
    inverse = transform(**values).inverse(SIZE, SIZE)
    moved = Resampler(SIZE, SIZE, CPU, dtype=torch.float64)(blob(X, Y)[None, None], inverse)
    inside = slice(2, -2)
    torch.testing.assert_close(
        moved[0, 0, inside, inside], expected[inside, inside], rtol=0, atol=0.03
    )
    assert (blob(X, Y) - expected).abs().max() > 0.2


def test_the_label_is_that_of_the_source():
    """Catches an order that is not that of table 6's conditioning, and angles said as they are:
    -pi and pi are one turn, and no turn is 0.
    """
    label = transform(
        mirror=1, upend=0, scale=0.5, turn=0.7, axis=-1.2, stretch=1.5, right=0.3, down=-2
    ).label  # fmt: skip
    expected = [
        1, 0, 0.5, math.cos(0.7) - 1, math.sin(0.7),
        1.5 * math.cos(-1.2), 1.5 * math.sin(-1.2), 0.3, -2,
    ]  # fmt: skip
    torch.testing.assert_close(label, torch.tensor([expected]))
    assert not transform(axis=2.0).label.any()


def test_mirrored_images_are_exact_and_untouched_ones_are_themselves():
    """Catches images that are resampled for nothing, and mirrorings that are resampled: those would
    be off by rounding, and by more at the edges."""
    x_0 = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    done = transform(4)
    done = replace(
        done,
        mirror=torch.tensor([0.0, 1, 0, 1]).double(),
        upend=torch.tensor([0.0, 0, 1, 1]).double(),
        axis=torch.ones(4).double(),
    )
    found = Augmentation(CONFIG, CPU)(x_0.clone(), done)
    for row, dims in enumerate([(), (2,), (1,), (1, 2)]):
        assert torch.equal(found[row], x_0[row].flip(dims)), dims


def test_parameters_have_the_distributions_of_the_source():
    """Catches a probability of the wrong transform, coins that are shared, angles of half a circle,
    and a frame that is always turned. The bounds are 4 standard deviations of 40,000 draws.
    """
    count, probability = 40_000, 0.15
    drawn = draw_transform(0, 3, torch.arange(count), probability)
    near = pytest.approx
    shares = {name: float((getattr(drawn, name) != 0).double().mean()) for name in NAMES}
    expected = dict.fromkeys(NAMES, probability)
    expected |= {"mirror": 0.5, "upend": probability / 2, "axis": 0.5}
    assert shares == {name: near(share, abs=0.011) for name, share in expected.items()}
    for name in ("scale", "stretch", "right", "down"):
        values = getattr(drawn, name)
        assert float(values[values != 0].std()) == near(1, abs=0.045), name
        assert float(values.mean()) == near(0, abs=0.009), name
    for name in ("turn", "axis"):
        values = getattr(drawn, name)
        values = values[values != 0]
        assert float(values.std()) == near(math.pi / math.sqrt(3), abs=0.05), name
        assert float(values.abs().max()) == near(math.pi, abs=0.01), name
    assert torch.equal(drawn.right != 0, drawn.down != 0)
    both = float(((drawn.scale != 0) & (drawn.turn != 0)).double().mean())
    assert both == near(probability**2, abs=0.004)
    assert abs(float(torch.corrcoef(torch.stack([drawn.right, drawn.down]))[0, 1])) < 0.02


def test_the_network_is_given_the_transform_of_the_very_image_that_is_noised(monkeypatch):
    """Catches a label of another image or step, an image that is noised before it is transformed,
    labels that are dropped with those of classes, and transforms that depend on the ranks."""
    config = CONFIG.replaced({"model.conditioning": "label", "train.label_dropout": 0.5})
    learner, images = make_learner(config), small_images()
    seen = []
    learner.network.register_forward_pre_hook(lambda _, given: seen.append(given))
    images_u8 = rank_slice(config, images, 3, 0, 1)
    labels = Conditioning(label=torch.arange(12) % 10)
    learner.step(3, images_u8, labels)
    ((x_t, t, given),) = seen
    positions = torch.arange(12)
    done = draw_transform(0, 3, positions, 0.5)
    assert torch.equal(given.augment, done.label)
    x_0 = Augmentation(config, CPU)(to_unit_range(images_u8, CPU), done)
    eps = seeding.normal(seeding.key(0, "noise"), 3, positions, (1, 8, 8))
    assert torch.equal(x_t, q_sample(learner._objective.schedule, x_0, t, eps))
    assert float(learner.network.augment_embed.weight.detach().abs().max()) > 0, "it learns"
    halves = [draw_transform(0, 3, rows, 0.5) for rows in positions.chunk(2)]
    for name in NAMES:
        joined = torch.cat([getattr(half, name) for half in halves])
        assert torch.equal(joined, getattr(done, name)), name


def test_a_training_that_was_cut_goes_on_bit_for_bit():
    """Catches transforms drawn from a generator."""
    whole, first, second = (make_learner(CONFIG) for _ in range(3))

    def run(learner, steps):
        for step in steps:
            learner.step(step, rank_slice(CONFIG, small_images(), step, 0, 1))

    run(whole, range(4))
    run(first, range(2))
    load(second, state=copy_of(state_of(first)), ema=copy_of(average_of(first)))
    run(second, range(2, 4))
    torch.testing.assert_close(state_of(second), state_of(whole), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["unet", "dit"])
@torch.no_grad()
def test_images_are_drawn_of_no_transform_at_all(kind):
    """Catches a layer that begins with anything but 0 or shifts the drawing of other weights, one
    with a bias, and samplers, guidance and references that are given no label or another.
    """
    sizes = {} if kind == "unet" else {"model.hidden_size": 16, "model.num_layers": 1,
                                       "model.num_heads": 2}  # fmt: skip
    plain = small_config().replaced({"model.kind": kind, **sizes, "model.conditioning": "label"})
    config = plain.replaced({"train.augment": 0.3})
    base, grown = build_network(plain).eval(), build_network(config).eval()
    own, theirs = base.state_dict(), grown.state_dict()
    assert theirs.keys() - own.keys() == {"augment_embed.weight"}
    assert all(torch.equal(theirs[name], own[name]) for name in own)
    assert config.num_parameters == sum(one.numel() for one in grown.parameters())
    perturb(base)
    grown.load_state_dict(fit(base.state_dict(), theirs))
    x_t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    t, labels = torch.tensor([0, 9, 23]), Conditioning(label=torch.tensor([0, 3, 10]))
    some = transform(3, turn=1.0, right=0.5).label
    expected = base(x_t, t, labels)
    assert torch.equal(grown(x_t, t, replace(labels, augment=some)), expected), "as it begins"

    perturb(grown)
    stripped = fit(grown.state_dict(), own)  # of a run without augmentation that begins from it
    base.load_state_dict(stripped)
    denoiser = build_denoiser(config, grown, grown.null)
    reference = build_denoiser(plain, base, base.null)
    for ours, bare in (
        (denoiser.given(labels), reference.given(labels)),
        (denoiser.given(labels).given_nothing(), reference.given_nothing()),
    ):
        assert torch.equal(ours.predict(x_t, t).x_0, bare.predict(x_t, t).x_0)
    assert to_diffusers(config, grown.state_dict()).keys() == to_diffusers(plain, own).keys()
    assert not torch.allclose(grown(x_t, t, replace(labels, augment=some)), base(x_t, t, labels))
    with pytest.raises(DataError, match="takes augment, label and was called with label"):
        grown(x_t, t, labels)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("swiss-roll", "train.augment=0.1 turns and moves images.*model.kind=mlp"),
        ("heartbeat", "diffusion.kind=binomial; leave train.augment out"),
    ],
)
def test_what_cannot_be_turned_is_refused(name, says):
    """Catches a key that trains as if it were not there."""
    with pytest.raises(ConfigError, match=says):
        recipe(name).replaced({"train.augment": 0.1})
