"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.reporting.spread import Spread


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Lines of a Markdown table; all rows, at least one, have the same columns."""
    head, *lines = ["| " + " | ".join(cells) + " |" for cells in (rows[0], *(row.values() for row in rows))]
    return [head, "|---" * len(rows[0]) + "|", *lines]


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a report's row: spreads as mean and deviation, and numbers and texts as they are."""
    return {name: Spread(**value).text() if isinstance(value, dict) else str(value) for name, value in row.items()}
