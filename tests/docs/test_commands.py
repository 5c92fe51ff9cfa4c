"""Every command of every page: a command line that takes it, a known program, or a reason."""

import argparse
import ast
import importlib
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from functools import cache
from io import StringIO

import pytest

from ddpm_core import __main__ as stage
from ddpm_core.cli import changes_of, parse_overrides
from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import is_recipe, recipe
from flows import command_line
from tests.docs.pages import ROOT, Block, blocks, pages, spans

KNOWN = {".", "bash", "cd", "curl", "docker", "echo", "eval", "export", "git", "kubectl", "mkdir"}
KNOWN |= {"mlflow", "pip", "prefect", "ray", "sbatch", "squeue", "uv", "virtualenv"}
"""programs of others, and of the shell"""
TEXT = {"text", "json", "yaml", "toml", "ini", "html", "mermaid"}


class RefusedError(Exception):
    """A command that the program would refuse."""


class Reader:
    """Reads the commands of one page, of which later ones name runs that earlier ones make."""

    def __init__(self) -> None:
        self.runs: dict[str, RunConfig] = {}

    def command(self, words: Sequence[str]) -> None:
        """Raise RefusedError, ConfigError or ValueError unless it is one that can be run."""
        match list(words):
            case ["python", "-m", "flows.train_ddpm" | "flows.paper" as module, *rest]:
                flow = {
                    "flows.train_ddpm": command_line.TRAIN_DDPM,
                    "flows.paper": command_line.PAPER,
                }
                self._configured(_parsed(_flow_parser(flow[module]), rest))
            case ["ddpm", "run", *rest]:
                self._configured(_parsed(_flow_parser(command_line.TRAIN_DDPM), rest))
            case ["python", "-m", "flows.stop", *_] | ["ddpm", "--version"]:
                pass
            case ["python", "-m", "ddpm_core", *rest] | ["ddpm", *rest]:
                self._stage(rest)
            case ["make", *rest]:
                _make(rest)
            case ["python", "-m", module, *_] if module.startswith(("benchmarks.", "tests.")):
                _exists(module.replace(".", "/") + ".py")
            case ["python", "-m", "build" | "pip" | "venv", *_]:
                pass
            case ["python", "-c", code]:
                _imports(code)
            case ["python", file, *_]:
                _exists(file)
            case ["pytest", *rest]:
                for path in (word for word in rest if word.startswith("tests/")):
                    _exists(path.partition("::")[0])
            case ["ray", "job", "submit", *rest] if "--" in rest:
                self.command(rest[rest.index("--") + 1 :])
            case ["..." | "…", *rest] | [("--set" | "--from"), *rest]:
                given = words if words[0].startswith("--") else rest
                self._stage(["train", "digits", *given])
            case [program, *_] if program.startswith("infra/"):
                _exists(program)
            case [assignment, *rest] if re.match(r"[A-Z_]+=", assignment):
                if rest:
                    self.command(rest)
            case [program, *_] if program in KNOWN:
                pass
            case _:
                raise RefusedError(f"no known program: {shlex.join(words)}")

    def _stage(self, rest: Sequence[str]) -> None:
        given = _parsed(_stage_parser(), rest)
        if given.stage == "import-weights":
            given.target = given.recipe
        if hasattr(given, "overrides"):
            self._configured(given)

    def _configured(self, given: argparse.Namespace) -> None:
        """Hold the keys against the configuration of the run, or of any if it is not known."""
        target = getattr(given, "target", None)
        if not hasattr(given, "size"):
            changes = parse_overrides(given.overrides)
        elif is_recipe(target or ""):
            changes = changes_of(given, target)
        else:
            changes = parse_overrides(given.overrides)
        unknown = set(changes) - _keys()
        if unknown:
            raise RefusedError(f"no such key: {sorted(unknown)}")
        name = re.sub(r".*/runs/([^/]+)(/run\.json)?$", r"\1", target or "")
        base = recipe(target) if is_recipe(target or "") else self.runs.get(name)
        if base is None:
            if target is not None and "/" not in target and not target.isupper():
                raise RefusedError(f"{target} is no recipe, and no command above makes it as a run")
            return
        config = base.replaced({**changes, "name": getattr(given, "run", None) or base.name})
        self.runs[config.name] = config


@cache
def _stage_parser() -> argparse.ArgumentParser:
    return stage._parser()


@cache
def _flow_parser(flow: command_line.Command) -> argparse.ArgumentParser:
    return command_line._parser(flow)


@cache
def _keys() -> frozenset[str]:
    return frozenset(
        f"{name}.{key}"
        for name, kinds in RunConfig.sections().items()
        for section in kinds.values()
        for key in section.model_fields
    )


def _parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    said = StringIO()
    try:
        with redirect_stderr(said):
            return parser.parse_args(list(words))
    except SystemExit:
        raise RefusedError(said.getvalue().strip().splitlines()[-1]) from None


def _make(words: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and not re.search(rf"[$(,]{name}\b", text):
            raise RefusedError(f"the Makefile knows no variable {name}")
        if not equals and not re.search(
            rf"^(?:[\w-]+ )*{re.escape(word)}(?: [\w-]+)*:", text, re.M
        ):
            raise RefusedError(f"the Makefile has no target {word}")


def _exists(path: str) -> None:
    if not (ROOT / path).exists():
        raise RefusedError(f"there is no {path}")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command: lines joined at a backslash, cut at a pipe."""
    for line in text.replace("\\\n", " ").splitlines():
        shell = shlex.shlex(line, posix=True, punctuation_chars="|;&")
        shell.whitespace_split = True
        words: list[str] = []
        for word in [*shell, ";"]:
            if set(word) <= set("|;&"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def check(block: Block, reader: Reader) -> Iterator[str]:
    """Yield what is wrong with a block."""
    match block.language:
        case "python" | "py":
            try:
                _imports(block.text)
            except (SyntaxError, ImportError, AttributeError) as error:
                yield f"{block}: {error}"
        case "" | "bash" | "console" | "sh":
            try:
                for words in commands(block.text):
                    try:
                        reader.command(words)
                    except (RefusedError, ConfigError) as error:
                        yield f"{block}: {shlex.join(words)}: {error}"
            except ValueError as error:
                yield f"{block}: {error}"
        case language if language not in TEXT:
            yield f"{block}: no language of a page: {language}"


def _imports(text: str) -> None:
    """Compile; import what is ours, and find the rest."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ddpm_core"):
            module = importlib.import_module(node.module)
            for name in node.names:
                getattr(module, name.name)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if importlib.util.find_spec(name.name.partition(".")[0]) is None:
                    raise ImportError(name.name)


@pytest.mark.parametrize("page", pages())
def test_commands_are_taken(page):
    """Catches: an option, a key, a recipe, a target or a file that is not there any more."""
    text = (ROOT / page).read_text()
    reader = Reader()
    wrong = []
    for block in blocks(page, text):
        if block.reason is None:
            wrong += check(block, reader)
    for span in spans(text):
        try:
            reader.command(shlex.split(span))
        except (RefusedError, ConfigError) as error:
            if "arguments are required" not in str(error):  # else it is named, not called
                wrong.append(f"{page}: `{span}`: {error}")
    assert not wrong, "\n".join(wrong)
