"""A root is written to, and nothing of it stays."""

import pytest

from ddpm_core.doctor import places
from ddpm_core.store.disk import LocalStore
from ddpm_core.store.storage import open_store


def test_nothing_stays_in_a_root_that_can_be_used(tmp_path):
    """Catches the object of the check left behind, and a folder with a space in its name."""
    root = tmp_path / "my runs"
    found = {one.name: one for one in places.examined(open_store(str(root)))}
    assert found["root"].verdict == "ok"
    assert "disk" in found
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("answer", [b"", b"x" * 2**20])
def test_a_storage_that_gives_back_other_bytes_is_in_the_way(answer, tmp_path, monkeypatch):
    """Catches a check that writes and never compares, and one that leaves its object there."""
    monkeypatch.setattr(LocalStore, "read", lambda *_, **__: answer)
    found = list(places.examined(open_store(str(tmp_path / "runs"))))
    assert found[0].verdict == "bad"
    assert "other bytes" in found[0].remedy
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_slow_storage_is_said(tmp_path, monkeypatch):
    """Catches a verdict without the time."""
    monkeypatch.setattr(places, "_there_and_back", lambda _: 9.0)
    assert next(places.examined(open_store(str(tmp_path)))).verdict == "look"
