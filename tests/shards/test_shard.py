"""What a shard says of each of its images."""

import json

import numpy as np
import pytest

from ddpm_core.canonical import canonical_json
from ddpm_core.shards import shard
from ddpm_core.shards.shard import Record


@pytest.mark.parametrize(
    "name", [None, "a/b.png", 'quote " and \\', "é図.png", "\udc80\x00.png", ""]
)
def test_what_is_said_of_an_image_is_canonical_json(name):
    """Catches a second spelling: of letters beyond ASCII, of bytes that are no text, of no name."""
    record = Record(b"", "png", np.zeros((1, 1, 1), np.uint8), 3, name)
    said = {"class": 'ä"b', "index": 12, "label": 3, "split": "train"}
    said |= {} if name is None else {"source": name}
    assert shard._about(json.dumps('ä"b'), 12, record, "train") == canonical_json(said)
