"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Lines of a Markdown table; all rows, at least one, have the same columns."""
    head, *lines = ["| " + " | ".join(cells) + " |" for cells in (rows[0], *(row.values() for row in rows))]
    return [head, "|---" * len(rows[0]) + "|", *lines]
