"""Servers of this machine's own: a Ray, a Prefect API; gone when the process that wants them is.

Knows the command lines of what it starts, and imports none of it.
"""
