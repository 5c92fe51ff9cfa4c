"""Ranks that divide Adam's moments and the averages: less on each, and not a bit otherwise."""

import math
import re

import pytest
import torch

from ddpm_core import cluster
from ddpm_core.errors import ConfigError
from ddpm_core.runs import layout, results
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.optimiser import Optimiser
from ddpm_core.training.stepping.scaling import LossScaling
from ddpm_core.training.stepping.shares import divided
from ddpm_core.training.worker import train_rank
from tests.training.small import CPU, make_learner, run_group, small_config, state_of
from tests.training.test_averages import snapshots_of
from tests.training.test_worker import ALONE, FakeTracker, Killed

WHOLE = {"compute__num_workers": 2, "train__num_steps": 9, "train__checkpoint_every": 3,
         "train__power_averages": [0.1]}  # fmt: skip
DIVIDED = {**WHOLE, "compute__divide_state": True}


def _train(rank, world_size, folder):
    worker.open_tracker = lambda *_args, **_kwargs: FakeTracker()
    place = cluster.Place(rank=rank, world_size=world_size, device=CPU)
    train_rank(open_store(str(folder / "whole")), small_config(**WHOLE), place)
    store, true_step = open_store(str(folder / "divided")), Denoising.step

    def fatal_step(self, number, *args):
        if number == 4:
            raise Killed
        true_step(self, number, *args)
        held = [
            sum(one.nbytes for one in part.values() if not one.is_meta)
            for part in self.trainee.parts().values()
        ]
        torch.save([sum(held), state_of(self)["adam.step"].item()], folder / f"held-{rank}")

    Denoising.step = fatal_step
    with pytest.raises(Killed):
        train_rank(store, small_config(**DIVIDED), place)
    Denoising.step = true_step
    train_rank(store, small_config(**DIVIDED), place)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two roots: a training that divides, killed once, and one that does not."""
    folder = tmp_path_factory.mktemp("shares")
    for name in ("whole", "divided"):
        run_shard(open_store(str(folder / name)), small_config())
    run_group(_train, 2, folder)
    return folder


def test_the_bits_are_those_of_ranks_that_hold_all(trained):
    """Catches an update or an average of a part only, weights that are not sent, a norm of a part
    of the gradient, a share that is not resumed, and a checkpoint or snapshot that lacks what
    another rank holds.
    """
    whole, parts = (open_store(str(trained / name)) for name in ("whole", "divided"))
    config = small_config(**WHOLE)
    assert results.final_checkpoint(parts, config) == results.final_checkpoint(whole, config)
    assert len(snapshots_of(whole)) == 3
    assert snapshots_of(parts) == snapshots_of(whole)
    for one in (results.final_checkpoint(parts, config), *snapshots_of(parts)):
        one.require_bytes(parts)


def test_each_rank_holds_its_share(trained):
    """Catches moments or averages that every rank holds all the same, and steps that are counted
    only of the weights that a rank moves.
    """
    learner = make_learner(small_config(**WHOLE))
    whole = sum(one.nbytes for part in learner.trainee.parts().values() for one in part.values())
    weights = sum(one.nbytes for one in learner.trainee.weights().values())
    for rank in (0, 1):
        held, num_steps = torch.load(trained / f"held-{rank}")
        assert num_steps == 4
        assert weights < held < weights + 0.55 * (whole - weights)


def test_another_number_of_ranks_goes_on(trained, monkeypatch):
    """Catches a checkpoint that only as many ranks can read."""
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
    store = open_store(str(trained / "divided"))
    folder = layout.checkpoint_folder("small", 9)
    store.delete(f"{folder}/manifest.json")
    alone = {**WHOLE, "compute__num_workers": 1, "train__checkpoint_every": 1}
    train_rank(store, small_config(**alone), ALONE)
    assert layout.committed_steps(store, "small")[:3] == [9, 8, 7]


def test_the_largest_is_placed_first():
    """Catches shares by count, of which one has all that is large, and an order that depends on
    that of a dictionary.
    """
    sizes = {"a": 8, "b": 1, "c": 7, "d": 6, "e": 1, "f": 1}
    found = divided(sizes, 3)
    assert found == {"a": 0, "c": 1, "d": 2, "b": 2, "e": 1, "f": 2}
    assert divided(dict(reversed(sizes.items())), 3) == found
    assert divided(sizes, 1) == dict.fromkeys(sizes, 0)


def test_nothing_to_divide_is_refused():
    """Catches a key that does nothing, and a preview that finds no average."""
    with pytest.raises(ConfigError, match=re.escape("compute.num_workers is 1; give more")):
        small_config(compute__divide_state=True)
    with pytest.raises(ConfigError, match="previews are drawn by one worker from an average"):
        small_config(**DIVIDED, train__preview_every=3)


class _Part:
    """A share of two weights, of which this rank moves one; the other rank is not there."""

    names = frozenset({"a"})

    def spread(self):
        pass


def test_a_step_that_overflows_counts_on_no_rank():
    """Catches steps that Adam counts, where a gradient in float16 overflows, of the weights that
    another rank moves: the first of them is the one in a checkpoint.
    """
    params = {"b": torch.nn.Parameter(torch.ones(2)), "a": torch.nn.Parameter(torch.ones(3))}
    optimiser, scaling = Optimiser(params, share=_Part()), LossScaling(CPU)
    for value, counted in ((math.inf, 0), (1.0, 1), (math.nan, 1)):
        for param in params.values():
            param.grad = torch.full_like(param, value)
        optimiser.update(0.1, scaling=scaling)
        assert [float(one) for one in optimiser._steps()] == [counted, counted]
    assert torch.equal(params["b"].detach(), torch.ones(2))
    assert params["a"].isfinite().all()
