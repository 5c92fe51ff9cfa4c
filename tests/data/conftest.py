import pytest

from ddpm_core.data.cache import FOLDER_VARIABLE


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """A cache of this test alone: what another test decoded would hide a damaged shard."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder / "kept"
