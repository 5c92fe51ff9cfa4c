"""Checkpoints: what goes in comes out, damage is never used, and nothing is begun anew silently."""

import json
import logging
import math

import pytest
import torch
from safetensors.torch import save

from ddpm_core.errors import CheckpointError, DivergenceError, RunConflictError, StorageError
from ddpm_core.inference.weights import load_average
from ddpm_core.runs import layout
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit as commit_files
from ddpm_core.store.commit import write_file
from ddpm_core.store.storage import LocalStore, open_store
from ddpm_core.training.storing import checkpoint, retention
from ddpm_core.training.storing.checkpoint import Origin
from ddpm_core.training.storing.soundness import require_equal, require_finite, weights_digest

RUN = "small"
ORIGIN = Origin(experiment="e" * 64, dataset="d" * 64)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


def state_of(step):
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    return {
        "model.conv.weight": weight,
        "adam.exp_avg.conv.weight": weight * 0.1,
        "adam.step": torch.tensor(float(step)),
        "window": torch.ones(2, 4, dtype=torch.float64) * step,
    }


def ema_of(step):
    return {"conv.weight": state_of(step)["model.conv.weight"] * 0.5}


def curve_of(step):
    return [{"step": float(s), "loss": 1 / s} for s in range(1, step + 1)]


def parts_of(step):
    return {"state": state_of(step), "ema": ema_of(step)}


def commit(store, step, *, origin=ORIGIN, **parts):
    written = checkpoint.write_parts(store, RUN, step, {**parts_of(step), **parts})
    return checkpoint.commit(
        store,
        RUN,
        origin,
        step=step,
        images_seen=12 * step,
        written=written,
        history=curve_of(step),
    )


def resumed(store, origin=ORIGIN, **parts):
    """Return what a training goes on from, and the tensors of its parts."""
    into = {
        role: {name: torch.full_like(tensor, 7.0) for name, tensor in part.items()}
        for role, part in {**parts_of(0), **parts}.items()
    }
    return checkpoint.resume(store, RUN, origin, into), into


def flip_a_bit(store, key, at=-1):
    path = store.local_path(key)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def newest_step(store):
    begun, _ = resumed(store)
    return begun and begun.step


# -- what goes in comes out ----------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was(store):
    """Catches a tensor saved in its memory order instead of its own, and a curve that rounds."""
    made = commit(store, 7)
    assert made.body == {
        "step": 7,
        "images_seen": 84,
        "experiment": ORIGIN.experiment,
        "dataset": ORIGIN.dataset,
    }
    assert set(made.files) == {"state", "ema", "history"}
    begun, into = resumed(store)
    assert begun.step == 7
    assert begun.history == curve_of(7)
    torch.testing.assert_close(into, parts_of(7), rtol=0, atol=0)
    torch.testing.assert_close(load_average(store, made), ema_of(7), rtol=0, atol=0)


def test_one_network_is_stored_as_it_was_before_there_were_parts(store, tmp_path):
    """Catches a key or a byte that is new: an earlier version could not go on from it, and workers
    of one that is still alive would conflict with ours.
    """
    made = commit(store, 7)
    before = open_store(str(tmp_path / "before"))

    def put(role, suffix, data):
        return write_file(before, made.folder, role, suffix, data)

    lines = "".join(json.dumps(point, sort_keys=True) + "\n" for point in curve_of(7))
    files = {
        role: put(role, ".safetensors", save({n: t.contiguous() for n, t in part.items()}))
        for role, part in parts_of(7).items()
    }
    files["history"] = put("history", ".jsonl", lines.encode())
    body = {"step": 7, "images_seen": 84, "experiment": "e" * 64, "dataset": "d" * 64}
    assert commit_files(before, made.folder, files, body) == made
    begun, into = resumed(before)
    assert begun.step == 7
    torch.testing.assert_close(into, parts_of(7), rtol=0, atol=0)


def test_the_same_state_is_the_same_bytes(store, tmp_path):
    """Catches a time, an attempt or an order of insertion in a file: twins would conflict."""
    one = commit(store, 7)
    backwards = dict(reversed(state_of(7).items()))
    assert commit(open_store(str(tmp_path / "other")), 7, state=backwards) == one
    assert commit(store, 7, state=backwards) == one


def test_another_state_of_the_same_step_is_refused(store):
    """Catches a late writer that replaces what was committed."""
    commit(store, 7)
    with pytest.raises(RunConflictError):
        commit(store, 7, state=state_of(8))
    torch.testing.assert_close(resumed(store)[1]["state"], state_of(7))


def test_no_checkpoint_at_all_is_none(store):
    """Catches an error where a run begins."""
    assert resumed(store)[0] is None


def test_the_newest_is_taken_and_the_uncommitted_is_not(store):
    """Catches an order by text or by time, and files that count without their manifest."""
    for step in (900, 1000, 20):
        commit(store, step)
    folder = layout.checkpoint_folder(RUN, 2000)
    write_file(store, folder, "state", ".safetensors", b"half")
    assert newest_step(store) == 1000


# -- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["state", "ema", "history", "manifest"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_file_sets_the_checkpoint_aside(store, caplog, what, how):
    """Catches bytes used unverified, and an older checkpoint taken without a word."""
    commit(store, 10)
    made = commit(store, 20)
    name = "manifest.json" if what == "manifest" else made.files[what].name
    key = f"{made.folder}/{name}"
    path = store.local_path(key)
    match how:
        case "flip":
            flip_a_bit(store, key, at=path.stat().st_size // 2)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "gone":
            path.unlink()
    with caplog.at_level(logging.ERROR):
        assert newest_step(store) == 10
    if (what, how) == ("manifest", "gone"):  # then it was never there, as far as anyone can tell
        return
    assert "step_00000020" in caplog.text
    assert name in caplog.text
    assert store.exists(f"{made.folder}/quarantined.json")
    # Made again from step 10, it counts again.
    commit(store, 20)
    assert newest_step(store) == 20


def test_damage_everywhere_is_an_error_and_no_new_beginning(store):
    """Catches a run that starts at step 0 over checkpoints, at once or at the second try."""
    for step in (10, 20):
        made = commit(store, step)
        flip_a_bit(store, f"{made.folder}/{made.files['ema'].name}")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"checkpoints of 2 step\(s\) and none is usable"):
            resumed(store)


def test_an_outage_is_not_an_absence(store, monkeypatch):
    """Catches "the storage does not answer" read as "there is nothing": a start from step 0."""
    commit(store, 10)

    def refuse(*_args, **_kwargs):
        raise StorageError("no answer")

    for method in ("names", "read", "exists"):
        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, method, refuse)
            with pytest.raises(StorageError, match="no answer"):
                resumed(store)
    assert newest_step(store) == 10


def test_committed_bytes_that_are_no_safetensors_are_refused(store):
    """Catches a traceback of a library where a file was written by another program."""
    made = commit(store, 10)
    files = dict(made.files)
    files["state"] = write_file(store, made.folder, "state", ".safetensors", b"\0" * 20)
    other = layout.checkpoint_folder(RUN, 20)
    for role in ("ema", "history"):
        store.write(f"{other}/{files[role].name}", made.read(store, role))
    store.write(f"{other}/{files['state'].name}", b"\0" * 20)
    commit_files(store, other, files, {**made.body, "step": 20})
    with pytest.raises(CheckpointError, match="no safetensors"):
        resumed(store)


@pytest.mark.parametrize("field", ["experiment", "dataset"])
def test_a_checkpoint_of_something_else_is_refused(store, field):
    """Catches a run continued with other data or another configuration."""
    other = Origin(**{"experiment": "e" * 64, "dataset": "d" * 64, field: "f" * 64})
    commit(store, 10, origin=other)
    with pytest.raises(CheckpointError, match=f"another {field}: fingerprint f{{16}}, this run"):
        resumed(store)


def test_another_rank_reads_the_step_that_rank_0_chose(store):
    """Catches a rank that decides by itself, or does not see the same storage."""
    for step in (10, 20):
        commit(store, step)
    assert checkpoint.resume_at(store, RUN, 10, parts_of(0)).step == 10
    with pytest.raises(CheckpointError, match="all nodes must see the same storage"):
        checkpoint.resume_at(store, RUN, 30, parts_of(0))


# -- what no checkpoint is made of ---------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_tensors_are_refused(value):
    """Catches a checkpoint that no training comes back from."""
    state = state_of(3)
    require_finite({"ema": {}, "state": state}, step=3)
    state["adam.exp_avg.conv.weight"][1, 2, 0, 1] = value
    with pytest.raises(DivergenceError, match=r"adam\.exp_avg\.conv\.weight holds .* step 3"):
        require_finite({"ema": {}, "state": state}, step=3)


def test_ranks_with_other_weights_are_named():
    """Catches one flipped bit in the weights of a rank, which training would go on with."""
    same = [weights_digest(state_of(3)) for _ in range(3)]
    require_equal(same, step=3)
    state = state_of(3)
    state["model.conv.weight"].view(torch.int32)[0, 0, 0, 0] ^= 1
    with pytest.raises(DivergenceError, match=r"after step 3 .* rank\(s\) 1 are not those"):
        require_equal([same[0], weights_digest(state), same[0]], step=3)


def test_digest_fits_64_bits_and_ignores_memory_order():
    """Catches a digest that overflows the collective, or differs with channels_last."""
    state = state_of(3)
    digest = weights_digest(state)
    assert -(2**63) <= digest < 2**63
    plain = {name: tensor.contiguous() for name, tensor in state.items()}
    assert weights_digest(plain) == digest


# -- retention -----------------------------------------------------------------------------------


def files_of(store, step):
    return [
        name
        for name in store.names(layout.checkpoint_folder(RUN, step))
        if name not in ("manifest.json", "retired", "quarantined.json")
    ]


def test_the_newest_are_kept_and_older_ones_keep_their_manifest(store):
    """Catches retention that deletes a manifest, the wrong end, or one too many."""
    for step in range(10, 60, 10):
        commit(store, step)
    retention.prune(store, RUN, 2)
    assert [bool(files_of(store, step)) for step in range(10, 60, 10)] == [False] * 3 + [True] * 2
    assert all(
        store.exists(f"{layout.checkpoint_folder(RUN, 10)}/{n}")
        for n in ("manifest.json", "retired")
    )
    assert newest_step(store) == 50
    retention.prune(store, RUN, 2)
    assert [bool(files_of(store, step)) for step in (40, 50)] == [True] * 2


def test_a_damaged_checkpoint_does_not_count_as_kept(store):
    """Catches retention that leaves fewer whole checkpoints than `keep`."""
    for step in range(10, 60, 10):
        made = commit(store, step)
    manifest.quarantine(store, made.folder, "test")
    flip_a_bit(store, f"{layout.checkpoint_folder(RUN, 40)}/manifest.json")
    retention.prune(store, RUN, 2)
    assert [bool(files_of(store, step)) for step in (10, 20, 30)] == [False, True, True]


def test_a_retention_that_was_killed_is_finished(store):
    """Catches files that stay for ever behind a `retired` mark."""
    for step in range(10, 60, 10):
        commit(store, step)
    store.create(f"{layout.checkpoint_folder(RUN, 30)}/retired", b"see ddpm_core/manifest.py\n")
    retention.prune(store, RUN, 2)
    assert [bool(files_of(store, step)) for step in range(10, 60, 10)] == [False] * 3 + [True] * 2


def test_retention_looks_no_further_than_it_must(store, monkeypatch):
    """Catches a look into every folder of a long run at every checkpoint."""
    for step in range(10, 200, 10):
        commit(store, step)
        retention.prune(store, RUN, 2)
    looked = []
    true_names = LocalStore.names

    def names(self, folder):
        looked.append(folder)
        return true_names(self, folder)

    monkeypatch.setattr(LocalStore, "names", names)
    commit(store, 200)
    retention.prune(store, RUN, 2)
    assert len(looked) <= 4, looked


def test_history_is_lines_of_json(store):
    """Catches a curve that other programs cannot read line by line."""
    made = commit(store, 3)
    lines = made.read(store, "history").decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
