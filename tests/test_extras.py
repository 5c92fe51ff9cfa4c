"""An installation without the extras: what works there, and what is said of the rest."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ddpm_core import extras
from ddpm_core.errors import ConfigError
from ddpm_core.extras import EXTRAS, packages_named
from flows import command_line

NOT_MISSED = ("all", "dev", "fast")  # without fast, all is done by others
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PROJECT_TABLE = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
DDPM = "from ddpm_core.__main__ import main; sys.exit(main(sys.argv[1:]))"
FLOW = "from flows.command_line import TRAIN_DDPM, main; sys.exit(main(TRAIN_DDPM, sys.argv[1:]))"


def run_without(modules, program, *words):
    code = f"ABSENT = {sorted(modules)}\n{WITHOUT}\n{program}"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def without_extras() -> set[str]:
    """Return the modules that are installed here and not by `pip install ddpm-pipeline`."""
    found: set[str] = set()
    todo = [Requirement(text) for text in PROJECT_TABLE["dependencies"]]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        todo += [Requirement(text) for text in requires(name) or ()]
    there = packages_distributions()
    ours = {canonicalize_name(PROJECT_TABLE["name"])}
    return {
        module
        for module, distributions in there.items()
        if not (found | ours) & {canonicalize_name(name) for name in distributions}
    }


def test_the_commands_start_without_any_extra(tmp_path):
    """Catches `ddpm` of `pip install ddpm-pipeline`, which ends in a traceback about pydantic."""
    absent = without_extras()
    assert {"ray", "prefect", "webdataset", "pytest"} <= absent
    for program, words in ((DDPM, ["--help"]), (FLOW, ["--help"]), (DDPM, ["runs", "list"])):
        root = ["--root", str(tmp_path)] if words[0] == "runs" else []
        done = run_without(absent, program, *words, *root)
        assert (done.returncode, done.stderr) == (0, ""), words


@pytest.mark.parametrize(("module", "extra"), [("gradio", "play"), ("ray", "all")])
def test_the_remedy_installs_what_is_missing(module, extra):
    """Catches `[all]` for a package that `all` has not."""
    assert f"pip install 'ddpm-pipeline[{extra}]' " in str(extras._missing(module))
    named = " ".join(PROJECT_TABLE["optional-dependencies"]["all"])
    assert (EXTRAS[module] in named) == (extra == "all")


@pytest.mark.parametrize(
    ("stage", "absent"), [("train", {"ray"}), ("shard", {"PIL", "sklearn", "webdataset"})]
)
def test_what_is_missing_is_one_sentence_with_the_extra(stage, absent, tmp_path):
    """Catches "No module named 'ray'" below a traceback, as the answer to a command."""
    done = run_without(
        absent, DDPM, stage, "digits", "--root", str(tmp_path), "--set", "compute.num_workers=1"
    )
    assert done.returncode == ConfigError.exit_code, done.stderr
    (line,) = done.stderr.splitlines()
    found = re.search(r"the package (\w+) is not installed: it comes with the extra (\w+),", line)
    assert found
    assert found[1] in absent
    assert found[2] == EXTRAS[found[1]]
    assert line.endswith("pip install -e '.[all]')")


@pytest.mark.parametrize("absent", ["prefect", "ray"])
def test_a_flow_starts_no_server_without_its_packages(absent, tmp_path, monkeypatch, capsys):
    """Catches the traceback of a Prefect server, after seconds, as the answer to a command."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == absent else name)
    monkeypatch.setattr(command_line, "PrefectApi", lambda: pytest.fail("a server was started"))
    words = ["digits", "--root", str(tmp_path)]
    assert command_line.main(command_line.TRAIN_DDPM, words) == ConfigError.exit_code
    assert f"the package {absent} is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_module_that_no_extra_brings_stays_an_error_of_ours():
    """Catches a renamed file of ours, reported as a package to install."""
    with pytest.raises(ModuleNotFoundError), packages_named():
        import ddpm_core.not_there  # noqa: F401


def test_every_package_of_an_extra_is_known():
    """Catches a dependency added to an extra, whose absence is a traceback."""
    modules: dict[str, list[str]] = {}
    for module, distributions in packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(canonicalize_name(distribution), []).append(module)
    known = set()
    for extra, texts in PROJECT_TABLE["optional-dependencies"].items():
        for name in (Requirement(text).name for text in texts if extra not in NOT_MISSED):
            of_extra = [m for m in modules[canonicalize_name(name)] if EXTRAS.get(m) == extra]
            assert of_extra, f"{name} of the extra {extra}: its module is not in EXTRAS"
            known.update(of_extra)
    assert known == set(EXTRAS), "some are of no extra"
