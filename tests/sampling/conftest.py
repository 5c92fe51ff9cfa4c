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
