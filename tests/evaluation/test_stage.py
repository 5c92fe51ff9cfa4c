import io
import json
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.evaluation import stage
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.loading.loader import load_split
from ddpm_core.preflight import preflight
from ddpm_core.runs import layout, results
from ddpm_core.runs.run import open_run
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sampling.units import first_images
from ddpm_core.shards.index import load_index
from ddpm_core.store.commit import retire
from ddpm_core.store.storage import sha256_of
from ddpm_core.verifying.verify import verify
from tests.sampling.tiny import commit_earlier, tiny_config

ROLES = {
    "metrics",
    "likelihood",
    "likelihood-figure",
    "rate-distortion-figure",
    "loss-figure",
    "comparison-figure",
}


def test_an_evaluation_measures_keeps_shows_and_registers(
    sampled, in_process, recording_tracker, capsys
):
    """Catches: numbers without protocol, numbers that are shown and not kept, or the reverse."""
    store, config = sampled
    found = stage.run_evaluate(store, config)
    committed = results.evaluation_of(store, config)
    assert set(committed.files) == ROLES
    assert json.loads(committed.read(store, "metrics")) == found
    bits, distance = found["bits_per_dim"], found["frechet_distance"]
    ema = results.final_checkpoint(store, config).files["ema"].sha256
    for number in (bits, distance):
        assert np.isfinite(number["value"])
        assert number["protocol"]["ema_sha256"] == ema
        assert (number["protocol"]["loss"], number["protocol"]["weighting"]) == ("simple", "none")
        assert number["protocol"]["dataset"] == results.dataset_pointer(store, "tiny").fingerprint
    assert bits["protocol"]["num_images"] == 40
    assert distance["protocol"]["num_images"] == {"samples": 16, "test": 297, "train": 1500}
    assert distance["protocol"]["features"]["held_out_accuracy"] > 0
    assert "16 samples images for 64 features" in distance["protocol"]["warnings"][0]

    out = capsys.readouterr().out
    assert "evaluate  0/9 units" in out.splitlines()
    assert f"evaluate  9/9 units  {bits['value']:.3f} ± " in out
    assert " bits/dim, Frechet distance " in out
    assert sum(unit.kind == "bound" for unit in in_process.units) == 3
    assert sum(unit.kind == "features" for unit in in_process.units) == 6

    told = recording_tracker.metrics
    assert told["eval/bits_per_dim@10"] == bits["value"]
    assert told["eval/frechet_distance_test@10"] == distance["samples_test"]
    assert told["eval/frechet_distance_train@10"] == distance["samples_train"]
    assert told["eval/frechet_distance_floor@10"] == distance["test_train"]
    assert 1 <= found["inception_score"]["value"] <= 10
    assert told["eval/inception_score@10"] == found["inception_score"]["value"]
    assert told["eval/inception_score_test@10"] == found["inception_score"]["test"]
    assert recording_tracker.files["pictures/likelihood-figure.png"].startswith(b"\x89PNG")
    assert json.loads(recording_tracker.files["evaluation/metrics.json"]) == found
    assert recording_tracker.models == [(10, 12)], "the model is registered once, with its numbers"
    assert "pictures/grid.png" in recording_tracker.files, "what the sample stage could not deliver"
    assert recording_tracker.failed is False


def forget_statistics(store, config) -> str:
    """Delete the statistics of the training images, and return their folder."""
    dataset = results.dataset_pointer(store, config.name).folder
    (name,) = (one for one in store.names(dataset) if one.startswith("statistics-"))
    for file in store.names(f"{dataset}/{name}"):
        store.delete(f"{dataset}/{name}/{file}")
    return f"{dataset}/{name}"


def files_of(store, folder) -> dict[str, bytes]:
    return {name: store.read(f"{folder}/{name}") for name in store.names(folder)}


@pytest.mark.usefixtures("recording_tracker")
def test_the_order_in_which_workers_finish_does_not_show(evaluated, in_process):
    """Catches: sums in the order of arrival."""
    store, config = evaluated
    folder = results.evaluation_of(store, config).folder
    before = files_of(store, folder)
    for name in before:
        store.delete(f"{folder}/{name}")
    forget_statistics(store, config)
    in_process.reverse = True
    stage.run_evaluate(store, config)
    assert len(in_process.units) == 9
    assert files_of(store, folder) == before


def test_a_finished_evaluation_is_recognised_and_logged_again(
    evaluated, in_process, recording_tracker, capsys
):
    """Catches: measuring twice, or leaving MLflow without what it missed."""
    store, config = evaluated
    found = stage.run_evaluate(store, config)
    assert in_process.units == []
    assert recording_tracker.metrics["eval/bits_per_dim@10"] == found["bits_per_dim"]["value"]
    assert len(recording_tracker.models) == 1
    assert [(point["step"], point["train/loss"]) for point in recording_tracker.points] == [
        (5, 0.2),
        (10, 0.1),
    ], "the curve too: a training that was killed at its end has nobody else who sends it"
    assert "done already" in capsys.readouterr().out


@pytest.mark.usefixtures("recording_tracker")
def test_a_damaged_evaluation_is_made_again(evaluated, in_process):
    """Catches: numbers read from damaged files, or an evaluation that nothing can mend."""
    store, config = evaluated
    committed = results.evaluation_of(store, config)
    before = files_of(store, committed.folder)
    name = committed.files["metrics"].name
    store.write(f"{committed.folder}/{name}", before[name].replace(b"1", b"7", 1))
    found = stage.run_evaluate(store, config)
    assert in_process.units == [], "its units are there"
    assert files_of(store, committed.folder) == before
    assert json.loads(before[name]) == found


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_the_comparison_shows_held_out_images_not_training_images(sampled, monkeypatch):
    """Catches: samples set beside what they were trained on."""
    store, config = sampled
    shown = {}

    def comparison(samples_u8, held_out_u8, *, num_images):
        shown.update(samples=samples_u8, held_out=held_out_u8, num_images=num_images)
        picture = io.BytesIO()
        Image.new("L", (8, 8)).save(picture, format="PNG")
        return picture.getvalue()

    monkeypatch.setattr(stage.figures, "comparison_figure", comparison)
    stage.run_evaluate(store, config)
    index = load_index(store, results.dataset_pointer(store, "tiny").folder)
    test = load_split(store, index, "test")
    assert np.array_equal(shown["held_out"][..., 0], test.pixels[:100, 0].numpy())
    assert shown["samples"].shape == (16, 8, 8, 1)


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_what_is_missing_is_named(store, trained):
    """Catches: an evaluation of nothing, or a traceback."""
    store, config = trained
    with pytest.raises(DataError, match="no complete samples; run the sample stage first"):
        stage.run_evaluate(store, config)
    with pytest.raises(CheckpointError, match="run the train stage first"):
        stage.run_evaluate(store, tiny_config(name="other"))
    store.delete(layout.dataset_pointer_key("tiny"))
    with pytest.raises(DataError, match="no complete data set; run the shard stage first"):
        stage.run_evaluate(store, config)


@pytest.mark.gpu
def test_a_gpu_finds_the_numbers_of_a_cpu(evaluated, in_process, recording_tracker, gpu):
    """Catches results that stay on the device, and measures taken of other images there.

    In bfloat16, and with features of a network that was trained there: they agree roughly.
    """
    store, config = evaluated
    expected = json.loads(results.evaluation_of(store, config).read(store, "metrics"))
    folder = results.evaluation_of(store, config).folder
    for name in store.names(folder):
        store.delete(f"{folder}/{name}")
    in_process.device = gpu
    found = stage.run_evaluate(store, config)
    assert in_process.units
    bits = expected["bits_per_dim"]["value"]
    assert found["bits_per_dim"]["value"] == pytest.approx(bits, rel=0.02)
    assert np.isfinite(found["frechet_distance"]["value"])


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_other_weights_are_measured_with_their_own_samples(evaluated):
    """Catches: the samples or the bound of the last weights under the name of earlier ones."""
    store, config = evaluated
    before = results.evaluation_of(store, config)
    made = commit_earlier(store, config, 5)
    named = config.replaced({"sample.model": "@5", "evaluate.num_likelihood_images": 8})
    open_run(store, config)
    with pytest.raises(
        DataError, match=r"has no complete samples.*json --set .sample.model=.tiny@5"
    ):
        stage.run_evaluate(store, named)
    run_sample(store, named)
    found = stage.run_evaluate(store, named)
    for what in ("bits_per_dim", "frechet_distance"):
        protocol = found[what]["protocol"]
        assert (protocol["step"], protocol["ema_sha256"]) == (5, made.files["ema"].sha256)
    last = config.replaced({"evaluate.num_likelihood_images": 8})
    assert (
        found["bits_per_dim"]["value"] != stage.run_evaluate(store, last)["bits_per_dim"]["value"]
    )
    assert results.evaluation_of(store, config) == before
    looked_at = verify("tiny", root=store.uri).looked_at
    assert sum("/samples/" in line or "/evaluation/" in line for line in looked_at) == 5


def test_weights_that_are_deleted_meanwhile_take_no_finished_measurement_along(
    evaluated, in_process, recording_tracker, monkeypatch
):
    """Catches: hours of measuring lost since the training went on, and every later start refused;
    a unit that cannot be measured any more found out by the actors."""
    store, config = evaluated
    config = config.replaced({"sample.model": "@10"})
    folder = results.evaluation_of(store, config).folder
    store.delete(f"{folder}/manifest.json")
    true_measure = stage.measure

    def measure(*args, **options):
        found = true_measure(*args, **options)
        retire(store, layout.checkpoint_folder("tiny", 10))
        return found

    monkeypatch.setattr(stage, "measure", measure)
    before = stage.run_evaluate(store, config)
    assert set(results.evaluation_of(store, config).files) == ROLES
    store.delete(f"{folder}/manifest.json")
    assert preflight(store, config, ["evaluate"], command=str, here=False).missing == ["evaluate"]
    recording_tracker.points.clear()
    assert stage.run_evaluate(store, config) == before
    assert set(results.evaluation_of(store, config).files) == ROLES - {"loss-figure"}
    assert (in_process.units, recording_tracker.points) == ([], [])
    store.delete(f"{folder}/manifest.json")
    bound = next(name for name in store.names(folder) if name.startswith("bound"))
    store.delete(f"{folder}/{bound}")
    recording_tracker.has_begun = False
    with pytest.raises(CheckpointError, match=r"were deleted by train\.keep_checkpoints"):
        stage.run_evaluate(store, config)
    assert not recording_tracker.has_begun


@pytest.mark.usefixtures("in_process")
def test_curves_and_loss_of_another_run_are_not_this_ones(
    evaluated, recording_tracker, monkeypatch
):
    """Catches: the curves of the run whose weights run.json names drawn as this run's, and its loss
    under the name of this run's loss."""
    store, config = evaluated
    open_run(store, config)
    other = config.replaced({"name": "other", "train.loss": "vlb", "sample.model": "tiny"})
    weights = results.weights_of(store, other)
    store.write(layout.dataset_pointer_key("other"), store.read(layout.dataset_pointer_key("tiny")))
    run_sample(store, other)
    labels = []
    monkeypatch.setattr(stage.figures, "loss_label", lambda of: labels.append(of.name) or "loss")
    stage.run_evaluate(store, other)
    assert labels == [weights.trained.name] == ["tiny"]
    assert recording_tracker.points == []


@pytest.mark.usefixtures("recording_tracker")
def test_features_of_the_training_images_are_computed_once(evaluated, in_process):
    """Catches: statistics that are computed with every evaluation; others by their last bit; those
    of another network; damaged ones that are used.
    """
    store, config = evaluated
    before = stage.run_evaluate(store, config)
    other = config.replaced({"evaluate.num_likelihood_images": 16})
    again = stage.run_evaluate(store, other)
    assert {unit.part for unit in in_process.units if unit.kind == "features"} == {
        *("samples", "test"),
    }
    assert again["frechet_distance"] == before["frechet_distance"]
    assert again["inception_score"] == before["inception_score"]

    folder = forget_statistics(store, config)
    in_process.units.clear()
    another = config.replaced({"evaluate.num_likelihood_images": 17})
    assert stage.run_evaluate(store, another)["frechet_distance"] == before["frechet_distance"]
    assert "train" in {unit.part for unit in in_process.units}
    (name,) = (one for one in store.names(folder) if one.endswith(".npz"))
    with np.load(io.BytesIO(store.read(f"{folder}/{name}")), allow_pickle=False) as shared:
        assert shared["mu"].shape == (64,)
        assert int(shared["num_images"]) == 1500
    assert "statistics-" in folder
    verify(f"{store.uri}/{folder.rpartition('/')[0]}")


class Pooled(torch.nn.Module):
    def forward(self, images_u8: torch.Tensor) -> torch.Tensor:
        x = images_u8.float() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)


@pytest.mark.usefixtures("recording_tracker")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_reference_takes_no_features_of_the_training_images_again(
    evaluated, in_process, tmp_path
):
    """Catches: features that are computed though nothing is made of them; a program of the user's
    whose numbers are others in the stage than called by hand; a protocol without its counts.
    """
    store, config = evaluated
    torch.jit.save(torch.jit.script(Pooled()), str(tmp_path / "net.pt"))
    np.savez(tmp_path / "s.npz", mu=np.zeros(6), sigma=np.eye(6))
    files = {"features": tmp_path / "net.pt", "reference": tmp_path / "s.npz"}
    given = {f"evaluate.{key}": str(path) for key, path in files.items()}
    given |= {f"evaluate.{key}_sha256": sha256_of(path.read_bytes()) for key, path in files.items()}
    changes = {**given, "evaluate.num_likelihood_images": 16}
    plain = config.replaced({k: v for k, v in changes.items() if "reference" not in k})
    before = stage.run_evaluate(store, plain)
    in_process.units.clear()
    found = stage.run_evaluate(store, config.replaced(changes))
    assert {unit.part for unit in in_process.units if unit.kind == "features"} == {
        *("samples", "test"),
    }
    assert found["frechet_distance"] == before["frechet_distance"]
    number = found["frechet_distance_reference"]
    counts = before["frechet_distance"]["protocol"]["num_images"]
    assert number["protocol"]["num_images"] == counts == {"samples": 16, "test": 297, "train": 1500}
    index = load_index(store, results.dataset_pointer(store, config.name).folder)
    drawn = first_images(
        store, results.samples_of(store, config), config.sample, config.data.shape, 16
    )
    with closing(load_split(store, index, "test")) as held_out:
        made, real = (
            Pooled()(images_u8.expand(-1, 3, -1, -1))
            for images_u8 in (
                torch.from_numpy(drawn).permute(0, 3, 1, 2),
                held_out.images(0, len(held_out)),
            )
        )
    expected = frechet_distance(moments_of(made), moments_of(real))
    assert before["frechet_distance"]["value"] == pytest.approx(expected, rel=1e-5)
