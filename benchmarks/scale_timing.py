"""How the rows of `benchmarks.scale` are timed, ours and those of others alike."""

import time

BATCH = 128
NUM_BATCHES = 100
"""of which images/s are taken, after the first"""


def timed(work):
    """Return the seconds of a call."""
    start = time.perf_counter()
    work()
    return {"s": time.perf_counter() - start}


def rates(start, batches):
    """Seconds to the first of some batches, given by their sizes, and images/s of the others."""
    next(batches)
    first = time.perf_counter()
    count = sum(batches)
    return {"s": first - start, "images/s": count / (time.perf_counter() - first)}
