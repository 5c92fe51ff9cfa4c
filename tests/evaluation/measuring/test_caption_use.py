"""Candidates of an image, and the network's own choice among them."""

import pytest
import torch

from ddpm_core.config import UNetConfig
from ddpm_core.evaluation.measuring.caption_use import (
    NUM_CANDIDATES,
    candidates,
    matching_metric,
    numbers_of_captions,
)
from tests.sampling.tiny import tiny_config

POOL = [f"caption {number}" for number in range(30)]


def test_candidates_are_the_own_and_others_by_position():
    """Catches an own caption twice, equal ones, and a draw that depends on what stands beside."""
    positions = torch.arange(100, 120)
    own = [*POOL[:10], *POOL[:9], "of its own"]
    found = candidates(own, [*POOL, *POOL], positions, seed=3)
    assert [row[0] for row in found] == own
    assert all(len(set(row)) == len(row) == NUM_CANDIDATES for row in found)
    assert candidates(own[7:8], POOL, positions[7:8], seed=3) == found[7:8]
    assert found[0][1:] != found[10][1:], "the same caption at another position"
    assert candidates(own[:1], POOL, positions[:1], seed=4) != found[:1]
    assert candidates(["a", "b"], ["a", "b", "a"], positions[:2], seed=0) == [
        ["a", "b"],
        ["b", "a"],
    ]


@pytest.mark.parametrize(("own", "value"), [(0.0, 1.0), (1.0, 0.1), (2.0, 0.0)])
def test_a_network_that_tells_no_captions_apart_is_right_by_chance(own, value, monkeypatch):
    """Catches errors that are all alike and count as found."""
    monkeypatch.setattr(UNetConfig, "reads_text", True)
    eps = torch.ones(6, NUM_CANDIDATES, dtype=torch.float64)
    eps[:, 0] = own
    config = tiny_config(**{"model.conditioning": "text", "model.text_length": 16})
    metric = matching_metric(eps, config, {})
    assert metric["value"] == pytest.approx(value)
    assert metric["chance"] == 0.1
    by_rank = {0.0: 1.0, 1.0: metric["mean_reciprocal_rank_chance"], 2.0: 0.1}
    assert metric["mean_reciprocal_rank"] == pytest.approx(by_rank[own])


def test_equal_captions_count_as_one():
    assert numbers_of_captions(["a", "b", "a", ""]).tolist() == [0, 1, 0, 2]
