"""How the tests share the cores and the cache; how they are named."""

import os

import pytest

from ddpm_core.data.cache import FOLDER_VARIABLE


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


def pytest_make_parametrize_id(val):
    """Name bytes by what they are: their content may hold the time, as that of gzip does.

    The processes of xdist collect for themselves, and refuse each other's tests if names differ.
    """
    return "bytes" if isinstance(val, bytes) else None


_GROUPS = {"clusters": ("ray",), "servers": ("prefect", "s3")}


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook, else before us
def pytest_collection_modifyitems(items):
    """Keep the tests that start clusters in one of xdist's processes, those of servers in one.

    Two Rays at a time starve each other on two cores; beside one of them the small tests run well.
    Their groups take longest and come first; the others stay together as files, whose fixtures
    are then made once.
    """
    order = {name: number for number, name in enumerate(_GROUPS)}
    group_of = {item: _group_of(item) for item in items}
    for item, group in group_of.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: order.get(group_of[item], len(order)))


def _group_of(item):
    for group, markers in _GROUPS.items():
        if any(item.get_closest_marker(name) for name in markers):
            return group
    return item.nodeid.partition("::")[0]
