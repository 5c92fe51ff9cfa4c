"""What is said of this machine, and when it is in the way."""

import resource

import pytest

from ddpm_core.doctor import machine

GIB = 2**30


def test_a_remedy_stands_with_all_that_is_not_fit():
    """Catches a complaint that leaves the reader alone, and a check that raises on this machine."""
    found = list(machine.examined())
    assert [one.name for one in found][:2] == ["Python", "packages"]
    for one in found:
        assert one.said
        assert bool(one.remedy) == (one.verdict != "ok"), one.line


@pytest.mark.parametrize(
    ("python", "verdict"), [((3, 10), "look"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "look")]
)
def test_untested_pythons_are_said(python, verdict):
    """Catches a bound that leaves out the last that was tested."""
    assert machine._python(python).verdict == verdict


@pytest.mark.parametrize(("count", "verdict"), [(1, "look"), (2, "ok")])
def test_one_core_is_too_few_for_the_recipes(count, verdict, monkeypatch):
    """Catches the cores of the node in place of those of the process."""
    monkeypatch.setattr(machine, "cores", lambda: count)
    found = machine._cores()
    assert found.verdict == verdict
    assert "num_workers=1" in found.remedy or verdict == "ok"


@pytest.mark.parametrize(
    ("bytes_", "verdict"), [(None, "ok"), (4 * GIB, "ok"), (4 * GIB - 1, "look")]
)
def test_little_memory_is_said(bytes_, verdict, monkeypatch):
    """Catches a limit read in other units, and a crash where nothing is known."""
    monkeypatch.setattr(machine, "memory_bytes", lambda: bytes_)
    assert machine._memory().verdict == verdict


def test_a_container_s_small_shared_memory_is_said():
    """Catches Docker's 64 MB taken for enough."""
    assert machine._shared_memory(64 * 2**20).verdict == "look"
    assert machine._shared_memory(2 * GIB).verdict == "ok"


@pytest.mark.parametrize(
    ("soft", "verdict"), [(128, "bad"), (256, "look"), (1024, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_few_open_files_are_said(soft, verdict):
    """Catches "without limit", which is -1, taken for the least of all."""
    assert machine._descriptors(soft, resource.RLIM_INFINITY).verdict == verdict


@pytest.mark.parametrize(
    ("hard", "remedy"), [(resource.RLIM_INFINITY, "-n 65536"), (4096, "-n 4096"), (900, "machine")]
)
def test_no_more_open_files_are_advised_than_may_be(hard, remedy):
    """Catches a command that the shell refuses."""
    assert remedy in machine._descriptors(256, hard).remedy


@pytest.mark.parametrize(("cuda", "word"), [(None, "without CUDA"), ("13.0", "cannot use it")])
def test_a_gpu_that_torch_cannot_use_is_in_the_way(cuda, word, monkeypatch, tmp_path):
    """Catches a day of training on the CPU beside an idle GPU."""
    import torch

    (tmp_path / "version").write_text("NVRM")
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = machine._torch()
    assert found.verdict == "bad"
    assert word in found.said


def test_missing_extras_are_named(monkeypatch):
    """Catches a report that says only which packages there are."""
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "ray" else object())
    found = machine._packages()
    assert found.verdict == "look"
    assert "extras ray are" in found.said


def test_what_comes_apart_is_no_fault_of_an_installation(monkeypatch):
    """Catches a finding after `make run`, with a remedy that installs nothing."""
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "gradio" else object())
    found = machine._packages()
    assert found.verdict == "ok"
    assert "apart: play" in found.said
