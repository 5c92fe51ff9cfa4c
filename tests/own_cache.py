"""A cache of one test alone: what another test decoded or fetched would hide a damaged file."""

import pytest

from ddpm_core.loading.cache import FOLDER_VARIABLE


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Return the folder of this test's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder / "kept"
