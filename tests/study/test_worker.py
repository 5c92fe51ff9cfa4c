"""What each unit finds, against the same done by hand."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from ddpm_core import seeding
from ddpm_core.diffusion.integrate import Adaptive, FixedStep
from ddpm_core.diffusion.measures.ode_likelihood import ode_bits_per_dim
from ddpm_core.diffusion.paths.sigma import sigma_grid, sigma_range
from ddpm_core.evaluation.measuring.worker import likelihood_part
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.loading.stream import StreamedImages
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.study import neighbours
from ddpm_core.study.findings import Findings
from ddpm_core.study.units import Unit
from ddpm_core.study.worker import make_worker, moments_of_chain, work
from ddpm_core.units.units import Units
from tests.sampling.tiny import cpu
from tests.study.small import context_of, study_config

SHAPE = (1, 8, 8)
SEED = study_config().study.seed
CALLS = {
    "ancestral": 5, "ddim": 5, "ddim-leading": 5, "sde": 5, "dpm": 5, "unipc": 5,
    "dpm-sde": 5,
    # Of the second order, but for the last step; no correction after the last.
    "heun-churn": 2 * 5 - 1, "ode": 2 * 5 - 1, "corrector": 2 * 5 - 1,
}  # fmt: skip


def drawn_u8(context, positions, **changes) -> torch.Tensor:
    sample = study_config(**{f"sample.{key}": value for key, value in changes.items()}).sample
    x_0 = draw(context.denoiser, torch.tensor(positions), SHAPE, sample=sample, seed=SEED)
    return to_u8(x_0).permute(0, 3, 1, 2)


def seen(context, images_u8) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return context.network.embed(images_u8), context.network.classify(images_u8)


# -- samplers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("ddim-5", {"sampler": "ddim", "num_steps": 5}),
        ("sde-5", {"sampler": "sde", "num_steps": 5}),
        ("heun-churn-5", {"sampler": "heun", "churn": 10.0, "num_steps": 5}),
    ],
)
def test_a_sweep_looks_at_what_its_sampler_draws(context, part, changes):
    """Catches: another sampler or seed than the name says, positions that begin at 0 each time."""
    found = work(context, Unit("sweep", part, 4, 6))
    images_u8 = drawn_u8(context, [4, 5], **changes)
    features, probabilities = seen(context, images_u8)
    torch.testing.assert_close(found["features"], features)
    torch.testing.assert_close(found["probabilities"], probabilities)
    first = work(context, Unit("sweep", part, 0, 2))
    assert torch.equal(first["shown"], drawn_u8(context, [0, 1], **changes))


def test_what_stands_beside_an_image_does_not_show_in_it(context):
    """Catches: noise by the place in the batch."""
    whole = work(context, Unit("sweep", "sde-5", 0, 6))
    parts = [work(context, Unit("sweep", "sde-5", *ends)) for ends in ((0, 4), (4, 6))]
    together = torch.cat([part["features"] for part in parts])
    # A level more or less where the network rounds otherwise in another batch.
    torch.testing.assert_close(together, whole["features"], rtol=0.01, atol=0.02)
    assert [len(part["shown"]) for part in parts] == [3, 0]
    levels = parts[0]["shown"].int() - whole["shown"].int()
    assert levels.abs().max() <= 1


@pytest.mark.parametrize("key", CALLS)
def test_the_calls_of_the_network_are_counted(context, key):
    """Catches: steps for calls, which makes the samplers of order two twice as good; a count over
    all images."""
    assert int(work(context, Unit("sweep", f"{key}-5", 0, 2))["evaluations"]) == CALLS[key]


# -- the chain -------------------------------------------------------------------------------------


def test_the_last_x_0_hat_of_a_chain_is_its_sample(context):
    """Catches: slots in another order, other noise than the samples', rows of other images."""
    found = work(context, Unit("progress", "ancestral", 1, 4))
    assert found["times"].tolist() == moments_of_chain(context.denoiser)
    assert found["times"][0] == 0
    assert int(found["evaluations"]) == context.config.diffusion.num_timesteps
    images_u8 = drawn_u8(context, [1, 2, 3])
    assert torch.equal(found["shown"][0], images_u8[:2])
    assert found["shown"].shape == (20, 2, *SHAPE)
    features, probabilities = seen(context, images_u8)
    torch.testing.assert_close(found["features"][0], features)
    torch.testing.assert_close(found["probabilities"][0], probabilities)
    # In any slot rows are images: what is shown is what was looked at.
    torch.testing.assert_close(found["features"][15, :2], seen(context, found["shown"][15])[0])


@pytest.mark.parametrize(
    ("num_timesteps", "expected"),
    [(1000, list(range(0, 1000, 50))), (21, list(range(20))), (4, [0, 1, 2, 3])],
)
def test_moments_of_the_chain_are_each_looked_at_once(num_timesteps, expected):
    """Catches: the same moment several times in a short chain."""

    class Chain:
        class schedule:  # noqa: N801
            pass

    Chain.schedule.num_timesteps = num_timesteps
    assert moments_of_chain(Chain) == expected


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_bound_is_of_the_split_and_the_positions_that_it_names(context, split):
    """Catches: held-out images called training images, noise by the place in the unit."""
    found = work(context, Unit("bound", split, 2, 5))
    images_u8 = (context.train if split == "train" else context.test).pixels[2:5]
    expected = likelihood_part(context.denoiser, images_u8, torch.tensor([2, 3, 4]), seed=SEED)
    assert not torch.equal(context.train.pixels[2:5], context.test.pixels[2:5])
    for name in ("prior", "terms", "mse"):
        torch.testing.assert_close(found[name], expected[name])
    assert found["terms"].shape == (3, 21)
    assert found["terms"].dtype == torch.float64


@pytest.mark.parametrize("part", ["heun", "adaptive"])
def test_the_probability_flow_is_solved_as_its_name_says(context, part):
    """Catches: solvers exchanged, one noise for all images, the tolerance of another part."""
    found = work(context, Unit("ode", part, 1, 2))
    key, schedule = seeding.key(SEED, "likelihood", 1), context.denoiser.schedule
    low, high = sigma_range(schedule)
    solvers = {
        "heun": FixedStep(sigma_grid(schedule, 4)),
        "adaptive": Adaptive(low, high, rtol=0.1, atol=0.1),
    }
    positions = torch.tensor([1])
    expected = ode_bits_per_dim(
        context.denoiser,
        to_unit_range(context.test.pixels[1:2], torch.device("cpu")).double(),
        solver=solvers[part],
        uniform=seeding.uniform(key, 0, positions, SHAPE),
        probe=seeding.signs(key, 1, positions, SHAPE),
    )
    torch.testing.assert_close(found["bits"], expected.bits.double())
    assert found["evaluations"].tolist() == expected.num_evaluations.tolist()
    if part == "heun":
        assert found["evaluations"].tolist() == [2 * 4]


def test_what_a_worker_looked_at_before_does_not_matter(context):
    """Catches: weights that were read in inference mode, through which the flow cannot be
    differentiated: an actor that began with a picture could not solve it."""
    fresh = replace(context)
    work(fresh, Unit("decoding", "test", 0, 2))
    found = work(fresh, Unit("ode", "heun", 0, 1))
    assert torch.equal(found["bits"], work(replace(context), Unit("ode", "heun", 0, 1))["bits"])


# -- real images and neighbours --------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_features_are_of_the_images_that_the_unit_names(context, split):
    """Catches: splits exchanged, a unit that begins at the first image."""
    found = work(context, Unit("features", split, 3, 40))
    images_u8 = (context.train if split == "train" else context.test).pixels[3:40]
    features, probabilities = seen(context, images_u8)
    torch.testing.assert_close(found["features"], features)
    torch.testing.assert_close(found["probabilities"], probabilities)


@pytest.mark.parametrize("space", ["pixels", "features"])
def test_a_copied_training_image_is_found_next_to_itself(context, space, monkeypatch):
    """Catches: neighbours among the held-out images, distances in the other space, a threshold of
    the samples'.

    Levels are whole numbers, so that a copy is exactly 0 apart. Features are what a network says of
    an image in a batch, and another batch size rounds otherwise: with Intel's AMX the features of
    one image in batches of up to 9 and of 16 differ by 7e-7.
    """
    copies = torch.cat([context.train.pixels[[7, 3]], context.test.pixels[:3]])
    asked = []
    monkeypatch.setattr(context, "first_samples", lambda count: asked.append(count) or copies)
    found = work(context, Unit("neighbours", space, 0, 5))
    assert asked == [5]
    if space == "pixels":
        assert found["samples"][:2].tolist() == [0, 0]
    else:
        assert float(found["samples"][:2].max()) < 1e-4 * float(found["held_out"].median())
    assert torch.equal(found["nearest"][:2, 0], context.train.pixels[[7, 3]])
    assert found["nearest"].shape == (3, 8, *SHAPE)
    assert torch.equal(found["shown"], copies[:3])
    # Those that are held-out images are as far away as these.
    torch.testing.assert_close(found["samples"][2:], found["held_out"][:3])
    assert float(found["threshold"]) == pytest.approx(float(found["held_out"].quantile(0.01)))
    torch.testing.assert_close(found["distance"][:, 0], found["samples"][:3])
    held_out, train = context.test.pixels, context.train.pixels
    if space == "features":
        held_out, train = seen(context, held_out)[0], seen(context, train)[0]
    by_hand = torch.cdist(held_out[:20].flatten(1).double(), train.flatten(1).double())
    # Where features come in batches they round otherwise.
    torch.testing.assert_close(
        found["held_out"][:20], by_hand.min(dim=1).values, rtol=1e-3, atol=1e-3
    )


@pytest.fixture
def streamed(context, monkeypatch):
    """Give a context whose images are read from their shards, a batch of 16 at most at a time."""
    one = replace(context)
    monkeypatch.setattr("ddpm_core.loading.loader.MAX_DECODED_BYTES", 0)
    monkeypatch.setattr("ddpm_core.loading.stream.MAX_RANGE_BYTES", 16 * 64)
    with closing(one.train) as train, closing(one.test) as test:
        assert (type(train), type(test)) == (StreamedImages, StreamedImages)
        yield one


@pytest.mark.parametrize(
    "unit",
    [
        Unit("neighbours", "pixels", 0, 6),
        Unit("neighbours", "features", 0, 6),
        Unit("features", "train", 30, 99),
        Unit("features", "test", 0, 40),
        Unit("bound", "train", 2, 5),
        Unit("ode", "heun", 1, 2),
        Unit("mixes", "pairs", 0, 3),
        Unit("depths", "pair", 0, 2),
        Unit("decoding", "test", 0, 3),
    ],
    ids=lambda unit: f"{unit.kind}-{unit.part}",
)
def test_a_data_set_that_is_streamed_is_studied_as_one_that_is_kept(
    context, streamed, unit, monkeypatch
):
    """Catches: a unit that asks for all images at a time; indices within what was read at a time,
    a batch that is dropped at the end; axes exchanged in what is shown."""
    monkeypatch.setattr(neighbours, "_REFERENCE_ROWS", 100)
    found, kept = work(streamed, unit), work(context, unit)
    assert found.keys() == kept.keys()
    for name, array in kept.items():
        assert torch.equal(found[name], array), name


def test_samples_are_the_run_s_own(context):
    """Catches: neighbours of samples that nobody keeps."""
    found = work(context, Unit("neighbours", "pixels", 0, 6))
    assert len(found["samples"]) == 6
    assert torch.equal(found["shown"], context.sampled(0)[:3])
    assert float(found["samples"].min()) > 0


def test_a_worker_publishes_what_it_found(sampled, context):
    """Catches: work that is lost, or kept under another study."""
    store, config = sampled
    unit = Unit("decoding", "test", 0, 2)
    payload = {
        "context": {
            "root": store.uri,
            "config": study_config().model_dump(mode="json"),
            "dataset": vars(context.dataset),
            "features": [context.recipe.folder, context.recipe.values],
            "weights": context.sha256,
            "stage": None,
            "judge": None,
        },
        "folder": "runs/tiny/study/x",
    }
    make_worker(payload, cpu)(unit)
    published = Units[Unit](store, "runs/tiny/study/x")
    assert published.missing([unit]) == []
    kept = Findings(published, [unit]).one("decoding", "test")
    for name, array in work(context, unit).items():
        assert torch.equal(kept[name], array)
    assert config.name == "tiny"


def test_an_actor_that_drew_pictures_first_can_differentiate_its_network(sampled):
    """Catches: weights read in inference mode, which the likelihood cannot be computed with."""
    fresh = context_of(sampled[0], study_config())
    work(fresh, Unit("decoding", "test", 0, 1))
    assert work(fresh, Unit("ode", "heun", 0, 1))["bits"].isfinite().all()
