"""A run under a temporary root, and Prefect's files there too."""

import pytest

from ddpm_core.recipes import digits
from ddpm_core.store.storage import open_store
from tests.flows import prefect_home  # noqa: F401 - before Prefect


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture
def config():
    return digits().replaced({"name": "a.run"})
