"""Tables with other values in some cells: a run that differs from another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tli.analysis.table import Cell, Table


def with_cells(tables: Mapping[str, Table], changes: Mapping[str, Cell]) -> dict[str, Table]:
    """The tables with the values of `changes`, by key; without those that become None.

    Raises:
        KeyError: a key that the tables do not have.
    """
    left, changed = dict(changes), {}
    for name, table in tables.items():
        rows = []
        for row in table.rows:
            start, new = f"{name}/{table.row_name(row)}/", dict(row)
            for column in table.columns:
                if start + column.key in left:
                    new[column.key] = left.pop(start + column.key)
            rows.append({key: value for key, value in new.items() if value is not None})
        changed[name] = replace(table, rows=rows)
    if left:
        raise KeyError(next(iter(left)))
    return changed
