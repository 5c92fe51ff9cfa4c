"""Benchmarks of steps run seldom, and what they call changes: each is run here for two steps."""

from argparse import Namespace
from itertools import product

import pytest
import torch

from benchmarks import checkpoints, memory, network, parallel, shares, startup

CPU = torch.device("cpu")


@pytest.fixture
def digits(monkeypatch):
    """A small configuration; what a process of a benchmark sets for itself is left alone."""
    for one in (network, parallel):
        monkeypatch.setattr(one, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _number: None)
    changes = ["model.dropout=0.5", "train.precision=bfloat16"]
    return network.configuration("digits", "2", Namespace(set=changes))


def side(*seconds):
    return Namespace(rates=[1 / one for one in seconds], cpu_rates=[2.0], peak=0)


def test_both_sides_train_and_sample(digits):
    """Catches a side that is built as it was some versions ago."""
    for kind, place in product(network.MAKERS, (0, 1)):
        network.MAKERS[kind][place](digits, CPU)(2)


def test_ratios_are_ours_to_theirs(digits):
    """Catches a ratio upside down, and one of a side's rounds in another order."""
    line, ratio = network.row("digits", "train", "bfloat16", digits, [side(0.5), side(1.0)])
    assert ratio == 2
    assert (
        line
        == "| digits, batches of 2: train | bfloat16 | 2.00 | 1.00 | 4 | 2 | 2.00 | 1.00 |  |  |"
    )


def test_efficiency_is_of_the_cores_that_are_used():
    """Catches two workers of half the time counted as twice as efficient, and the reverse."""
    times = zip(parallel.WAYS, ([1.0], [0.5], [1.0]), ([1.0], [1.25], [1.0]), strict=True)
    ways = {what: Namespace(seconds=wall, cpu_seconds=cpu) for what, wall, cpu in times}
    alone, workers, threads = parallel.table("digits", "4", ways)
    assert alone.endswith("| 1,000 | 1,000 | 100% | 100% |")
    assert workers.endswith("| 500 | 1,250 | 100% | 80% |")
    assert threads.endswith("| 1,000 | 1,000 | 50% | 100% |")


def test_a_checkpoint_is_stored_beside_the_steps(digits, tmp_path):
    """Catches a signature of the trainee or of the storing that has changed."""
    found = checkpoints.measure(
        digits.replaced({"name": "bench"}), CPU, str(tmp_path), rounds=1, num_steps=1
    )
    assert all(clock > 0 for clock, _ in found.values())


def test_a_rank_says_what_it_holds(digits, tmp_path):
    """Catches parts of a trainee that are named or kept in another way: 16 bytes a weight."""
    shares.measure(0, 1, str(tmp_path), "digits", divides=False)
    held, before, peak = torch.load(tmp_path / "rank-0")
    assert held == pytest.approx(16 * digits.num_parameters / 2**20, rel=0.01)
    assert 0 < before <= peak


def test_every_way_to_save_memory_can_be_configured():
    """Catches a key that has another name, or that a configuration refuses beside another."""
    for title, way in product(memory.NETWORKS, memory.WAYS):
        assert memory.config_of(title, way, "float32").num_parameters > 10**7


def test_processes_are_told_apart():
    """Catches a worker that trains counted as Ray itself, and shares that are not sorted."""
    names = {
        "ray::RayTrainWorker": "workers that train",
        "python -m flows.train_ddpm digits": "the command and the flow",
        "ray::IDLE": "workers that Ray starts ahead",
        "ray/raylet/raylet": "Ray itself",
    }
    for name, expected in names.items():
        role = next(role for role, text in startup.ROLES if startup.re.search(text, name))
        assert role == expected
    assert startup.shown({"a": 0.2, "b": 3.0, "c": 0.01}) == "b 3.0, a 0.2"
