"""Markdown that several parts of a generated page share: rows, headings, blocks to unfold, short numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tli import store
from tli.paper.rows import Value


def row(*cells: object) -> str:
    """A table's line."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def head(first: str, columns: Sequence[object], align: str = "--:") -> Iterator[str]:
    """A table's first two lines: words in the first column, figures in the others unless `align` says otherwise."""
    yield row(first, *columns)
    yield row(":--", *[align] * len(columns))


def details(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Lines to unfold; nothing where there are none."""
    if lines:
        yield from ("", f"<details><summary>{title}</summary>", "", *lines, "", "</details>")


def brief(value: float | None) -> str:
    """Two significant digits, or all before the point."""
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def text(value: Value) -> str:
    """A value as files keep it."""
    return "-" if value is None else store.number(value)


def cut(label: str) -> str:
    """At most sixty characters of a name."""
    return label if len(label) <= 60 else f"{label[:59]}…"
