from tests.sampling.tiny import in_process, one_thread, recording_tracker, store

__all__ = ["in_process", "one_thread", "recording_tracker", "store"]
