"""What all tests share: a cache of their own, a GPU, names, processes, the table of seconds."""

import os

import pytest

from ddpm_core import machine, preflight
from ddpm_core.loading.cache import FOLDER_VARIABLE
from tests.seconds import pytest_terminal_summary
from tests.sharing import (
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure_node,
    pytest_xdist_make_scheduler,
)

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure_node",
    "pytest_terminal_summary",
    "pytest_xdist_make_scheduler",
]


# A shell may have these for the runs of its user: servers, buckets, clusters, a proxy. Gone before
# Prefect and others read them when they are imported.
for _name in list(os.environ):
    if _name.startswith(("AWS_", "DDPM_", "MLFLOW_", "PREFECT_", "RAY_", "S3_")) or (
        _name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    ):
        del os.environ[_name]


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


@pytest.fixture(autouse=True, scope="session")
def _two_cores():
    """Let one core pass for the two that recipes ask for: on one, tests of anything else would
    see the refusal of these. What a test starts counts for itself.
    """
    counted = machine.cores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "cores", lambda: max(2, counted()))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_rehearsals():
    """Leave out of dry runs the processes that measure: they are seconds of each, and the subject
    of `training/test_rehearsal.py`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "rehearsed", lambda config: [])
        yield


@pytest.fixture
def gpu():
    """Give a CUDA device that computes in float32; skip where there is none.

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
