"""The numbers of a study, of findings that are made up."""

import json
import math

import pytest
import torch

from ddpm_core.diffusion.measures.rate_distortion import RMSE_LEVELS
from ddpm_core.errors import DivergenceError
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.study.drawings import drawings_of
from ddpm_core.study.numbers import mean_and_error, metrics_of, numbers_of
from ddpm_core.study.units import Unit
from ddpm_core.units.ranges import publish
from ddpm_core.units.units import Units
from tests.study.made_up import FOLDER, NUM_TEST, NUM_TRAIN, made_up, make_up
from tests.study.small import study_config

PROTOCOL = {
    "ema_sha256": "e" * 64,
    "step": 10,
    "features": {"kind": "trained"},
    "num_images": {"train": NUM_TRAIN, "test": NUM_TEST},
}
GUIDED = {"model.conditioning": "label", "sample.guidance_scale": 2.0}
PURE_NOISE = {"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"}


def whole(kind: str, part: str, stop: int, config=None):
    return make_up(Unit(kind, part, 0, stop), config=config or study_config())


@pytest.fixture
def found(store):
    return made_up(store, study_config())


@pytest.fixture
def numbers(found):
    return numbers_of(found, study_config(), PROTOCOL)


def test_a_mean_has_its_standard_error_and_one_image_has_none():
    """Catches: the standard deviation for the error, n for n - 1, NaN of a single image."""
    found = mean_and_error(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    variance = ((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2
    assert found["value"] == pytest.approx(7 / 3)
    assert found["standard_error"] == pytest.approx(math.sqrt(variance / 3))
    assert found["num_images"] == 3
    one = mean_and_error(torch.tensor([2.5]))
    assert one == {"value": 2.5, "standard_error": None, "num_images": 1}


def test_the_parts_of_the_bound_add_up(numbers):
    """Catches: the prior in two parts, the decoder's term in the rate, splits exchanged."""
    for split in ("train", "test"):
        bits, parts = numbers["bits_per_dim"][split], whole("bound", split, 5)
        assert bits["num_images"] == 5
        assert bits["prior"] == pytest.approx(float(parts["prior"].mean()))
        assert bits["decoder"] == pytest.approx(float(parts["terms"][:, 0].mean()))
        assert bits["rate"] == pytest.approx(float(parts["terms"][:, 1:].sum(dim=1).mean()))
        assert bits["value"] == pytest.approx(bits["prior"] + bits["rate"] + bits["decoder"])
        total = parts["prior"] + parts["terms"].sum(dim=1)
        assert bits["standard_error"] == pytest.approx(float(total.std()) / 5**0.5)
    lossless = numbers["coding"]["lossless"]
    assert lossless["total"] == pytest.approx(numbers["bits_per_dim"]["test"]["value"])
    first = numbers["coding"]["rows"][0]
    mse = whole("bound", "test", 5)["mse"]
    assert first["reverse_step"] == 21
    assert first["rmse"] == pytest.approx(RMSE_LEVELS * float(mse[:, 0].sqrt().mean()))


def test_the_flow_s_bits_have_their_price(numbers):
    """Catches: solvers exchanged, evaluations of one image."""
    for solver in ("heun", "adaptive"):
        told, parts = numbers["ode_bits_per_dim"][solver], whole("ode", solver, 2)
        assert told["value"] == pytest.approx(float(parts["bits"].mean()))
        assert told["evaluations"] == 10.5
        assert told["num_images"] == 2
    assert numbers["ode_refused"] is None


def test_distances_are_to_the_training_images(numbers):
    """Catches: held-out images for the reference, a floor that is 0, samplers exchanged."""
    train = moments_of(whole("features", "train", NUM_TRAIN)["features"])
    test = moments_of(whole("features", "test", NUM_TEST)["features"])
    quality = numbers["quality"]
    assert quality["floor"] == pytest.approx(frechet_distance(test, train))
    assert numbers["protocol"]["num_images"] == {"train": NUM_TRAIN, "test": NUM_TEST}
    assert len(quality["samplers"]) == 10
    for one in quality["samplers"]:
        assert one["setting"] == f"{one['sampler']}-5"
        own = moments_of(whole("sweep", one["setting"], 6)["features"])
        assert one["frechet_distance"] == pytest.approx(frechet_distance(own, train))
        assert one["evaluations"] == 9
        assert one["inception_score"] >= 1
    together = whole("progress", "ancestral", 6)["features"]
    assert [one["reverse_step"] for one in quality["progress"]] == [21 - 10, 21 - 5, 21]
    for one, rows in zip(quality["progress"], together.flip(0), strict=True):
        expected = frechet_distance(moments_of(rows), train)
        assert one["frechet_distance"] == pytest.approx(expected)


def test_the_rest_is_reported_as_it_was_found(numbers):
    """Catches: errors of another number of steps, shares of the other space, ablation_steps among
    what determined these numbers."""
    assert [one["steps"] for one in numbers["round_trip"]] == [5, 21]
    rows = whole("round-trip", "ddim", 3)["rmse"]
    for one, errors in zip(numbers["round_trip"], rows, strict=True):
        assert one["rmse"] == pytest.approx(float(errors.mean()))
    for space in ("pixels", "features"):
        samples = whole("neighbours", space, 6)["samples"]
        told = numbers["memorisation"][space]
        assert told["share"] == pytest.approx(float((samples < 0.25).double().mean()))
        assert told["num_samples"] == 6
    protocol = numbers["protocol"]
    assert {key: protocol[key] for key in PROTOCOL} == PROTOCOL
    assert protocol["version"] == PROTOCOL_VERSION
    assert protocol["num_timesteps"] == 21
    assert protocol["study"]["swept_steps"] == [5]
    assert "ablation_steps" not in protocol["study"]


def test_numbers_are_json_and_what_mlflow_plots_is_finite(numbers):
    """Catches: tensors among the numbers, curves over the place in a list."""
    assert json.loads(json.dumps(numbers)) == numbers
    told = metrics_of(numbers)
    assert len({(name, step) for name, _, step in told}) == len(told)
    assert all(type(value) is float and math.isfinite(value) for _, value, _ in told)
    points = {(name, step): value for name, value, step in told}
    for one in numbers["quality"]["samplers"]:
        name = f"study/frechet_distance/{one['sampler']}"
        assert points[name, 9] == one["frechet_distance"]
    steps = {step for name, step in points if name == "study/progress/frechet_distance"}
    assert steps == {11, 16, 21}
    last = numbers["quality"]["progress"][-1]
    assert points["study/progress/inception_score", 21] == last["inception_score"]
    bits = numbers["bits_per_dim"]["train"]
    assert points["study/bits_per_dim_train/value", 0] == bits["value"]
    adaptive = numbers["ode_bits_per_dim"]["adaptive"]["value"]
    assert points["study/ode_bits_per_dim/adaptive", 0] == adaptive
    share = numbers["memorisation"]["pixels"]["share"]
    assert points["study/memorisation/pixels_share", 0] == share


def test_what_there_is_none_of_is_not_plotted(store):
    """Catches: None as a metric, which MLflow refuses, and figures of nothing."""
    one_image = {"data.num_test_images": 1, "evaluate.num_likelihood_images": 1}
    config = study_config(**PURE_NOISE, **one_image, **{"study.num_likelihood_images": 1})
    found = made_up(store, config, num_test=1, has_classes=False)
    numbers = numbers_of(found, config, PROTOCOL)
    assert numbers["ode_bits_per_dim"] == {}
    assert "divides by the signal" in numbers["ode_refused"]
    assert numbers["round_trip"] == []
    assert numbers["quality"]["held_out_inception_score"] is None
    assert {one["sampler"] for one in numbers["quality"]["samplers"]} == {
        "ancestral", "ddim", "ddim-leading",
    }  # fmt: skip
    assert any(line.startswith("UniPC, 5 steps: ") for line in numbers["quality"]["refused"])
    names = {name for name, _, _ in metrics_of(numbers)}
    assert not [
        name
        for name in names
        if any(part in name for part in ("standard_error", "score", "ode_bits"))
    ]
    drawn = drawings_of(found, config, numbers)
    assert not {"round-trip-sheet", "mixes-sheet", "depths-sheet"} & set(drawn)
    assert drawn["samplers-sheet"][1].startswith(b"\x89PNG")


@pytest.mark.parametrize(("split", "value"), [("train", math.nan), ("test", math.inf)])
def test_a_bound_that_is_no_number_names_the_image(store, split, value):
    """Catches: a mean that is NaN among the numbers, or a traceback of what is drawn of it."""
    config = study_config()
    found = made_up(store, config)
    unit = Unit("bound", split, 4, 5)
    broken = make_up(unit, config=config)
    broken["terms"][0, 7] = value
    for name in store.names(FOLDER):
        if name.startswith(unit.name):
            store.delete(f"{FOLDER}/{name}")
    publish(Units(store, FOLDER), unit, broken)
    with pytest.raises(DivergenceError, match=f"bound of {split} image 4 is {value}: the net"):
        numbers_of(found, config, PROTOCOL)


def test_a_chain_costs_the_calls_that_were_counted(found, monkeypatch):
    """Catches: a guided chain at half its cost; units of versions before, which did not count."""
    each = type(found).each

    def counted(self, kind, part):
        extra = {"evaluations": torch.tensor(42)} if kind == "progress" else {}
        return ({**one, **extra} for one in each(self, kind, part))

    (plain,) = {one["evaluations"] / one["reverse_step"] for one in progress_of(found)}
    monkeypatch.setattr(type(found), "each", counted)
    assert (plain, [one["evaluations"] for one in progress_of(found)]) == (1, [22, 32, 42])


def progress_of(found):
    return numbers_of(found, study_config(), PROTOCOL)["quality"]["progress"]


def test_numbers_of_a_guided_run_say_so(found):
    """Catches: a study whose numbers do not say which labels they are of, and how far guided."""
    protocol = numbers_of(found, study_config(**GUIDED), PROTOCOL)["protocol"]
    assert protocol["conditioning"] == "the label of each image"
    assert (protocol["labels"], protocol["guidance_scale"]) == ("balanced", 2.0)
    plain = numbers_of(found, study_config(), PROTOCOL)["protocol"]
    assert not {"conditioning", "labels", "guidance_scale"} & plain.keys()
