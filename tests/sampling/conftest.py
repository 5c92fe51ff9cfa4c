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
from tests.sampling.worded import _worded_root, prompted, worded

__all__ = [
    "_sampled_root",
    "_trained_root",
    "_worded_root",
    "in_process",
    "one_thread",
    "prompted",
    "recording_tracker",
    "sampled",
    "store",
    "trained",
    "worded",
]
