"""An encoder of captions that a language model has trained, and that stays as it is (Imagen)."""

import pytest
import torch

from ddpm_core.errors import ConfigError
from ddpm_core.inference.weights import load_average
from ddpm_core.runs import base, results
from ddpm_core.runs.misfits import misfits
from ddpm_core.runs.run import open_run
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.training import worker
from ddpm_core.training.start import copy_base
from ddpm_core.training.worker import train_rank
from tests.models.adm_oracle import TEXT
from tests.training.small import small_config
from tests.training.test_worker import ALONE, FakeTracker

FEW = {"train.num_steps": 4, "train.checkpoint_every": 2, "data.captions": "classes"}
WORDS = {
    "name": "words",
    "model": {
        "kind": "text",
        "text_length": 12,
        "hidden_size": 24,
        "num_layers": 2,
        "num_heads": 3,
    },
}
READER = TEXT | {"name": "reader", "train.start_from": "words@4"}


def config_of(**changes):
    return small_config().replaced(FEW | changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Give a store with a language model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
        found, config = open_store(str(tmp_path_factory.mktemp("words"))), config_of(**WORDS)
        open_run(found, config)
        run_shard(found, config)
        train_rank(found, config, ALONE)
    return found


def trained(store, monkeypatch, **changes):
    """Return the averaged weights of a network that begins with it, at the beginning and end."""
    monkeypatch.setattr(worker, "open_tracker", lambda *_args, **_kwargs: FakeTracker())
    config = base.pinned(store, config_of(**(READER | changes)))
    assert base.require_fit(store, config) is None
    run_shard(store, config)
    copy_base(store, config)
    train_rank(store, config, ALONE)
    steps = (results.checkpoint_of(store, config, step) for step in (0, 4))
    return [load_average(store, found) for found in steps]


def test_a_frozen_encoder_keeps_its_bytes_and_the_rest_learns(store, monkeypatch):
    """Catches: an encoder that begins at random, or that a step, its average or Adam moves; a rest
    that stays too, or that a language model has."""
    words = results.final_checkpoint(store, config_of(**WORDS))
    theirs = {
        f"text_{name}": one
        for name, one in load_average(store, words).items()
        if name.startswith("encoder.")
    }
    assert len(theirs) > 30
    first, last = trained(store, monkeypatch, **{"model.text_frozen": True})
    for weights in (first, last):
        assert all(torch.equal(weights[name], one) for name, one in theirs.items())
    rest = first.keys() - theirs.keys()
    still = [name for name in rest if torch.equal(first[name], last[name])]
    assert len(still) < len(rest) / 4, still
    first, last = trained(store, monkeypatch, name="moving")
    assert all(torch.equal(first[name], one) for name, one in theirs.items())
    assert not torch.equal(
        last["text_encoder.blocks.0.query.weight"], theirs["text_encoder.blocks.0.query.weight"]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.start_from": None}, r"without train\.start_from it begins with random weights"),
        (
            {"compute.num_workers": 2, "compute.divide_state": True},
            r"divide_state=true divides .* there are weights that are not",
        ),
        ({"model.conditioning": "none", "model.text_length": 128}, r"text_\w+=.* is a setting of"),
    ],
)
def test_what_cannot_be_frozen_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        config_of(**(READER | {"model.text_frozen": True} | changes))


def test_an_encoder_of_another_size_does_not_fit():
    """Catches: weights of another shape that are found when a job copies them."""
    theirs = config_of(**WORDS)
    ours = config_of(**(READER | {"model.text_hidden_size": 48, "model.text_length": 20}))
    lines = misfits(theirs, ours)
    size = "model.text_hidden_size"
    assert lines == [
        "model.text_length: 20 here, model.text_length=12 there; set model.text_length=12",
        f"{size}: 48 here, model.hidden_size=24 there; set {size}=24",
    ]
    (line,) = misfits(theirs, config_of(**(READER | {"train.start_from": "words@4:state"})))
    assert "no moments and no averages of what draws" in line


def test_moments_are_kept_of_what_both_train_alone():
    """Catches: moments that one of the two does not have, found when a job copies them."""
    kept = {"train.start_from": "other@4:raw", "train.start_optimiser": "kept"}
    free, frozen = (config_of(**(READER | kept | {"model.text_frozen": f})) for f in (False, True))
    for theirs, ours in ((free, frozen), (frozen, free)):
        (line,) = misfits(theirs, ours)
        assert line.startswith("model.text_frozen: ")
        assert line.endswith(", or leave train.start_optimiser out")
        assert misfits(theirs, ours.replaced({"train.start_optimiser": "fresh"})) == []
    assert misfits(frozen, frozen) == []
