"""Which errors of a stage are tried again."""

from types import SimpleNamespace

import pytest

from ddpm_core.errors import INTERRUPTED_EXIT_CODE, PipelineError


@pytest.mark.parametrize(
    ("code", "again"),
    [(1, False), (2, False), (3, False), (4, False), (5, False), (6, True), (7, True),
     (INTERRUPTED_EXIT_CODE, False)],
)  # fmt: skip
def test_only_storage_and_clusters_are_tried_again(code, again):
    """Catches a diverged training restarted, one that a person stopped, and an outage that ends a
    flow; also an error of Python's own, of which nobody knows whether it passes.
    """
    from prefect.states import Failed

    from flows.one_stage import is_retryable

    once, error = SimpleNamespace(run_count=1), PipelineError("so")
    error.exit_code = code
    assert is_retryable(None, once, Failed(data=error)) == again
    assert not is_retryable(None, once, Failed(data=OSError("so")))
