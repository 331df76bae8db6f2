"""paper/tolerances.yaml: how far a value may lie from the recorded one on another processor (stages: tables, verify).

Every cell of tables.json belongs to one measure, which gives the unit of its drift and a floor: by the kind of its
column, or by a pattern of its key where the kind of the column does not decide. A kind of value is a measure before or
after training, at early layers (up to the one after `train.layer`) or deep ones:

    tolerance = max(2 x largest drift seen, floor) x unit of the value

where drift is |value of a run - value of the reference run| / unit. tools/record writes the drifts. Twice the largest
drift also decides how many decimals of a value are printed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

from tli.analysis.cells import Counts, TableCell
from tli.analysis.results import Results, load_yaml
from tli.analysis.table import Column, Kind, Row, Steps, Table
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.structured import brief

EXACT, SHOWN = "exact", "shown"
UNITS = (EXACT, SHOWN, "absolute", "relative", "statistic", "items")
MOMENT = re.compile(r"(.*_)?before(_.*)?|start")  # columns of the base model

Drifts = dict[str, dict[str, dict[str, float]]]  # kind -> model -> run -> largest drift


class Measure(NamedTuple):
    """Cells that drift alike.

    Attributes:
        columns: the kinds of their columns.
        keys: patterns of the whole keys of further cells; they decide before the kind of the column does.
        unit: the unit of their drift.
        floor: the smallest tolerance, in that unit.
    """

    name: str
    columns: tuple[str, ...]
    keys: tuple[re.Pattern[str], ...]
    unit: str
    floor: float


class Tolerances:
    """The measures and the drifts of one tolerances.yaml."""

    def __init__(self, measures: Mapping[str, Measure], drifts: Drifts) -> None:
        self.measures = dict(measures)
        self.drifts = drifts
        self._by_column = {kind: measure for measure in self.measures.values() for kind in measure.columns}

    def measure(self, cell: TableCell) -> Measure:
        """The measure of a cell.

        Raises:
            UserError: the patterns of several measures match.
        """
        key = cell.key
        matches = [m for m in self.measures.values() if any(pattern.fullmatch(key) for pattern in m.keys)]
        if len(matches) > 1:
            names = ", ".join(measure.name for measure in matches)
            raise UserError(
                f"paper/tolerances.yaml: measures: expected one measure for the key {key}, got {names}; "
                "correct the patterns"
            )
        return matches[0] if matches else self._by_column[cell.column.kind]

    def kind(self, cell: TableCell, params: Params) -> str:
        """The kind of a cell: `cosines, after training, deep`; of exact and shown values the measure alone."""
        return kind_of(self.measure(cell), cell, params)

    def largest_drift(self, kind: str, model: str = "") -> float:
        """The largest drift recorded of a kind, in its unit; 0 where none is recorded.

        Args:
            model: only this model's, where one is recorded.
        """
        by_model = self.drifts.get(kind, {})
        chosen = [by_model[model]] if model in by_model else by_model.values()
        return max((drift for by_run in chosen for drift in by_run.values()), default=0.0)

    def drift_limit(self, kind: str) -> float:
        """max(2 x largest drift, floor) of a kind, in its unit."""
        return max(self.measures[kind.partition(",")[0]].floor, 2 * self.largest_drift(kind))

    def tolerance(self, cell: TableCell, counts: Counts, params: Params) -> float | None:
        """How far from a recorded cell another run may lie; 0 where it must be equal, None where it is not judged.

        Args:
            counts: how many items a score of the recorded run is a mean of.
        """
        measure, value = self.measure(cell), cell.value
        if measure.unit == SHOWN:
            return None
        if measure.unit == EXACT or isinstance(value, str) or value is None:
            return 0.0
        return self.drift_limit(kind_of(measure, cell, params)) * size(cell, measure, counts, params)

    def steps(self, results: Results, params: Params) -> Steps:
        """A function of a table's cell: twice the largest drift of its kind, in the unit of the value.

        It decides the printed decimals. The drift is the model's own where one is recorded, else that of any model. It
        is None where no drift is recorded, or where the value cannot drift. A value that is shown but not judged has
        the drift of the other values in columns of its kind.
        """
        counts = Counts.of_results(results, params)

        def step(table: Table, row: Row, column: Column) -> float | None:
            cell = TableCell(table, row, column)
            measure = self.measure(cell)
            if measure.unit == SHOWN:
                measure = self._by_column[column.kind]
            if measure.unit in (EXACT, SHOWN) or not isinstance(cell.value, int | float):
                return None
            drift = self.largest_drift(kind_of(measure, cell, params), params.model)
            return 2 * drift * size(cell, measure, counts, params) if drift else None

        return step

    def without(self, run: str) -> Tolerances:
        """The same without the drifts of one run."""
        drifts = {
            kind: {
                model: {name: drift for name, drift in by_run.items() if name != run}
                for model, by_run in by_model.items()
            }
            for kind, by_model in self.drifts.items()
        }
        return Tolerances(self.measures, drifts)


def load(path: Path) -> Tolerances:
    """Reads tolerances.yaml.

    Raises:
        UserError: a pattern or a unit that does not exist, a kind of column that not exactly one measure lists, or a
            drift of a measure that the file does not have.
    """
    raw = load_yaml(path)
    measures = {}
    for name, entry in (raw.get("measures") or {}).items():
        unit, floor, columns = entry.get("unit"), entry.get("floor", 0), entry.get("columns") or []
        if unit not in UNITS or not isinstance(floor, int | float):
            raise UserError(
                f"{path}: measures.{name}: expected a unit of {', '.join(UNITS)} and a number as floor, "
                f"got {brief(unit)} and {brief(floor)}; correct the entry"
            )
        try:
            keys = [re.compile(str(pattern)) for pattern in entry.get("keys") or []]
        except re.error as error:
            raise UserError(f"{path}: measures.{name}.keys: no regular expression: {error}; correct it") from None
        measures[name] = Measure(name, tuple(columns), tuple(keys), unit, float(floor))
    listed, kinds = Counter(kind for measure in measures.values() for kind in measure.columns), get_args(Kind)
    for kind in [*kinds, *listed]:
        if kind not in kinds or listed[kind] != 1:
            raise UserError(
                f"{path}: measures: expected each kind of column ({', '.join(kinds)}) in the `columns` of one measure, "
                f"got {kind} in {listed[kind]}; correct the columns"
            )
    drifts: Drifts = {kind: entry.get("drift") or {} for kind, entry in (raw.get("kinds") or {}).items()}
    for kind in drifts:
        if kind.partition(",")[0] not in measures:
            raise UserError(f"{path}: kinds.{kind}: expected a kind of the measures above; run tools/record")
    return Tolerances(measures, drifts)


def kind_of(measure: Measure, cell: TableCell, params: Params) -> str:
    if measure.unit in (EXACT, SHOWN):
        return measure.name
    return f"{measure.name}, {moment(cell)} training, {depth(cell, params)}"


def moment(cell: TableCell) -> str:
    """Whether a value is of the base model (`before` training) or depends on an adapter (`after`)."""
    name, row, key = cell.table.name, cell.row, cell.column.key
    of_base = name == "scan" or row.get("run") == "base" or row.get("rank") == 0
    return "before" if of_base or (name == "baselines" and key != "main") or MOMENT.fullmatch(key) else "after"


def depth(cell: TableCell, params: Params) -> str:
    """`early` up to the layer after the one that the loss reads; `deep` beyond, and for what every block changes.

    Losses (in the setup table) and weights of the adapter are early: only blocks up to `train.layer` decide them.
    """
    if cell.table.name in ("setup", "adapter"):
        return "early"
    layer = str(cell.row.get("view", cell.table.view)).partition(".")[0]
    return "early" if layer.isdigit() and int(layer) <= params.train.layer + 1 else "deep"


def size(cell: TableCell, measure: Measure, counts: Counts, params: Params) -> float:
    """What a drift of 1 is in the value of a cell.

    absolute: 1. relative: |value|. statistic: |value|, at least 1: a t near 0 moves as far as one of 1. items: what one
    item of the value's set is worth.
    """
    if measure.unit == "items":
        return counts.worth(cell.table, cell.row, cell.column, params)
    if measure.unit in ("relative", "statistic"):
        return max(abs(float(cell.value or 0)), 1.0 if measure.unit == "statistic" else 1e-12)
    return 1.0
