"""More samples are drawn beside those that there are, and fewer are the first of them."""

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.run import open_run
from ddpm_core.sampling import stage, worker
from ddpm_core.sampling.export import export_samples
from ddpm_core.sampling.units import Unit, first_images, publish, read_unit
from ddpm_core.store.manifest import DamagedError, Manifest, quarantine
from ddpm_core.verifying.verify import verify

pytestmark = pytest.mark.usefixtures("in_process", "recording_tracker")


def of(config, num_images):
    return config.replaced({"sample.num_images": num_images})


def images(store, config, num_images):
    config = of(config, num_images)
    samples = results.samples_of(store, config)
    return first_images(store, samples, config.sample, config.data.shape, num_images)


def drawn(in_process):
    """Return the units that were drawn since the last call: (number, images)."""
    units = [(unit.number, unit.stop - unit.start) for unit in in_process.units]
    in_process.units.clear()
    return units


def test_only_what_is_missing_is_drawn_and_fewer_are_the_first_of_more(trained, in_process):
    """Catches: a folder for each number of images, the part of a unit taken for all of it, and a
    whole that changes under those who measured it."""
    store, config = trained
    open_run(store, config)
    folder = stage.run_sample(store, of(config, 6))
    assert drawn(in_process) == [(0, 4), (1, 2)]
    stage.run_sample(store, of(config, 5))
    assert drawn(in_process) == [], "the first of a longer part"
    assert np.array_equal(images(store, config, 5), images(store, config, 6)[:5])
    six = results.samples_of(store, of(config, 6))
    assert results.samples_of(store, of(config, 13)) is None
    assert stage.run_sample(store, of(config, 13)) == folder
    assert drawn(in_process) == [(1, 4), (2, 4), (3, 1)]
    for fewer in (13, 10, 8, 6, 1):
        assert stage.run_sample(store, of(config, fewer)) == folder
        assert drawn(in_process) == []
        assert np.array_equal(images(store, config, fewer), images(store, config, 13)[:fewer])
        assert results.samples_of(store, of(config, fewer)).body["num_images"] == fewer
    assert results.samples_of(store, of(config, 6)) == six
    report = verify("tiny", root=store.uri)
    wholes = {f"{store.uri_of(folder)}/first-{n}.json" for n in (13, 10, 8, 6, 5, 1)}
    assert wholes == {line.partition(": ")[0] for line in report.looked_at if "first-" in line}
    assert (report.unfinished, report.unnamed) == ([], [])


def test_the_images_of_a_part_are_drawn_in_the_batches_of_the_unit(trained, monkeypatch):
    """Catches: a last batch of fewer images, which rounds otherwise than that of the whole unit."""
    store, config = trained
    batches, true_draw = [], worker.draw

    def draw(denoiser, positions, *shape, **options):
        batches.append(positions.tolist())
        return true_draw(denoiser, positions, *shape, **options)

    monkeypatch.setattr(worker, "draw", draw)
    stage.run_sample(store, of(config, 5))
    assert batches == [[0, 1], [2, 3], [4, 5]]
    assert len(images(store, config, 5)) == 5


def test_what_was_measured_of_fewer_stays_apart(sampled):
    """Catches: a distance of 6 samples under the name of one of 16."""
    store, config = sampled
    stage.run_sample(store, of(config, 6))
    few, many = (Inputs.of(store, of(config, n)) for n in (6, 16))
    assert few.samples.folder == many.samples.folder
    assert (few.samples.body["num_images"], many.samples.body["num_images"]) == (6, 16)
    assert few.place.folder != many.place.folder


def test_samples_of_a_version_before_are_where_they_are(sampled):
    """Catches: an earlier run that is drawn once more, or that hides what is drawn now."""
    store, config = sampled
    found, weights = results.samples_of(store, config), results.weights_of(store, config)
    old = layout.samples_folder("tiny", layout.sample_fingerprint(config, weights.sha256))
    store.write(f"{old}/manifest.json", b"as of a version before")
    assert results.samples_of(store, config) == found, "the present place comes first"
    more = places.samples(store, of(config, 32), weights)
    assert (more.folder, more.name) == (found.folder, "first-32.json")
    store.delete(f"{found.folder}/first-16.json")
    place = places.samples(store, config, weights)
    assert (place.folder, place.name) == (old, "manifest.json")


def test_a_damaged_unit_is_drawn_again_in_every_set_that_has_it(sampled, in_process, tmp_path):
    """Catches: another name set aside than the unit's, and damage that is there for ever."""
    store, config = sampled
    stage.run_sample(store, of(config, 6))  # whose last images are the first of a whole unit
    before = images(store, config, 16)
    assert drawn(in_process) == []
    for name in ("000001", "000001-2"):  # once it was damaged, only as much as is needed is drawn
        samples = results.samples_of(store, of(config, 6))
        key = f"{samples.folder}/{samples.files['unit-000001'].name}"
        store.write(key, store.read(key)[:-1] + b"?")
        with pytest.raises(DamagedError):
            export_samples(store, of(config, 6), tmp_path / "out")
        assert store.exists(f"{samples.folder}/{name}.quarantined.json")
        stage.run_sample(store, of(config, 6))
        assert drawn(in_process) == [(1, 2)]
    stage.run_sample(store, of(config, 16))
    assert drawn(in_process) == [(1, 4)]
    assert np.array_equal(images(store, config, 16), before)
    assert np.array_equal(images(store, config, 6), before[:6])
    assert export_samples(store, of(config, 6), tmp_path / "out") == 6
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_a_unit_may_be_read_in_part_and_no_other_images_pass(store):
    """Catches: the images of another unit, or too few, for the first of a longer one."""
    pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3, 1)
    made = publish(store, "runs/r/samples/s", Unit(1, 4, 8), pixels, seed=0)
    samples = Manifest("runs/r/samples/s", {}, {"unit-000001": made.files["images"]})
    part = read_unit(store, samples, Unit(1, 4, 7, is_part=True), (1, 2, 3))
    assert np.array_equal(part, pixels[:3])
    for other in (Unit(1, 4, 9), Unit(1, 5, 8)):
        with pytest.raises(DataError, match="is no unit of these samples"):
            read_unit(store, samples, other, (1, 2, 3))


def test_a_strip_shows_no_more_images_than_there_are(trained, monkeypatch):
    """Catches: images that only fill up a batch, shown as samples."""
    store, config = trained
    shown, begin = [], worker._Recorder.begin

    def watched(self, *of):
        begin(self, *of)
        shown.append(self._wanted)

    monkeypatch.setattr(worker._Recorder, "begin", watched)
    stage.run_sample(store, of(config, 1))
    assert shown == [1]


def test_verify_refuses_a_part_under_the_name_of_its_unit_and_names_what_is_set_aside(trained):
    """Catches: a manifest that the stage refuses and `verify` lets pass; one folder listed for each
    of its wholes."""
    store, config = trained
    open_run(store, config)
    for number in (6, 5):
        folder = stage.run_sample(store, of(config, number))
    store.write(f"{folder}/000001.json", store.read(f"{folder}/000001-2.json"))
    with pytest.raises(DataError, match=r"000001\.json is the unit 000001-2\.json"):
        verify("tiny", root=store.uri)
    store.delete(f"{folder}/000001.json")
    for number in (6, 5):
        quarantine(store, folder, "a test", name=f"first-{number}.json")
    report = verify("tiny", root=store.uri)
    assert report.unfinished == [f"{store.uri_of(folder)}/first-{n}.json" for n in (5, 6)]
