"""Runs held against a reference: the drift of every cell and value, their SD over base seeds, what `verify` says.

Feeds docs/reproducibility.md (tli.ops.drift).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tli import store
from tli.ops import runs
from tli.ops.runs import Run
from tli.paper import expected, stats
from tli.paper.rows import Value

SEED = "model.seed"
VERDICT = "verdict"  # the column of conclusions, in whichever table
MISSING = "missing"
NUMBER = r"(?<![\w.])[-+−]?\d[\d.,]*(?:e[-+]?\d+)?"  # in a sentence or a reason; not the 2 of AVX2

Drift = float | str  # a difference of numbers, or what stands in the place of equal words


class Cell(NamedTuple):
    """A place in the reference's tables."""

    table: str
    row: int
    column: str


class Compared:
    """The reference, runs that should give the same, and runs with another seed of the base model.

    Args:
        reference: the checkout of the run that others are held against.
        others: name and checkout of runs with the same parameters; threads and the like (`compute`) may differ.
        seeds: checkouts of runs that differ in the seed of the base model too.
        known: paper/expected.yaml.

    Raises:
        UserError: a folder holds no whole run, or one of other parameters; a name or a seed comes twice.
    """

    def __init__(self, reference: Path, others: Sequence[tuple[str, Path]], seeds: Sequence[Path], known: Path) -> None:
        self.first = runs.load("reference", reference)
        self.same = [runs.load(name, folder) for name, folder in others]
        bases = [runs.load("", folder) for folder in seeds]
        self.bases = [run._replace(name=f"base seed {runs.settings(run).get(SEED)}") for run in bases]
        self.others = [*self.same, *self.bases]
        for run in self.others:
            runs.comparable(self.first, run, but=() if run in self.same else (SEED,))
        numbers = [runs.settings(run).get(SEED) for run in (self.first, *self.bases)]
        if len(set(numbers)) < len(numbers):
            raise store.UserError(f"--base-seed: expected another {SEED} in each run, got {numbers}; leave one out")
        names = Counter(run.name for run in (self.first, *self.others))
        if twice := [name for name, count in names.items() if count > 1]:
            raise store.UserError(f"--run: expected each name once, got {twice[0]!r} twice; name them apart")
        section = expected.load(known, self.first.params)
        self.checks = {
            run.name: expected.judge(run.measured, section, self.first.params) for run in (self.first, *self.others)
        }

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell of the reference's tables."""
        return [
            Cell(name, row, column)
            for name, table in self.first.tables.items()
            for row in range(len(table.rows))
            for column in table.header
        ]

    @cached_property
    def numbers(self) -> set[Cell]:
        """Those that hold a number."""
        return {cell for cell in self.cells if runs.number(self.text(cell, self.first)) is not None}

    @cached_property
    def drifts(self) -> dict[str, dict[Cell, Drift]]:
        """Run -> cell -> its value there minus the reference's."""
        texts = {cell: self.text(cell, self.first) for cell in self.cells}
        return {run.name: {cell: _minus(self.text(cell, run), texts[cell]) for cell in texts} for run in self.others}

    @cached_property
    def spreads(self) -> dict[Cell, float]:
        """Cell -> SD over base seeds, where the reference and every such run have a number."""
        found = {}
        for cell in self.cells:
            values = [self.drifts[run.name][cell] for run in self.bases]  # an SD does not heed what all have in common
            numbers = [value for value in values if isinstance(value, float)]
            sd = stats.spread([0.0, *numbers]).sd if len(numbers) == len(values) else None
            if cell in self.numbers and sd is not None:
                found[cell] = sd
        return found

    def text(self, cell: Cell, run: Run) -> str | None:
        """What stands there; None where the run has no such cell."""
        table = run.tables.get(cell.table)
        return table.cell(cell.row, cell.column) if table else None

    def in_sds(self, run: Run) -> list[float]:
        """|drift| / SD over base seeds of every cell that has both and an SD above 0."""
        own = self.drifts[run.name]
        found = ((own[cell], sd) for cell, sd in self.spreads.items() if sd)
        return [abs(drift) / sd for drift, sd in found if isinstance(drift, float)]

    def value_drift(self, key: str, run: Run) -> Drift:
        """The same of a value of measured.json."""
        return _minus(run.measured.get(key, MISSING), self.first.measured.get(key, MISSING))

    def value_spread(self, key: str) -> float | None:
        """SD of a value over base seeds; None where a run has no number there."""
        found = [runs.number(run.measured.get(key)) for run in (self.first, *self.bases)]
        numbers = [value for value in found if value is not None]
        return stats.spread(numbers).sd if len(numbers) == len(found) else None


def _minus(there: Value, here: Value) -> Drift:
    if here == there:
        return 0.0
    numbers = runs.number(there), runs.number(here)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] - numbers[1]
    return MISSING if there is None else str(there)


def rms(values: Sequence[float]) -> float | None:
    """sqrt(mean x^2); None of no values."""
    return float(np.sqrt(np.mean(np.square(values)))) if values else None


def masked(text: str) -> str:
    """A sentence with its figures left out."""
    return re.sub(NUMBER, "…", text)
