import os

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.store import pinned_file
from ddpm_core.store.pinned_file import read_pinned
from ddpm_core.store.storage import sha256_of


def refusal(path) -> str:
    with pytest.raises(ConfigError) as refused:
        read_pinned(str(path), "0" * 64, key="evaluate.features")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"evaluate.features={str(path)!r} ")
    return str(refused.value)


def test_the_file_of_that_digest_is_read(tmp_path, monkeypatch):
    """Catches: a digest that is not compared, a home that is not looked up."""
    (tmp_path / "a net.pt").write_bytes(b"a network")
    digest = sha256_of(b"a network")
    assert read_pinned(str(tmp_path / "a net.pt"), digest, key="k") == b"a network"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_pinned("~/a net.pt", digest, key="k") == b"a network"
    assert f"SHA-256 {digest}; evaluate.features_sha256 is 000" in refusal(tmp_path / "a net.pt")


def test_what_is_no_file_is_named(tmp_path):
    """Catches: a traceback, and a wait for whoever writes into a pipe."""
    assert "cannot be read: No such file" in refusal(tmp_path / "net.pt")
    (tmp_path / "file").touch()
    assert "cannot be read: Not a directory" in refusal(tmp_path / "file" / "net.pt")
    assert "is no regular file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in refusal(tmp_path / "pipe")
    assert "is no regular file" in refusal("/dev/zero")
    with pytest.raises(ConfigError, match=r"cannot be read: .*embedded null"):
        read_pinned("net\0.pt", "0" * 64, key="k")


def test_a_link_to_a_file_is_read(tmp_path):
    """Catches: the links that caches of model hubs are made of, refused as no files."""
    (tmp_path / "net.pt").write_bytes(b"a network")
    (tmp_path / "link").symlink_to(tmp_path / "net.pt")
    assert read_pinned(str(tmp_path / "link"), sha256_of(b"a network"), key="k") == b"a network"


def test_a_file_that_is_too_long_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """Catches: all memory for a file of terabytes. The file is sparse: reading it would show."""
    with (tmp_path / "net.pt").open("wb") as file:
        file.truncate(2**40)
    assert f"has {2**40} bytes; at most {2**31} are read" in refusal(tmp_path / "net.pt")
    monkeypatch.setattr(pinned_file, "MAX_PINNED_BYTES", 9)
    (tmp_path / "net.pt").write_bytes(b"a network")
    assert read_pinned(str(tmp_path / "net.pt"), sha256_of(b"a network"), key="k") == b"a network"
