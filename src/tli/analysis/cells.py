"""Cells of tables by their key, and what one word or item is worth in a cell: what tolerances are computed from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tli.analysis.results import Measured, Results
from tli.analysis.scores import TASKS
from tli.analysis.table import Cell, Column, Row, Table
from tli.analysis.views import PAIR_SETS, trained_view
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.structured import brief


class Counts(NamedTuple):
    """How many words and items there are, so that a score can be counted in them.

    Attributes:
        pairs: set -> word pairs: trained, control.
        items: (set, split) -> items: (xcopa.sw, test).
    """

    pairs: Mapping[str, Cell]
    items: Mapping[tuple[str, str], Cell]

    @classmethod
    def of_results(cls, results: Results, params: Params) -> Counts:
        """Counted in the rows of the base model and in the metrics of the stage `benchmarks`."""
        similarity, view = results.of("similarity"), trained_view(params)
        pairs: dict[str, Cell] = {set_: len(similarity.each("base", set_, view, "cosine")) for set_ in PAIR_SETS}
        items: dict[tuple[str, str], Cell] = {}
        for key, number in results.metrics["benchmarks"].items():
            set_split, _, name = key.rpartition(".")
            if name == "items":
                set_, _, split = set_split.rpartition(".")
                items[set_, split] = number
        return cls(pairs, items)

    @classmethod
    def of_tables(cls, tables: Mapping[str, Table]) -> Counts:
        """Read in the tables `setup` and `items`."""
        setup, items = ([*tables[name].rows] if name in tables else [] for name in ("setup", "items"))
        here = {row.get("setting"): row.get("here") for row in setup}
        return cls(
            {set_: here.get(f"pairs.{set_}") for set_ in PAIR_SETS},
            {(str(row.get("set")), str(row.get("split"))): row.get("items") for row in items},
        )

    def worth(self, table: Table, row: Row, column: Column, params: Params) -> float:
        """What one word or item is worth in a cell: 1 of a count, 1 / n of a share, 100 / n points of an accuracy.

        n is the row's `n`, the number of pairs or items of its set, or the number of items of the smallest set of its
        task.

        Raises:
            UserError: the run does not say how many there are.
        """
        if column.kind == "flips":
            return 1.0
        set_ = str(row.get("set") or row.get("key") or row.get("task") or "")
        of_items = re.split(r"[.-]", set_)[0] in TASKS
        if row.get("n") and not column.key.startswith("chosen"):  # an answer is chosen among all items of the set
            n = _count(row["n"], f"{table.name}/{table.row_name(row)}/n")
        elif of_items:
            n = self._items(set_, params)
        else:
            n = params.tsne.pairs if table.name == "projection" else self._pairs(set_)
        in_percent = of_items and column.kind not in ("share", "share_change", "probability")
        return (100 if in_percent else 1) / n

    def _pairs(self, set_: str) -> int:
        sets = (set_,) if set_ in PAIR_SETS else PAIR_SETS
        return sum(_count(self.pairs.get(name), f"setup/pairs.{name}/here") for name in sets)

    def _items(self, set_: str, params: Params) -> int:
        """The number of scored items of a set, or of the smallest set of a task."""
        released = set_.replace("-corrected", "")
        splits = ("validation", "dev", "test") if params.score.split == "validation" else ("test", "validation", "dev")
        for split in splits:
            numbers = [
                _count(number, f"items/{name},{split}/items")
                for (name, of_split), number in self.items.items()
                if of_split == split and f"{name}.".startswith(f"{released}.")
            ]
            if numbers:
                return min(numbers)
        return _count(None, f"items/{released},{splits[0]}/items")


def _count(number: Cell, key: str) -> int:
    if not isinstance(number, int | float) or number < 1:
        raise UserError(f"tolerances: expected a count under {key}, got {brief(number)}; run `dvc repro`")
    return int(number)


class TableCell(NamedTuple):
    """A cell with its table, row and column, which decide its tolerance."""

    table: Table
    row: Row
    column: Column

    @property
    def key(self) -> str:
        return f"{self.table.name}/{self.table.row_name(self.row)}/{self.column.key}"

    @property
    def value(self) -> Cell:
        return self.row.get(self.column.key)


class Cells:
    """Every cell of a model's tables by key, and how many words and items their scores are means of."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.by_key = {
            key: TableCell(table, row, column) for table in tables.values() for key, row, column in table.cells()
        }
        self.counts = Counts.of_tables(tables)

    @property
    def values(self) -> Measured:
        """Key -> value."""
        return {key: cell.value for key, cell in self.by_key.items()}
