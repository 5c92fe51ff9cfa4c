import pytest

from ddpm_core.recipes import digits
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import (
    place,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in (*place._JOB_VARIABLES, "DDPM_GIT_COMMIT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One root for all, in a folder with characters that URLs and SQL give a meaning."""
    return open_store(str(tmp_path_factory.mktemp("it's a #root% 20")))


@pytest.fixture
def config(request):
    """A run of its own for each test: the name is the test's."""
    return digits().replaced({"name": request.function.__name__[:60]})
