"""The site: built without warnings and without the network, and true where it repeats the code."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from urllib.parse import unquote

import pytest

from ddpm_core.cli import describe_keys
from ddpm_core.config import RunConfig
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"


@cache
def made():
    """Return the file that makes pages."""
    spec = spec_from_file_location("made", DOCS / "_site" / "made.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Fetched(HTMLParser):
    """Collects what a browser fetches with a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        match tag:
            case "script" | "img" | "iframe" | "source":
                self.found.append(given.get("src") or "")
            case "link" if given.get("rel") not in ("canonical", "prev", "next"):
                self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_it_is_built_and_asks_nobody(tmp_path):
    """Catches: a broken link or anchor, a docstring that is not read, a font from elsewhere."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
    # A proxy that is not there: nothing is fetched while it is built.
    alone = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [*words, str(tmp_path / "a site")],
        cwd=ROOT,
        env={**os.environ, **alone, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "a site").rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text())
        outside = [url for url in reader.found if re.match(r"(https?:)?//", url)]
        assert not outside, (page, outside)
        local = [
            url.partition("?")[0] for url in reader.found if not url.startswith(("data:", "/"))
        ]
        lost = [url for url in local if url and not (page.parent / unquote(url)).exists()]
        assert not lost, (page, lost)
    api = (tmp_path / "a site" / "reference" / "api.html").read_text()
    assert "Draw images; image i of a seed is the same" in api
    assert not (tmp_path / "a site" / "_site").exists()


def test_configuration_page_says_what_help_says():
    """Catches: a key, a default or a meaning that the page does not have."""
    page = made().configuration()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    known = RunConfig.keys()
    for key in known:
        assert "." not in key or f"`{key}`" in page, key
    assert "| `train.learning_rate` | number, > 0 | `0.0002` | Adam's step size" in page
    assert "| `sample.num_steps` | integer or null, ≥ 2, ≤ 1e+06 | `null` |" in page
    assert "`compute.num_workers` ○" in page
    assert "`train.seed` ○" not in page
    said = "".join(describe_keys().split())  # lines are broken at hyphens too
    for row in rows:
        key, _, _, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:5])
        words = meaning.replace("\\|", "|").replace("&lt;", "<")
        if not key.strip("`").endswith(".kind"):  # which help says of the first kind
            assert "".join(words.split()) in said, key


def test_commands_page_has_every_command_and_no_machine_of_ours():
    """Catches: a command that is not shown, and a path or a width of where it was built."""
    page = made().commands()
    for command in ("shard", "evaluate", "verify", "edit", "export-weights", "average", "doctor"):
        assert f"\n## {command}\n" in page
    assert "ddpm train [-h]" in page
    assert "__main__" not in page


@cache
def sentences():
    """Return every string of the program, f-strings in their parts."""
    files = [*(ROOT / "ddpm_core").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    found = (node.value for node in nodes if isinstance(node, ast.Constant))
    return "\n".join(value for value in found if isinstance(value, str))


def test_messages_of_the_faq_are_those_of_the_program():
    """Catches: a message that was reworded, and so is not found by whoever sees it."""
    quoted = re.findall(r"^> (.*)$", (DOCS / "faq.md").read_text(), re.M)
    assert len(quoted) > 10
    for line in quoted:
        for part in line.split("…"):
            assert part.strip() in sentences(), line


def test_numbers_of_the_hardware_page_are_measured():
    """Catches: a number that its file does not have, as after a new measurement."""
    rows = re.findall(
        r"^\|(.*)\| \[.*?\]\(measured/(.*?)\) \|$", (DOCS / "hardware.md").read_text(), re.M
    )
    assert len(rows) > 20
    for row, file in rows:
        text = (ROOT / "benchmarks" / "results" / file).read_text()
        there = set(re.findall(r"\d[\d,.]*\d|\d", text))
        for cell in row.split("|")[2:]:
            for number in re.findall(r"(?<![\w×])\d[\d,.]*\d(?![\w×])", cell):
                assert number in there, (file, number)


def test_variables_of_the_environment_are_read():
    """Catches: a variable that is misspelt, or not ours any more."""
    code = "\n".join(path.read_text() for path in (ROOT / "ddpm_core").rglob("*.py"))
    for page in (*DOCS.glob("*.md"), ROOT / "README.md"):
        for name in set(re.findall(r"\bDDPM_[A-Z_]+\b", page.read_text())):
            assert re.search(rf"\b{name}\b", code), (page.name, name)
