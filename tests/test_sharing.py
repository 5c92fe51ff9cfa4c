"""How the processes of xdist share the tests."""

import pytest


@pytest.mark.parametrize("marker", [None, pytest.param("ray", marks=pytest.mark.ray)])
def test_tests_stay_with_their_group(marker, request):
    """Catches a hook that comes after xdist's: two Rays at once, and each server twice."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("all tests are in one process")
    group = "clusters" if marker else "tests/test_sharing.py"
    assert request.node.nodeid.endswith(f"@{group}")
