from tests.sampling.tiny import _trained_root, one_thread, store, trained

__all__ = ["_trained_root", "one_thread", "store", "trained"]
