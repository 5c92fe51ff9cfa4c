"""docs/map.md says of every file what the file says of itself. `make map` writes it anew."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
TITLE = "# Every file in one line\n\nWritten by `make map` from the first sentences of the files.\n"


def rooms():
    """Yield each folder of the program with its files, from the flows down."""
    for top in ("flows", "ddpm_core"):
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
            if files:
                yield folder.relative_to(ROOT), files


def sentence(path):
    """Return the first paragraph of a file's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())


def written():
    """Return what docs/map.md should be."""
    parts = [TITLE]
    for folder, files in rooms():
        lines = [f"- `{path.name}`: {sentence(path)}" for path in files]
        parts.append("\n".join([f"## {folder}/", "", *lines, ""]))
    return "\n".join(parts)


def test_the_map_is_up_to_date():
    """Catches a file that the map does not know, and one that says something else by now."""
    assert (ROOT / "docs" / "map.md").read_text() == written(), "run `make map`"


def test_every_file_says_what_it_is():
    """Catches a file without a first sentence."""
    assert all(sentence(path) for _, files in rooms() for path in files)


if __name__ == "__main__":
    (ROOT / "docs" / "map.md").write_text(written())
