"""Units of any kind: what counts as finished. Their kinds' own tests are in their rooms."""

from dataclasses import dataclass

import pytest

from ddpm_core.config import ComputeConfig
from ddpm_core.progress import Progress
from ddpm_core.store.commit import write_file
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import open_store
from ddpm_core.units.units import Units, manifest_name, whole_of, without
from ddpm_core.units.work import work_on
from tests.sampling.tiny import in_process

__all__ = ["in_process"]
FOLDER = "runs/r/samples/s"


@dataclass(frozen=True)
class Numbered:
    number: int

    @property
    def name(self) -> str:
        return f"u{self.number}"

    @property
    def body(self) -> dict[str, int]:
        return {"number": self.number}


ONE, TWO = Numbered(1), Numbered(2)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def publish(units: Units, unit: Numbered, data: bytes = b"found", **more):
    files = {
        role: write_file(units.store, units.folder, f"{unit.name}-{role}", ".bin", data)
        for role in ("data", "picture")
    }
    return units.publish(unit, files, more)


def strike(store, unit: Numbered, role: str, data: bytes) -> None:
    for name in store.names(FOLDER):
        if name.startswith(f"{unit.name}-{role}"):
            store.write(f"{FOLDER}/{name}", data)


def test_a_unit_says_what_it_is_and_of_what_whole(store):
    """Catches: units of another sampler, or of another kind of whole, that pass for these."""
    made = publish(Units(store, FOLDER), ONE, seed=3)
    assert made.body == {"samples": "s", "number": 1, "seed": 3}
    assert whole_of("runs/r/study/x") == {"study": "x"}


def test_the_first_counts_unless_it_is_damaged(store):
    """Catches: a late worker that stops a stage, changes what was read, or cannot mend."""
    units = Units(store, FOLDER)
    first = publish(units, ONE, b"first")
    assert publish(units, ONE, b"later") == first
    strike(store, ONE, "data", b"fir5t")
    later = publish(units, ONE, b"later")
    assert units.read(ONE, "data") == b"later"
    assert units.finished([ONE]) == {"u1": later}


@pytest.mark.parametrize("data", [b"foun", b"fount"])
@pytest.mark.parametrize("role", ["data", "picture"])
def test_finished_by_length_or_by_bytes(store, data, role):
    """Catches: 10 GB of images read to know that they are there; a picture that nobody reads
    afterwards, left broken; a unit with a part of its files."""
    units = Units(store, FOLDER)
    publish(units, ONE)
    strike(store, ONE, role, data)
    same_length = len(data) == len(b"found")
    expected = ["u1"] if same_length and role == "data" else []
    assert list(units.finished([ONE, TWO], by_length=True, read=("picture",))) == expected
    assert units.missing([ONE, TWO]) == [ONE, TWO]
    assert units.finished([ONE], by_length=True) == {}, "it stays set aside"


def test_what_a_unit_was_made_with_must_be_the_same_where_it_is_written(store):
    """Catches: features of two networks in one distance; units of an earlier version, which did
    not write it, made again."""
    plain, ours, theirs, unknown = (
        Units[Numbered](store, FOLDER, lambda _, made_with=made_with: made_with)
        for made_with in ({}, {"network": "a"}, {"network": "b"}, None)
    )
    publish(plain, ONE)
    publish(ours, TWO)
    assert unknown.missing([ONE, TWO]) == [ONE, TWO]
    with pytest.raises(DamagedError, match="gone"):
        unknown.read(TWO, "data")
    with pytest.raises(ValueError, match="not known"):
        publish(unknown, TWO)
    assert ours.missing([ONE, TWO]) == [], "nothing was set aside for want of knowledge"
    assert theirs.missing([ONE, TWO]) == [TWO]
    publish(theirs, TWO, b"again")
    assert theirs.read(TWO, "data") == b"again"


def test_a_unit_that_is_read_and_damaged_is_set_aside(store):
    """Catches: a stage that fails for ever, for it looks at lengths and its reader at bytes."""
    units = Units(store, FOLDER)
    publish(units, ONE)
    strike(store, ONE, "data", b"fount")
    with pytest.raises(DamagedError, match="SHA-256"):
        units.read(ONE, "data")
    assert units.finished([ONE], by_length=True) == {}
    store.delete(f"{FOLDER}/{manifest_name(ONE)}")
    with pytest.raises(DamagedError, match=r"u1\.json is gone"):
        units.read(ONE, "data")
    assert without([ONE, TWO], ["u1"]) == [TWO]


def test_what_is_missing_is_worked_on_and_counted(in_process, capsys):
    """Catches: a progress that forgets what was kept, actors started for nothing."""
    whole = Progress("sample", 10, 10, "images")

    def work(missing) -> list[str]:
        work_on(
            lambda payload, _: lambda unit: payload["seen"],
            {"seen": 1},
            missing,
            ComputeConfig(),
            whole=whole,
            size=lambda unit: 2 * unit.number,
            note=lambda unit, rate: f"{unit.name} {rate > 0}",
        )
        return capsys.readouterr().out.splitlines()

    assert work([ONE, TWO]) == [
        "sample  4/10 images", "sample  6/10 images  u1 True", "sample  10/10 images  u2 True",
    ]  # fmt: skip
    assert in_process.units == [ONE, TWO]
    assert work([]) == ["sample  10/10 images"]
