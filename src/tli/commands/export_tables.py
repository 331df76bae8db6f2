"""`tli export tables`: writes the tables of a model with nine digits, as CSV or JSON, for further computation.

The files in paper/tables show rounded numbers; these do not. An undefined cell is empty (CSV) or null (JSON).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from tli.analysis.render import read_model
from tli.analysis.table import Table
from tli.io.files import atomic_dir, write_text
from tli.io.structured import nine_digits, write_json


def to_csv(table: Table) -> str:
    """The rows under the keys of their columns; a view of the whole table is a last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [column.key for column in table.columns]
    view = [table.view] if table.view else []
    writer.writerow([*keys, *(["view"] if view else [])])
    for row in table.rows:
        cells = (row.get(key) for key in keys)
        writer.writerow([*("" if cell is None else nine_digits(cell) for cell in cells), *view])
    return text.getvalue()


def to_records(table: Table) -> dict[str, Any]:
    """The table with its rows as mappings; `key` names a row in the keys NAME/ROW/COLUMN of its numbers."""
    keys = [column.key for column in table.columns]
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.full_caption,
        "columns": {column.key: {"title": column.title, "kind": column.kind} for column in table.columns},
        "rows": [
            {"key": f"{table.name}/{table.row_name(row)}"} | {key: row.get(key) for key in keys} for row in table.rows
        ],
        "notes": table.notes,
        "source": table.source_line,
    }


def run(tables: Path, form: str, out: Path) -> list[str]:
    """Writes the folder `out`, replacing what is there, and returns the names of the tables.

    Args:
        tables: results/MODEL/tables.json.
        form: `csv` or `json`.

    Raises:
        UserError: the file is missing or not of its form.
    """
    written = read_model(tables).tables
    with atomic_dir(out) as folder:
        for name, table in written.items():
            if form == "csv":
                write_text(folder / f"{name}.csv", to_csv(table))
            else:
                write_json(folder / f"{name}.json", to_records(table))
    return [*written]
