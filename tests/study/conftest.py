import shutil

import pytest

from ddpm_core.evaluation.measuring.context import EvaluationContext
from ddpm_core.store.storage import open_store
from tests.sampling.tiny import (
    _sampled_root,
    _trained_root,
    in_process,
    one_thread,
    recording_tracker,
    sampled,
    store,
    trained,
)
from tests.study.small import context_of, study_config

__all__ = [
    "_sampled_root",
    "_trained_root",
    "in_process",
    "one_thread",
    "recording_tracker",
    "sampled",
    "store",
    "trained",
]


@pytest.fixture(scope="session")
def context(_sampled_root, tmp_path_factory) -> EvaluationContext:
    """Give what an actor has before it, with everything that was read; not to be changed."""
    root = tmp_path_factory.mktemp("context") / "root"
    shutil.copytree(_sampled_root, root)
    return context_of(open_store(str(root)), study_config())
