from tests.sampling.tiny import (
    _evaluated_root,
    _sampled_root,
    _trained_root,
    evaluated,
    in_process,
    one_thread,
    recording_tracker,
    sampled,
    store,
    trained,
)
from tests.sampling.worded import worded

__all__ = [
    "_evaluated_root",
    "_sampled_root",
    "_trained_root",
    "evaluated",
    "in_process",
    "one_thread",
    "recording_tracker",
    "sampled",
    "store",
    "trained",
    "worded",
]
