"""What can go wrong, by what a caller does about it; each class is one exit code.

A message says what was given, what must hold and what to do. It is all that a user sees:
the command lines print it without a traceback.
"""


class PipelineError(Exception):
    """Base of every error that ends a stage on purpose; `exit_code` is the process's."""

    exit_code = 1


class ConfigError(PipelineError, ValueError):
    """The configuration is wrong, or names what does not exist; change it and run again."""

    exit_code = 2


class RunConflictError(PipelineError):
    """Something else stands under this name already; it was left as it is."""

    exit_code = 2


class DataError(PipelineError):
    """The data cannot be used as they are; mend them, nothing was published."""

    exit_code = 3


class CheckpointError(PipelineError):
    """No usable checkpoint; never answered by starting again from step 0."""

    exit_code = 4


class DivergenceError(PipelineError):
    """Training produced a non-finite number; the evidence is in the message."""

    exit_code = 5


class StorageError(PipelineError):
    """The storage could not be reached, refused, or answered with damaged bytes.

    Never raised for an object that is simply not there: see `storage.KeyMissingError`.
    """

    exit_code = 6


class ClusterError(PipelineError):
    """Ray, or Prefect's API, could not be reached, or lost what it was given."""

    exit_code = 7


INTERRUPTED_EXIT_CODE = 130
"""Stopped by a person (128 + SIGINT, as shells report it): never tried again by itself."""

RETRYABLE_EXIT_CODES = frozenset({StorageError.exit_code, ClusterError.exit_code})
"""The exit codes after which the same command may succeed without a change."""
