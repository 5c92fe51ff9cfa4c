import os

import psutil
import pytest


@pytest.fixture(scope="package")
def ray_here():
    """A Ray of two CPUs on this machine, and nothing left of it at the end."""
    before = {process.pid for process in psutil.process_iter()}
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("RAY_")]:
            patch.delenv(key)
        from ddpm_core import cluster
        from ddpm_core.config import ComputeConfig

        with cluster.connect(ComputeConfig(num_workers=2)):
            yield
    own = psutil.Process().pid
    left = [p for p in psutil.process_iter() if p.pid not in before and own in _parents(p)]
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive


def _parents(process):
    try:
        return {parent.pid for parent in process.parents()}
    except psutil.NoSuchProcess:
        return set()
