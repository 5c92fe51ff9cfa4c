"""For tests that take thousands of steps."""

import jaxtyping
import pytest


@pytest.fixture
def shapes_unchecked():
    """Do not check shapes: nine tenths of the time of a long chain of small images go there.

    The functions that it is made of are checked in every test that does without this.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
