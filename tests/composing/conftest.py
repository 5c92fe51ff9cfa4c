"""Tests that read images have a cache of their own."""

from tests.own_cache import cache_folder

__all__ = ["cache_folder"]
