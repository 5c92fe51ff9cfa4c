"""Examination of a machine before anything runs on it: what was found, and what to do about it."""
