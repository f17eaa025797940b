"""The report as one page that needs nothing else."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 88rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12px; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th, td { padding: .25rem .45rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
td.none { color: #999; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; max-width: 100%; }
figure img { max-width: 100%; border: 1px solid #ddd; }
figcaption { font-size: 12px; color: #555; max-width: 40rem; }
svg { max-width: 100%; height: auto; }
"""


def page(title: str, parts: list[str]) -> str:
    """A whole document."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def items(texts: list[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def table(rows: list[dict[str, str]]) -> str:
    """Rows of one set of columns; text between `**` is bold."""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=none' if text == 'not run' else ''}>{_cell(text)}</td>" for text in row.values())
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _cell(text: str) -> str:
    """Text of a cell; bold between `**`."""
    inner = escape(text.strip("*"))
    return f"<b>{inner}</b>" if text.startswith("**") else inner


def picture(path: Path, caption: str) -> str:
    """A PNG file inside the page; nothing where there is no such file."""
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def chart(svg: str) -> str:
    """A chart inside the page."""
    return f"<figure>{svg}</figure>" if svg else ""
