"""Errors of a lack of memory as one sentence, with the keys to lower."""

from ddpm_core.errors import ConfigError

TRAIN_KEYS = (
    "compute.micro_batch_size (to half of a worker's images, say) or set "
    "compute.checkpoint_activations=true, both of which train as before; or lower "
    "train.global_batch_size (each worker holds its share: more workers on more devices also help)"
)
POOL_KEYS = (
    "the batch (sample.batch_size to draw images, evaluate.batch_size to measure), or "
    "compute.num_workers where workers share a device or a machine's memory"
)
_SIGNS = ("can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


def lack_of_memory(error: BaseException, keys: str) -> ConfigError | None:
    """Return the error for the user if memory has run out, of a device or the machine; else None.

    Args:
        error: whatever a worker raised.
        keys: what to lower, in words.
    """
    # By its name, so that torch is not imported where it is not used.
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    text = str(error)
    if not (named or isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)):
        return None
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    what = first[:300] or "the machine's memory is full"
    return ConfigError(f"out of memory: {what.rstrip('.')}. Lower {keys}")
