"""Servers of this machine's own: a Ray, a Prefect API; they end with the process that uses them.

Knows the command lines of what it starts, and imports none of it.
"""
