"""Prefect, imported here to read its files, keeps its own out of the user's home."""

from tests.flows import prefect_home  # noqa: F401 - before Prefect
