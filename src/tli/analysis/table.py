"""A table as data: columns, rows, caption, notes, source, and every number as a reader sees it (all tables).

A number has one key, `NAME/ROW/COLUMN`: NAME is the table, ROW joins the row's identifying cells with commas, COLUMN is
the column's key. tables.json, `verify` and the text of the paper use it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tli.io.errors import UserError
from tli.stats.p_values import BOUND

Kind = Literal[
    "text",
    "count",  # a whole number that every run must reproduce
    "flips",  # a number of items or words that differ between two models
    "cosine",
    "cosine_change",
    "share",  # of words found, in [0, 1]: P@k; also MRR and CSLS accuracy
    "share_change",
    "percent",  # of items
    "points",  # a change of a percentage
    "nats",
    "probability",  # Brier score, calibration error
    "ratio",  # odds ratios, correlations, distance ratios
    "number",
    "magnitude",  # norms and activations
    "t",  # test statistics and standardised effects
    "p",
]
Cell = str | int | float | None
Row = Mapping[str, Cell]
Steps = Callable[["Table", Row, "Column"], "float | None"]

DECIMALS: Mapping[Kind, int] = {  # at most, where the measured drift between processors allows them
    "cosine": 4,
    "cosine_change": 4,
    "share": 3,
    "share_change": 3,
    "percent": 1,
    "points": 1,
    "nats": 4,
    "probability": 3,
    "ratio": 3,
    "t": 2,
}
SIGNED: tuple[Kind, ...] = ("cosine_change", "share_change", "points")
NEAR_ONE = 6  # decimals of a cosine from .999 on
_IN_KEYS = re.compile(r"[ ,/→]+")  # what a cell has no more in a key
LEAST_P = 1e-4  # a smaller p is shown as a bound; tables.json holds it


class Column(NamedTuple):
    """A column.

    Attributes:
        key: its name in tables.json and in the .csv.
        title: its name for readers.
        kind: how its numbers are rounded, and in which unit they drift between processors.
        id: whether the column identifies the row.
    """

    key: str
    title: str
    kind: Kind = "text"
    id: bool = False


@dataclass(frozen=True)
class Table:
    """A table of one model, or of several with a column `model`.

    Attributes:
        name: the module in tli.tables that computes it, and the file's name.
        view: the view at which every similarity of the table is read; empty where a column says it.
        source: the stages whose rows it is computed from.
        text: the rows as a reader sees them.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    view: str = ""
    notes: Sequence[str] = ()
    source: Sequence[str] = ()
    text: Sequence[Sequence[str]] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if not self.view and "view" not in keys:
            raise ValueError(f"table {self.name}: expected a view, or a column `view`")
        if unknown := {key for row in self.rows for key in row} - set(keys):
            raise ValueError(f"table {self.name}: cells without a column: {', '.join(sorted(unknown))}")
        names = [self.row_name(row) for row in self.rows]
        if twice := {name for name in names if names.count(name) > 1} if len(names) < 2000 else set():
            raise ValueError(f"table {self.name}: two rows are named {min(twice)}; identify them by more columns")

    def row_name(self, row: Row) -> str:
        """The identifying cells of a row, joined by commas: `2.mask.nf4,trained`; `-` stands for an empty cell."""
        cells = (row.get(column.key) for column in self.columns if column.id)
        return ",".join("-" if cell in (None, "") else _IN_KEYS.sub("-", str(cell)) for cell in cells)

    def cells(self) -> Iterator[tuple[str, Row, Column]]:
        """Every cell as (key, row, column), but those of identifying columns."""
        for row in self.rows:
            name = self.row_name(row)
            for column in self.columns:
                if not column.id:
                    yield f"{self.name}/{name}/{column.key}", row, column

    def values(self) -> dict[str, Cell]:
        """Key -> value of every cell."""
        return {key: row.get(column.key) for key, row, column in self.cells()}

    @property
    def full_caption(self) -> str:
        """The caption, and the view where it is one for all rows."""
        return f"{self.caption} View: {self.view}." if self.view else self.caption

    @property
    def source_line(self) -> str:
        """The module that computes the table, and the stages that measured its rows."""
        stages = ", ".join(f"`{name}`" for name in self.source)
        noun = "stages" if len(self.source) > 1 else "stage"
        origin = f"rows of the {noun} {stages}" if stages else "other tables"
        return f"Source: `src/tli/tables/{self.name}.py`; {origin}."

    def matching(self, **wanted: Cell) -> list[Row]:
        """The rows with these cells."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def number(self, key: str, **wanted: Cell) -> float | None:
        """A number of the one row with these cells; None where the value is undefined.

        Raises:
            UserError: no row or several, or no such column.
        """
        rows = self.matching(**wanted)
        if len(rows) != 1 or key not in [column.key for column in self.columns]:
            cells = ", ".join(f"{name}={value}" for name, value in wanted.items())
            raise UserError(
                f"table {self.name}: expected one row with {cells} and a column {key}, got {len(rows)} rows; "
                "run `dvc repro`, which writes the tables again"
            )
        value = rows[0].get(key)
        return None if value is None else float(value)


def display(table: Table, steps: Steps) -> list[list[str]]:
    """The rows of a table as a reader sees them, with a minus sign for a hyphen."""
    lines = []
    for row in table.rows:
        line = []
        for column in table.columns:
            value = row.get(column.key)
            step = steps(table, row, column) if isinstance(value, float) else None
            text = shown(value, column.kind, step)
            line.append(f"−{text[1:]}" if is_negative(text, column.kind) else text)
        lines.append(line)
    return lines


def is_negative(text: str, kind: Kind) -> bool:
    """Whether a cell is a negative number."""
    return kind != "text" and len(text) > 1 and text.startswith("-")


def shown(value: Cell, kind: Kind, step: float | None = None) -> str:
    """A value as a reader sees it; `-` for an undefined one.

    Decimals are those of the kind, fewer where the value may move by `step` between processors: the last decimal is
    not finer than `step`. Cosines from .999 on have up to 6. `number` and `magnitude` have 4 significant digits, or
    fewer by the same rule, but at least 2, and those before the decimal point. A p below 1e-4 is shown as `<1e-4`.

    Args:
        step: twice the largest drift seen between processors, in the unit of the value; None: none is known.
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError(f"a table's value must be finite, got {value}")
    if kind == "p":
        return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}" if value >= LEAST_P else "<1e-4"
    if kind in ("count", "flips") or isinstance(value, int):
        return f"{value:,.0f}".replace("-0", "0") if abs(value) < 0.5 else f"{value:,.0f}"
    steady = math.inf if not step else -math.ceil(math.log10(step) - 1e-9)
    if kind in DECIMALS:
        near_one = kind == "cosine" and 0.999 <= abs(value) < 1
        decimals = int(max(0, min(NEAR_ONE if near_one else DECIMALS[kind], steady)))
        text = f"{value:.{decimals}f}"
    else:
        size = math.floor(math.log10(abs(value))) if value else 0
        digits = int(max(2, min(size + 1, 4), min(4, steady + size + 1)))
        text = f"{value:.{digits}g}"
    number = float(text)
    if not number:
        return text.removeprefix("-")
    return f"+{text}" if kind in SIGNED and number > 0 else text


def exact_p(p: float) -> str:
    """A p with three significant digits, for published values and their check; `≤1e-300` where it was clipped."""
    return "≤1e-300" if p < BOUND else f"{p:.2e}" if p < LEAST_P else f"{p:.4f}"


def to_json(table: Table) -> dict[str, Any]:
    """The table as JSON: rows as lists in the columns' order."""
    return {
        "name": table.name,
        "title": table.title,
        "caption": table.caption,
        "view": table.view,
        "columns": [column._asdict() for column in table.columns],
        "rows": [[row.get(column.key) for column in table.columns] for row in table.rows],
        "text": table.text,
        "notes": table.notes,
        "source": table.source,
    }


def from_json(written: Mapping[str, Any]) -> Table:
    """A table of tables.json."""
    columns = [Column(**column) for column in written["columns"]]
    rows = [
        {column.key: value for column, value in zip(columns, row, strict=True) if value is not None}
        for row in written["rows"]
    ]
    rest = {key: written[key] for key in ("name", "title", "caption", "view", "notes", "source", "text")}
    return Table(columns=columns, rows=rows, **rest)
