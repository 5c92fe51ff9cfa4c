"""How xdist's processes share the tests: what starts clusters is never run by two at a time.

A Ray beside a Ray starves on two cores; beside one of them small tests run well. So a test's marks
name its group, and a group is one process's; all other tests stay together as files, whose
fixtures are then made once.
"""

import json
import tempfile
from pathlib import Path

import pytest

# In this order they begin, and before all others: what takes longest must not be the last to end.
GROUPS = {
    "clusters": ("end_to_end", "ray"),
    "servers": ("prefect", "s3"),
}
_FOLDER = pytest.StashKey[str]()
_KEY = "folder_of_groups"


def group_of(item) -> str:
    """Return the group of a test by its own marks and those of its module, else its file."""
    for group, marks in GROUPS.items():
        if any(item.get_closest_marker(mark) for mark in marks):
            return group
    return item.nodeid.partition("::")[0]


def pytest_collection_modifyitems(items):
    """Sort by group: xdist hands the groups out in the order of the tests."""
    ranks = {group: rank for rank, group in enumerate(GROUPS)}
    items.sort(key=lambda item: ranks.get(group_of(item), len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tell a process of xdist where to write the groups of its tests."""
    node.workerinput[_KEY] = _folder_of(node.config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session):
    """Write down the groups, before xdist sends the names: names alone are what it sends.

    Its own way, `--dist loadgroup`, appends the group to the name by setting an attribute that
    pytest 9.2 no longer reads: nothing is grouped, and nothing says so.
    """
    given = getattr(session.config, "workerinput", {})
    if _KEY in given:
        groups = {item.nodeid: group_of(item) for item in session.items}
        path = Path(given[_KEY]) / f"{given['workerid']}.json"
        path.write_text(json.dumps(groups), encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give out whole groups."""
    from xdist.scheduler import LoadScopeScheduling

    groups: dict[str, str] = {}

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            if not groups:  # all processes have collected the same tests by now, or it ends here
                written = next(Path(_folder_of(config)).glob("*.json"))
                groups.update(json.loads(written.read_text(encoding="utf-8")))
            return groups[nodeid]

    return ByGroup(config, log)


def _folder_of(config):
    """Return a folder that lives as long as the session."""
    if _FOLDER not in config.stash:
        folder = tempfile.TemporaryDirectory(prefix="pytest-groups-")
        config.add_cleanup(folder.cleanup)
        config.stash[_FOLDER] = folder.name
    return config.stash[_FOLDER]
