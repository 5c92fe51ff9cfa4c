import pytest

from ddpm_core.loading import loader
from ddpm_core.store.storage import open_store


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch):
    monkeypatch.setattr(loader, "MAX_DECODED_BYTES", 0)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))
