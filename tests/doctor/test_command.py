"""The command ends with an exit code that a script can use."""

import pytest

from ddpm_core.__main__ import main
from ddpm_core.doctor import command
from ddpm_core.doctor.finding import bad, look, ok


@pytest.mark.parametrize(
    ("last", "code"), [(look("disk", "full", "Make room"), 0), (bad("GPU", "there", "Do"), 2)]
)
def test_only_what_is_in_the_way_fails(last, code, monkeypatch, capsys):
    """Catches a script that stops at advice, and one that goes on without a GPU."""
    monkeypatch.setattr(command, "_all", lambda _: iter([ok("Python", "3"), last]))
    assert main(["doctor"]) == code
    output = capsys.readouterr()
    assert output.out.splitlines() == ["doctor  ok   Python: 3", f"doctor  {last.line}"]
    assert ("1 of 2 checks failed (GPU)" in output.err) == bool(code)


def test_a_file_in_the_place_of_the_root_is_in_the_way(tmp_path, monkeypatch, capsys):
    """Catches a traceback, a line without what to do, and services that are not looked at."""
    (tmp_path / "runs").write_text("")
    monkeypatch.setattr(command.machine, "examined", lambda: iter(()))
    monkeypatch.setattr(command.services, "examined", lambda store: iter([ok("x", f"{store}")]))
    assert main(["doctor", "--root", str(tmp_path / "runs")]) == 2
    root, other = capsys.readouterr().out.splitlines()
    assert root.startswith("doctor  bad  root: ")
    assert "give a folder" in root
    assert other == "doctor  ok   x: None"
