"""What is to be found out, and how it is kept."""

from itertools import groupby

import pytest
import torch

from ddpm_core.store.manifest import DamagedError
from ddpm_core.study.settings import flow_refusal, swept
from ddpm_core.study.units import Unit, units_of
from ddpm_core.units.ranges import publish, read
from ddpm_core.units.units import Units, manifest_name
from tests.study.small import study_config

FOLDER = "runs/r/study/s"
UNIT = Unit("sweep", "ddim-5", 4, 6)
PURE_NOISE = {"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"}


def found(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return arrays of every kind that units have; `turned` does not lie in memory as it reads."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(2, 5, generator=generator),
        "bits": torch.randn(3, dtype=torch.float64, generator=generator),
        "evaluations": torch.tensor(5),
        "shown": torch.randint(0, 256, (2, 1, 4, 4), generator=generator).to(torch.uint8),
        "none": torch.zeros(0, 1, 4, 4, dtype=torch.uint8),
        "turned": torch.randn(2, 3, generator=generator).T,
    }


def of_parts(units: list[Unit]) -> dict[tuple[str, str], list[Unit]]:
    ordered = sorted(units, key=lambda unit: (unit.kind, unit.part, unit.start))
    return {
        key: list(those) for key, those in groupby(ordered, key=lambda unit: (unit.kind, unit.part))
    }


def test_units_cover_all_images_once_whoever_works_on_them():
    """Catches: a lost remainder, images looked at twice, units that depend on the workers."""
    config = study_config()
    units = units_of(config, 3000, 297)
    covered = {
        key: [(unit.start, unit.stop) for unit in those] for key, those in of_parts(units).items()
    }
    sweeps = {("sweep", setting.name): [(0, 4), (4, 6)] for setting in swept(config)[0]}
    assert covered == sweeps | {
        ("ode", "adaptive"): [(0, 2)],
        ("ode", "heun"): [(0, 2)],
        ("progress", "ancestral"): [(0, 4), (4, 6)],
        ("bound", "train"): [(0, 4), (4, 5)],
        ("bound", "test"): [(0, 4), (4, 5)],
        ("latents", "quarters"): [(0, 3)],
        ("mixes", "pairs"): [(0, 3)],
        ("depths", "pair"): [(0, 2)],
        ("round-trip", "ddim"): [(0, 3)],
        ("decoding", "test"): [(0, 3)],
        ("neighbours", "pixels"): [(0, 6)],
        ("neighbours", "features"): [(0, 6)],
        ("features", "train"): [(0, 2500), (2500, 3000)],
        ("features", "test"): [(0, 297)],
    }
    assert len({unit.name for unit in units}) == len(units)
    wider = config.replaced({"compute.num_workers": 4})
    assert units_of(wider, 3000, 297) == units


def test_there_are_no_units_of_images_that_are_not_there():
    """Catches: positions beyond the split, and neighbours of samples that were never drawn."""
    wanted = dict.fromkeys(
        ("num_images", "num_likelihood_images", "num_ode_images", "num_shown"), 500
    )
    config = study_config(**{f"study.{key}": value for key, value in wanted.items()})
    ends = {key: those[-1].stop for key, those in of_parts(units_of(config, 90, 30)).items()}
    assert ends["bound", "train"] == 90
    for key in (("bound", "test"), ("ode", "heun"), ("ode", "adaptive"), ("decoding", "test"),
                ("mixes", "pairs"), ("round-trip", "ddim"), ("features", "test")):  # fmt: skip
        assert ends[key] == 30
    assert ends["neighbours", "pixels"] == ends["neighbours", "features"] == 16
    assert ends["progress", "ancestral"] == ends["sweep", "ddim-5"] == 500


def test_one_image_is_not_mixed_with_itself():
    """Catches: a study that fails where a single image is held out."""
    config = study_config(**{"data.num_test_images": 1, "evaluate.num_likelihood_images": 1})
    kinds = {unit.kind for unit in units_of(config, 1796, 1)}
    everything = {unit.kind for unit in units_of(config, 1795, 2)}
    assert everything - kinds == {"mixes", "depths"}


@pytest.mark.parametrize("changes", [PURE_NOISE, {"diffusion.prediction": "x_prev"}])
def test_without_a_probability_flow_there_are_no_units_of_it(changes):
    """Catches: a study that fails, after hours, on a chain whose last abar is 0."""
    config = study_config(**changes)
    assert flow_refusal(config)
    kinds = {unit.kind for unit in units_of(config, 1500, 297)}
    assert not kinds & {"ode", "round-trip"}
    assert {"bound", "progress", "features", "mixes", "decoding", "latents"} <= kinds
    assert flow_refusal(study_config()) is None


def test_what_a_unit_found_reads_back_bit_by_bit(store):
    """Catches: dtypes or shapes that change on the way, arrays that lie otherwise in memory."""
    publish(Units(store, FOLDER), UNIT, found())
    again = read(Units(store, FOLDER), UNIT)
    assert again.keys() == found().keys()
    for name, array in found().items():
        assert again[name].dtype == array.dtype
        assert torch.equal(again[name], array)
    committed = Units(store, FOLDER).finished([UNIT])[UNIT.name]
    own = FOLDER.rpartition("/")[2]
    unit = {"kind": "sweep", "part": "ddim-5", "start": 4, "stop": 6}
    assert committed.body == {"study": own, **unit}


def test_of_two_that_found_otherwise_the_first_counts(store):
    """Catches: a late worker on another device that stops the study, or changes what is read."""
    for seed in (0, 0, 1):
        publish(Units(store, FOLDER), UNIT, found(seed))
    assert torch.equal(read(Units(store, FOLDER), UNIT)["features"], found(0)["features"])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_damaged_unit_is_missing_and_the_next_to_find_it_replaces_it(store, seed):
    """Catches: numbers of broken files, and a broken file that nobody can mend."""
    publish(Units(store, FOLDER), UNIT, found(0))
    path = store.local_path(f"{FOLDER}/{file_of(store)}")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError, match="SHA-256"):
        read(Units(store, FOLDER), UNIT)
    assert Units(store, FOLDER).missing([UNIT]) == [UNIT]
    publish(Units(store, FOLDER), UNIT, found(seed))
    assert Units(store, FOLDER).missing([UNIT]) == []
    assert torch.equal(read(Units(store, FOLDER), UNIT)["features"], found(seed)["features"])


def test_the_first_counts_only_while_it_is_whole(store):
    """Catches: a late worker that is sent away although what stands there is broken."""
    publish(Units(store, FOLDER), UNIT, found(0))
    store.delete(f"{FOLDER}/{file_of(store)}")
    publish(Units(store, FOLDER), UNIT, found(1))
    assert torch.equal(read(Units(store, FOLDER), UNIT)["features"], found(1)["features"])


def test_missing_are_those_without_a_manifest_in_their_order(store):
    """Catches: a file without its manifest taken for finished, and other studies' units."""
    others = [Unit("sweep", "ddim-5", start, start + 2) for start in (8, 0, 2)]
    publish(Units(store, FOLDER), UNIT, found())
    publish(Units(store, "runs/r/study/other"), others[0], found())
    publish(Units(store, FOLDER), others[1], found())
    store.delete(f"{FOLDER}/{manifest_name(others[1])}")
    assert Units(store, FOLDER).missing([*others, UNIT]) == others
    with pytest.raises(DamagedError, match="gone; run the stage again"):
        read(Units(store, FOLDER), others[1])


def file_of(store) -> str:
    (name,) = (name for name in store.names(FOLDER) if name.endswith(".safetensors"))
    return name
