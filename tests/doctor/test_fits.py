"""The largest training that the memory of this machine holds."""

import pytest

from ddpm_core.doctor import fits
from tests.training.small import CPU

GIB = 2**30


@pytest.mark.parametrize(
    ("room", "verdict", "part"),
    [
        (24 * GIB, "ok", "--size 256 --scale L, one image at a time (14 GiB of 24 GiB)"),
        (8 * GIB, "ok", "--size 256 --scale M"),
        (GIB // 8, "look", "0.12 GiB are less than images --size 32 --scale S needs"),
        (None, "ok", "is not known"),
    ],
)
def test_the_largest_that_fits_is_named(room, verdict, part, monkeypatch):
    """Catches: the smallest instead of the largest, and a network that does not fit."""
    monkeypatch.setattr(fits, "available", lambda device: room)

    def needs_of(size, scale, device):
        state = 32 * fits._config_of(size, scale).num_parameters
        return fits.Needs(
            state=state, copies=0, gradient=0, step=0, process=0, images=1, at_once=1, flops=1
        )

    monkeypatch.setattr(fits, "_needs_of", needs_of)
    found = fits.examined()
    assert found.verdict == verdict
    assert part in found.said


def test_the_smallest_is_counted_as_it_is():
    """Catches: needs of another batch than one image at a time."""
    found = fits._needs_of(32, "S", CPU)
    assert (found.at_once, found.images) == (1, 128)
    assert 0.7 * GIB < found.total < GIB
