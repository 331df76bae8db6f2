"""Tables as text: every cell as its table shows it (paper, report, `tli summary`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tli.analysis.table import Cell, Row, Table
from tli.io.errors import UserError


class ShownRow(NamedTuple):
    """A row with its cells as values and as text."""

    values: Row
    texts: Mapping[str, str]

    def number(self, key: str) -> float | None:
        """A number of the row; None where it is undefined."""
        value = self.values.get(key)
        return None if value is None else float(value)

    def mean(self, key: str) -> float:
        """A number that is always defined, such as a mean."""
        value = self.number(key)
        if value is None:
            raise ValueError(f"expected a number in column {key}, got none")
        return value


def shown_rows(table: Table, **wanted: Cell) -> list[ShownRow]:
    """The rows with these cells."""
    keys = [column.key for column in table.columns]
    return [
        ShownRow(row, dict(zip(keys, line, strict=True)))
        for row, line in zip(table.rows, table.text, strict=True)
        if all(row.get(key) == value for key, value in wanted.items())
    ]


def shown_row(table: Table, **wanted: Cell) -> ShownRow:
    """The one row with these cells.

    Raises:
        UserError: no row or several.
    """
    rows = shown_rows(table, **wanted)
    if len(rows) != 1:
        cells = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise UserError(
            f"table {table.name}: expected one row with {cells}, got {len(rows)} rows; run `dvc repro`, which writes "
            "the tables again"
        )
    return rows[0]


def texts_by_key(tables: Mapping[str, Table]) -> dict[str, str]:
    """NAME/ROW/COLUMN -> the cell as its table shows it, for every cell outside the identifying columns."""
    texts = {}
    for table in tables.values():
        for row in shown_rows(table):
            name = table.row_name(row.values)
            for column in table.columns:
                if not column.id:
                    texts[f"{table.name}/{name}/{column.key}"] = row.texts[column.key]
    return texts


def displayed(table: Table) -> dict[str, Any]:
    """The table as a reader sees it, as JSON for the paper and the report."""
    return {
        "title": table.title,
        "caption": table.full_caption,
        "columns": [
            {"key": column.key, "title": column.title, "number": column.kind != "text"} for column in table.columns
        ],
        "lines": table.text,
        "notes": table.notes,
        "source": table.source_line,
    }
