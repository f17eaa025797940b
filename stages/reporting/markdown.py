"""Tables as text."""

from __future__ import annotations


def table(rows: list[dict[str, str]]) -> list[str]:
    """Lines of a Markdown table; the rows have one set of columns."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    told = ["| " + " | ".join(line) + " |" for line in lines]
    return [told[0], "|---" * len(rows[0]) + "|", *told[1:]]
