"""Which cells the table has, and how each is drawn."""

import pytest

from ddpm_core.study.ddim.cells import SIGMA_HAT, cells
from ddpm_core.study.units import units_of
from tests.study.small import study_config

TABLE = {"study.ddim_steps": [5, 21]}


def test_every_cell_is_drawn_as_it_is_called():
    """Catches: eta of another row, steps of the other tau, the whole chain drawn twice, knobs of
    the run's own sampler that a cell has no use for.
    """
    config = study_config(
        **TABLE, **{"sample.sampler": "heun", "sample.churn": 3.0, "sample.clip_x_0": False}
    )
    found = {cell.name: cell.sample for cell in cells(config)}
    noises = ("0", "0.2", "0.5", "1", SIGMA_HAT)
    assert list(found) == [
        name
        for noise in noises
        for name in (f"{noise}-linear-5", f"{noise}-linear-21", f"{noise}-quadratic-5")
    ]
    for name, sample in found.items():
        noise, tau, num_steps = name.rsplit("-", 2)
        own = noise != SIGMA_HAT
        assert sample.sampler == ("ddim" if own else "ancestral")
        assert sample.eta == (float(noise) if own else 0)
        assert sample.spacing == {"linear": "linspace", "quadratic": "quadratic"}[tau]
        assert sample.num_steps == int(num_steps)
        assert sample.churn == 0
        assert not sample.clip_x_0


def test_a_network_of_a_learned_variance_is_given_no_other():
    """Catches: the second half of its output read as an image."""
    learned = {"diffusion.variance": "learned_range", "train.loss": "hybrid"}
    names = {cell.noise for cell in cells(study_config(**TABLE, **learned))}
    assert names == {"0", "0.2", "0.5", "1"}


@pytest.mark.parametrize("num_shown", [1, 2, 5])
def test_units_of_the_tables_are_there_where_they_are_asked_for(num_shown):
    """Catches: studies of before with more to do; half a pair; held-out images that are not there,
    a cell without its units.
    """
    shown = {"study.num_shown": num_shown}
    before = units_of(study_config(**shown), 3000, 5)
    units = units_of(study_config(**TABLE, **shown), 3000, 5)
    more = [unit for unit in units if unit not in before]
    assert [unit for unit in units if unit in before] == before
    ranges: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for unit in more:
        ranges.setdefault((unit.kind, unit.part), []).append((unit.start, unit.stop))
    expected = {("ddim", cell.name): [(0, 4), (4, 6)] for cell in cells(study_config(**TABLE))}
    expected |= {("reconstruction", tau): [(0, 4), (4, 5)] for tau in ("linear", "quadratic")}
    assert ranges == expected | {("arcs", "slerp"): [(0, {1: 2, 2: 2, 5: 4}[num_shown])]}
    assert len({unit.name for unit in units}) == len(units)
