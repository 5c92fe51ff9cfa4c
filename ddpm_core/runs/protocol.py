"""The version of what a published number of the evaluation means."""

from typing import Any

PROTOCOL_VERSION = 1
"""Raised by hand with every change after which the same run would measure other numbers: how images
are scaled, what the trained feature network is and how it is trained, how moments, distances,
scores and the bound are computed. `tests/evaluation/test_protocol.py` has the golden numbers of
this version and fails where they move.
"""


def protocol_identity() -> dict[str, Any]:
    """Return what the version adds to the fingerprint of an evaluation and of a feature network.

    Nothing for version 1, so that what was measured before there were versions is found under its
    fingerprint.
    """
    return {} if PROTOCOL_VERSION == 1 else {"protocol": PROTOCOL_VERSION}
