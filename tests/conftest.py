"""How the tests share the cores and the cache; how they are named."""

import os
from functools import cache
from pathlib import Path

import pytest

from ddpm_core.data.cache import FOLDER_VARIABLE

_ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keep what tests make out of the user's cache; the servers and clusters they start, too."""
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ[FOLDER_VARIABLE]
    else:
        os.environ[FOLDER_VARIABLE] = before


@pytest.fixture
def gpu():
    """Give a CUDA device that computes in float32 where it is told to; skip where there is none.

    Left alone, torch rounds the factors of float32 convolutions to the 10 bits of TF32.
    """
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    yield torch.device("cuda")
    convolutions.fp32_precision = before


def pytest_make_parametrize_id(val):
    """Name bytes by what they are: their content may hold the time, as that of gzip does.

    The processes of xdist collect for themselves, and refuse each other's tests if names differ.
    """
    return "bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    """Have what takes longest begin first: xdist hands the groups out in the order of the tests."""
    items.sort(key=lambda item: (*_SLOW, item.nodeid).index(_group_of(item.nodeid, item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the files that start clusters in one of xdist's processes, those of servers in one.

    Two Rays at a time starve each other on two cores; beside one of them the small tests run well.
    The others stay together as files, whose fixtures are then made once. Its own groups
    (`--dist loadgroup`) do nothing with pytest 9.2, and say nothing of it.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _group_of(nodeid, nodeid.partition("::")[0])

    return ByGroup(config, log)


_SLOW = {
    "clusters": ("pytest.mark.ray",),
    "servers": ("pytest.mark.prefect", "pytest.mark.s3"),
}


def _group_of(nodeid, other):
    """Return "clusters" or "servers" for the tests of a file that starts such, else `other`."""
    for group, marks in _SLOW.items():
        if any(mark in _source_of(nodeid.partition("::")[0]) for mark in marks):
            return group
    return other


@cache
def _source_of(file):
    return (_ROOT / file).read_text(encoding="utf-8")
