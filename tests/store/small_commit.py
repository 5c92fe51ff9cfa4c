"""A small commit for tests."""

from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.store import Store

FOLDER = "runs/a/checkpoints/step_00001000"
KEY = f"{FOLDER}/manifest.json"
STATE = bytes(range(256)) * 4
BODY = {"step": 1000, "experiment": "abc"}
EXPECTED = Expected(BODY)


def commit_small(store: Store, state: bytes = STATE, *, name: str = "manifest.json") -> Manifest:
    files = {
        "state": write_file(store, FOLDER, "state", ".safetensors", state),
        "history": write_file(store, FOLDER, "history", ".jsonl", b""),
    }
    return commit(store, FOLDER, files, BODY, name=name)
