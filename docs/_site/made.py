"""Pages of the site that are made when it is built, of what says it first.

The configuration and the command lines say what `--help` says; decisions, measurements and the
notebooks are shown as they lie in the repository. MkDocs calls what begins with `on_`.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ddpm_core import __main__ as stage
from ddpm_core.config import RunConfig
from ddpm_core.config.section import Section, Uncounted

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "deployments.md": "infra/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""pages that lie outside docs/, if they are there"""
WIDE = {"paper.md", "family.md", "faults.md", "recipes.md", "sizes.md"}
"""pages of wide tables, without a table of contents beside them"""
_LIMITS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the lists of files in the navigation, and add the pages that it does not name."""
    lists: dict[str, list[Any]] = {
        "Decisions": [f"decisions/{path.name}" for path in _sorted("docs/decisions/*.md")],
        "Measured": [
            {path.stem: f"measured/{path.name}"} for path in _sorted("benchmarks/results/*.md")
        ],
        "Notebooks": [f"notebooks/{path.stem}.md" for path in _sorted("docs/notebooks/*.ipynb")],
    }
    nav = list(_filled(config.nav or [], lists))
    named = set(_pages_of(nav))
    rest = [path.name for path in _sorted("docs/*.md") if path.name not in named]
    rest += [
        page for page, path in ELSEWHERE.items() if (ROOT / path).exists() and page not in named
    ]
    config.nav = [*nav, {"More": rest}] if rest else nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    pages = {"reference/configuration.md": configuration(), "reference/commands.md": commands()}
    for path in _sorted("benchmarks/results/*.md"):
        pages[f"measured/{path.name}"] = path.read_text()
    for path in _sorted("docs/notebooks/*.ipynb"):
        pages[f"notebooks/{path.stem}.md"] = notebook(path)
    for page, path in ELSEWHERE.items():
        if (ROOT / path).exists():
            pages[page] = (ROOT / path).read_text().replace("](docs/", "](")
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links to files outside docs/ to their pages; give wide tables the whole width."""
    if "\n## " not in markdown or page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    for name, path in ELSEWHERE.items():
        up = rf"\]\(((?:\.\./)*)\.\./{re.escape(path)}"
        markdown = re.sub(up, rf"](\g<1>{name}", markdown)
    return markdown


def configuration() -> str:
    """Return the page of every key: type and range, default, meaning."""
    parts = [
        "# Configuration\n\nEvery key of `--set`, as `--help` lists them, of the classes in "
        "`ddpm_core/config/`. The default holds where a recipe does not say otherwise; a dry run "
        "prints all of a run. Keys marked ○ change no result: they are in no fingerprint, and free "
        "to change under one name. Beside the sections there is `name`, the run's (`--run`).\n"
    ]
    for name, kinds in RunConfig.sections().items():
        text = " ".join((next(iter(kinds.values())).__doc__ or "").split())
        parts.append(f"\n## {name}\n\n{text if len(kinds) == 1 else ''}\n")
        for kind, section in kinds.items():
            if kind is not None:
                said = " ".join((section.__doc__ or "").split())
                parts.append(f"\n### {name}.kind={kind}\n\n{said}\n")
            parts.append("\n| key | type | default | meaning |\n|---|---|---|---|\n")
            parts += _rows(name, section)
    return "".join(parts)


def _rows(name: str, section: type[Section]) -> Iterator[str]:
    for key, field in section.model_fields.items():
        default = field.get_default()
        shown = default.model_dump(mode="json") if isinstance(default, Section) else default
        limits = [
            f"{sign} {getattr(mark, attribute):g}"
            for mark in field.metadata
            for kind, attribute, sign in _LIMITS
            if isinstance(mark, kind)
        ]
        words = ", ".join([_type(field.annotation), *limits])
        free = " ○" if any(isinstance(mark, Uncounted) for mark in field.metadata) else ""
        meaning = " ".join((field.description or "").split())
        row = [f"`{name}.{key}`{free}", words, f"`{json.dumps(shown)}`", meaning]
        yield (
            "| "
            + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row)
            + " |\n"
        )


def _type(annotation: Any) -> str:  # noqa: ANN401
    """Return a type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in inner)
    if annotation is type(None):
        return "null"
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _type(inner[0])
    if inner:
        return " or ".join(dict.fromkeys(_type(one) for one in inner))
    names = {int: "integer", float: "number", bool: "true or false", str: "text"}
    return names.get(annotation, "object")


def commands() -> str:
    """Return the page of every command: what argparse says of it, without the keys."""
    made = [
        "# Commands\n\n`ddpm` is short for `python -m ddpm_core`, `ddpm run` for "
        "`python -m flows.train_ddpm`; each says this with `--help`, too.\n"
    ]
    made += [
        f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in _helps(stage._parser(), "ddpm")
    ]
    return "".join(made)


def _helps(parser: argparse.ArgumentParser, before: str) -> Iterator[tuple[str, str]]:
    """Yield (name, help) of each command below, as wide as the page."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for name, one in action.choices.items():
            one.prog, one.epilog = f"{before} {name}", None
            one.formatter_class = partial(argparse.HelpFormatter, width=92)
            yield one.prog.partition(" ")[2], one.format_help().strip()
            yield from _helps(one, one.prog)


def notebook(path: Path) -> str:
    """Return a notebook as a page."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    link = f"\n*This page is a notebook that the tests run: [{path.name}]({path.name}).*\n"
    return "\n\n".join([*parts, link])


def _sorted(pattern: str) -> list[Path]:
    return sorted(ROOT.glob(pattern))


def _filled(nav: Sequence[Any], lists: dict[str, list[Any]]) -> Iterator[Any]:
    for entry in nav:
        if isinstance(entry, dict):
            ((title, inner),) = entry.items()
            if isinstance(inner, list):
                yield {title: list(_filled(inner, lists))}
            else:
                yield {title: lists[title]} if inner == "*" else entry
        else:
            yield entry


def _pages_of(nav: Any) -> Iterator[str]:  # noqa: ANN401
    match nav:
        case str():
            yield nav
        case dict():
            for inner in nav.values():
                yield from _pages_of(inner)
        case list():
            for inner in nav:
                yield from _pages_of(inner)
