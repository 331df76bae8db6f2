"""Row files as look-ups: what every table reads, and one clear line where a row is missing (all tables)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.io.structured import read_yaml

Value = float | int | str | None
Measured = dict[str, Value]  # flat key -> value; None where a statistic is undefined


class Rows:
    """Rows by (cell, set, view, measure), each a mapping from item to value in the file's order.

    Those of one file, or of several that no cell of the other is in; messages name the first.
    """

    def __init__(self, path: Path, *more: Path) -> None:
        self.path = path
        self._groups: dict[tuple[str, str, str, str], dict[str, float | str]] = {}
        for file in (path, *more):
            self._add(file)

    def _add(self, path: Path) -> None:
        frame = read_rows(path)
        columns = (frame[column].tolist() for column in ("cell", "set", "view", "measure", "item", "value"))
        for cell, set_, view, measure, item, value in zip(*columns, strict=True):
            items = self._groups.setdefault((cell, set_, view, measure), {})
            if item in items:
                raise UserError(
                    f"{path}: expected one row for {cell} {set_} {item} {view} {measure}, got two; "
                    "remove the file and run `dvc repro`"
                )
            items[item] = value

    @property
    def cells(self) -> list[str]:
        """The cells, in the file's order."""
        return list(dict.fromkeys(key[0] for key in self._groups))

    def sets(self, measure: str) -> list[str]:
        """The sets that hold `measure`, in the file's order."""
        return list(dict.fromkeys(key[1] for key in self._groups if key[3] == measure))

    def views(self, cell: str, set_: str, measure: str) -> list[str]:
        """The views at which a cell's set holds `measure`, in the file's order."""
        return [key[2] for key in self._groups if (key[0], key[1], key[3]) == (cell, set_, measure)]

    def has(self, cell: str, set_: str, view: str, measure: str) -> bool:
        return (cell, set_, view, measure) in self._groups

    def each(self, cell: str, set_: str, view: str, measure: str) -> dict[str, float]:
        """Item -> value. Raises UserError where the file has no such rows."""
        if not self.has(cell, set_, view, measure):
            raise UserError(
                f"{self.path}: expected rows of cell {cell}, set {set_}, view {view}, measure {measure}, found none; "
                "run `dvc repro`, which measures them"
            )
        return {item: float(value) for item, value in self._groups[cell, set_, view, measure].items()}

    def one(self, cell: str, set_: str, view: str, measure: str, item: str = "-") -> float:
        """One value. Raises UserError where the file has no such row."""
        found = self.each(cell, set_, view, measure)
        if item not in found:
            raise UserError(
                f"{self.path}: expected item {item} of {cell} {set_} {view} {measure}, got {', '.join([*found][:3])}; "
                "run `dvc repro`"
            )
        return found[item]

    def text(self, cell: str, set_: str, item: str, measure: str) -> str:
        """A value as text, view `-`; `-` where there is none."""
        return str(self._groups.get((cell, set_, "-", measure), {}).get(item, "-"))

    def matched(
        self, cells: tuple[str, str], set_: str, view: str, measure: str, other: Rows | None = None
    ) -> tuple[list[float], list[float]]:
        """The values of two cells on the same items, in one order; the second cell may stand in another file.

        Raises UserError where the items differ: a paired test on unequal items would be wrong.
        """
        first = self.each(cells[0], set_, view, measure)
        second = (other or self).each(cells[1], set_, view, measure)
        if first.keys() != second.keys():
            odd = sorted(first.keys() ^ second.keys())
            raise UserError(
                f"{(other or self).path}: expected the items of {cells[0]} in {set_} for {cells[1]}, {len(odd)} differ "
                f"({odd[0]} first); run `dvc repro`, which measures both on one list"
            )
        return list(first.values()), [second[item] for item in first]


class Sweep(NamedTuple):
    """The rows of every rank of params.sweep: rank -> file."""

    align: Mapping[int, Rows]
    transfer: Mapping[int, Rows]
    train: Mapping[int, Rows]


def cell(rank: int, seed: int) -> str:
    """The name of a sweep cell."""
    return f"r{rank}-s{seed}"


def read_sweep(folder: Path, params: Params) -> Sweep:
    """Reads folder/rows/rR/{align,transfer}.tsv and folder/train/rR.tsv for the ranks of params.sweep and no others.

    Raises UserError for the first missing file, or for the first cell rank x seed that a file lacks; without benchmarks
    the files of transfer have none.
    """
    scored = params.active.benchmarks.source != "none"

    def read(path: Path, rank: int, filled: bool = True) -> Rows:
        if not path.is_file():
            raise UserError(f"{path}: no rows of rank {rank}, which sweep.ranks lists; run `dvc repro`")
        rows = Rows(path)
        for seed in params.sweep.seeds if filled else ():
            if cell(rank, seed) not in rows.cells:
                raise UserError(
                    f"{path}: no rows of {cell(rank, seed)}, though sweep.seeds lists {seed}; run `dvc repro`"
                )
        return rows

    ranks = params.sweep.ranks
    return Sweep(
        align={rank: read(folder / "rows" / f"r{rank}" / "similarity.tsv", rank) for rank in ranks},
        transfer={rank: read(folder / "rows" / f"r{rank}" / "score.tsv", rank, scored) for rank in ranks},
        train={rank: read(folder / "train" / f"r{rank}.tsv", rank) for rank in ranks},
    )


def flat(value: object, prefix: str = "") -> Measured:
    """A nested mapping as dotted keys; a list of plain values becomes one text, one of mappings (a log) is left out."""
    if isinstance(value, Mapping):
        found: Measured = {}
        for key, item in value.items():
            found |= flat(item, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(value, list | tuple):
        if any(isinstance(item, Mapping) for item in value):
            return {}
        return {prefix: ", ".join(str(item) for item in value)}
    if isinstance(value, bool):
        return {prefix: str(value).lower()}
    return {prefix: value if value is None or isinstance(value, int | float) else str(value)}


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of the project's own that holds a mapping; UserError where it does not."""
    loaded = read_yaml(path, trusted=True)
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected a mapping, got {type(loaded).__name__}; restore the file from git")
    return loaded
