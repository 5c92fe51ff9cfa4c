"""Files of our own with a few bytes changed: read as they were, or one error; never a crash."""

from functools import partial

import numpy as np
import pytest

from ddpm_core.config import RunConfig
from ddpm_core.errors import PipelineError
from ddpm_core.recipes import digits
from ddpm_core.shards.index import load_index
from ddpm_core.shards.tar import members
from ddpm_core.store.storage import open_store

MUTANTS = 2000


def mutants(content, seed):
    """Yield the content with one to three bytes changed, one taken out, or its end cut off."""
    rng = np.random.default_rng(seed)
    for _ in range(MUTANTS):
        changed = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(changed)))
            match int(rng.integers(8)):
                case 0:
                    del changed[at]
                case 1:
                    del changed[at:]
                case 2:
                    changed.insert(at, int(rng.integers(256)))
                case _:
                    changed[at] = int(rng.integers(256))
            if not changed:
                break
        if changed != content:
            yield bytes(changed)


def outcome(read):
    """Return (what `read` returns, None) or (None, its error, if it is one of ours)."""
    try:
        return read(), None
    except PipelineError as error:
        return None, error


def test_a_changed_run_json_is_a_configuration_or_refused():
    """Catches: a kind of error of the parser's, or of a validator's, that nobody thought of."""
    read = 0
    for changed in mutants(digits().to_json().encode(), 0):
        config, error = outcome(partial(RunConfig.from_json, changed, origin="run.json"))
        if error is None:
            read += 1
            assert RunConfig.from_json(config.to_json(), origin="again") == config
        else:
            assert error.exit_code == 2
    assert 0 < read < MUTANTS / 2  # another digit is another number


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from ddpm_core.__main__ import main

    root = tmp_path_factory.mktemp("root")
    assert main(["shard", "digits", "--root", str(root)]) == 0
    (folder,) = (root / "datasets").glob("digits-*")
    return root, folder


def test_a_changed_index_is_refused(dataset):
    """Catches: an index that is believed though it is not the one that was written."""
    root, folder = dataset
    store, key = open_store(str(root)), f"datasets/{folder.name}"
    path = folder / "index.json"
    whole = path.read_bytes()
    try:
        for changed in mutants(whole, 1):
            path.write_bytes(changed)
            _, error = outcome(partial(load_index, store, key))
            assert error is not None, f"read: {changed[:500]!r}..."
            assert error.exit_code == 3
            assert "index.json" in str(error)
    finally:
        path.write_bytes(whole)


def test_a_changed_tar_is_the_same_members_or_refused(dataset):
    """Catches: a header that leads out of the archive, into a loop, or to other files' bytes."""
    content = next(dataset[1].glob("test-*.tar")).read_bytes()[: 512 * 40] + bytes(1024)
    for changed in mutants(content, 2):
        found, error = outcome(partial(members, changed, origin="a.tar"))
        if error is not None:
            assert "a.tar" in str(error)
            continue
        assert all(0 <= one.offset <= one.offset + one.size <= len(changed) for one in found)
