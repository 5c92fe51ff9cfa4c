"""The benchmark of scale, rehearsed with a handful of images: its rows, its page, a cut."""

import json

import pytest

from benchmarks import scale


def test_the_exponent_is_the_slope_in_the_logarithms():
    """Catches: seconds by images, a fit through the origin, a row of one size that has a slope."""
    square = {count: {"s": 3e-9 * count**2} for count in (10**4, 10**5, 10**6)}
    assert scale._exponent(square) == "2.00"
    assert scale._exponent({10**4: {"s": 1.0}, 10**5: {"failed": 1}}) == ""


def test_a_benchmark_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    """Catches: rows measured again, a page without the rows of before, a failure that ends all."""
    measured = []

    def row(name, count, _options):
        measured.append((name, count))
        if name == "verify":
            return {"failed": 1}
        if len(measured) == 4:
            raise KeyboardInterrupt
        return {"s": 1e-4 * count, "peak MB": 100.0}

    monkeypatch.setattr(scale, "_measured", row)
    out = tmp_path / "scale.md"
    arguments = ["--images", "1e4,1e5", "--simulated", "", "--work", str(tmp_path / "w")]
    with pytest.raises(KeyboardInterrupt):
        scale.main([*arguments, "--out", str(out)])
    scale.main([*arguments, "--out", str(out)])
    assert len(measured) == 2 * len(scale.names()) + 1
    cells = {line.split(" | ")[0].removeprefix("| "): line for line in out.read_text().splitlines()}
    assert cells["shard, first time"] == "| shard, first time | 1 s, 100 MB | 10 s, 100 MB | 1.00 |"
    assert cells["verify"] == "| verify | failed | failed |  |"


def test_a_worker_on_a_simulated_data_set(tmp_path):
    """Catches: tables that the reader refuses, a first batch that is not of the step."""
    out = tmp_path / "a b" / "scale.md"
    out.parent.mkdir()
    work = str(tmp_path / "a b" / "w")
    scale.main(["--images", "", "--simulated", "3e4", "--work", work, "--out", str(out)])
    (found,) = json.loads((tmp_path / "a b" / "w" / "rows.json").read_text()).values()
    assert min(found[key] for key in ("s", "resume s", "peak MB")) > 0
    assert "first batch at step 10^6" in out.read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_rows_of_real_images_run(tmp_path):
    """Catches: a command line, an index or a loader that is called as it was some versions ago."""
    out, work = tmp_path / "scale.md", tmp_path / "w"
    rows = ["make the images", "shard, first time", "training: first batch, empty cache"]
    rows += ["load the index", "new run on it: command to step 1", "in place: index, by listing"]
    rows += ["shard, 1 % more (append)"]
    arguments = ["--images", "3000", "--simulated", "", "--work", str(work), "--out", str(out)]
    scale.main([*arguments, "--only", ";".join(rows)])
    done = json.loads((work / "rows.json").read_text())
    assert {key: found["s"] > 0 for key, found in done.items()} == {
        f"{name}|3000": True for name in rows
    }
