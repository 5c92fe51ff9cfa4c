"""The few pieces of HTML that a report is made of; every text is escaped here and nowhere else."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1c1f23; --soft: #5c6670; --line: #d9dee3; --back: #f6f7f9; }
body { margin: 0 auto; max-width: 1080px; padding: 24px; color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: 4px; }
h3 { font-size: 15px; margin: 20px 0 4px; }
.soft { color: var(--soft); } code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--back); padding: 12px; overflow-x: auto; border-radius: 6px; }
table { border-collapse: collapse; margin: 8px 0; max-width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: 4px 14px 4px 0; text-align: left;
  vertical-align: top; }
td { overflow-wrap: anywhere; } th { font-weight: 600; white-space: nowrap; }
.wide { overflow-x: auto; } .wide td { overflow-wrap: normal; }
.numbers { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.numbers div { background: var(--back); border-radius: 6px; padding: 10px 16px; }
.numbers b { display: block; font-size: 22px; }
.pictures { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
figure { margin: 0; max-width: 100%; flex: 0 1 520px; }
figcaption { color: var(--soft); font-size: 13px; }
img { max-width: 100%; border: 1px solid var(--line); border-radius: 4px; }
img.small { image-rendering: pixelated; width: 320px; }
nav a { margin-right: 14px; } details { margin: 8px 0; } summary { cursor: pointer; }
@media print { details { display: block; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page; it needs no other file, and runs no script."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        # Nothing is fetched, and nothing runs, whatever a name says.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(text: str, *, level: int = 2, anchor: str | None = None) -> str:
    """Return a heading, to which `anchor` leads."""
    name = "" if anchor is None else f' id="{escape(anchor)}"'
    return f"<h{level}{name}>{escape(text)}</h{level}>"


def paragraph(text: str, *, soft: bool = False) -> str:
    """Return a paragraph."""
    return f"<p{' class=soft' if soft else ''}>{escape(text)}</p>"


def code(text: str) -> str:
    """Return lines to be copied."""
    return f"<pre>{escape(text)}</pre>"


def folded(title: str, content: str) -> str:
    """Return content that is shown at a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def table(rows: Iterable[Sequence[object]], *, head: Sequence[str] = ()) -> str:
    """Return a table; the first cell of each row names it. One of many columns scrolls by itself.

    Args:
        rows: of cells.
        head: names of the columns.
    """
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = [f"<thead><tr>{top}</tr></thead>"] if head else []
    for row in rows:
        first, *rest = (escape(str(cell)) for cell in row)
        cells = f"<th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in rest)
        lines.append(f"<tr>{cells}</tr>")
    found = f"<table>{''.join(lines)}</table>"
    return f"<div class=wide>{found}</div>" if len(head) > 2 else found


def cards(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Return numbers to be seen first: name, value, and what it was measured on."""
    found = (
        f"<div><span class=soft>{escape(name)}</span><b>{escape(value)}</b>"
        f"<span class=soft>{escape(about)}</span></div>"
        for name, value, about in numbers
    )
    return f"<div class=numbers>{''.join(found)}</div>"


def picture(png: bytes, caption: str, *, is_small: bool = False) -> str:
    """Return a picture that lies in the page itself; a small one enlarged, each pixel a square."""
    data = base64.b64encode(png).decode()
    small = " class=small" if is_small else ""
    return (
        f'<figure><img{small} alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pictures(figures: Iterable[str]) -> str:
    """Return pictures side by side, as many as fit."""
    return f"<div class=pictures>{''.join(figures)}</div>"


def links(names: Iterable[tuple[str, str]]) -> str:
    """Return links within the page: (anchor, text)."""
    found = (f'<a href="#{escape(anchor)}">{escape(text)}</a>' for anchor, text in names)
    return f"<nav>{''.join(found)}</nav>"
