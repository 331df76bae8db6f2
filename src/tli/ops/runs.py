"""Whole runs in several checkouts, side by side: under which conditions each was made, its files, its tables' cells.

Feeds docs/reproducibility.md (tli.ops.drift). What a run is compared in comes from its own folder: params.yaml, the
receipts beside its outputs, results/ and paper/. Of an output that lies in git a receipt says that the run made it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tli import params as parameters
from tli import store
from tli.paper.rows import Measured, flat
from tli.params import Params


class Kind(NamedTuple):
    """Files of one kind: patterns from a checkout's root, `P` for the profile, less some names; and the output whose
    receipt says that the run made them, where a checkout holds them before.

    Files of the full grid, tables and figures of another profile, times and receipts are of no kind.
    """

    name: str
    patterns: tuple[str, ...]
    less: tuple[str, ...] = ()
    made: str = ""


KINDS = (
    Kind("program of the stages", ("src/tli/data/*.py", "src/tli/model/*.py", "src/tli/study/*.py",
                                   "src/tli/paper/*.py")),
    Kind("word lists, corpus, items", ("data/*.tsv", "data/world/*", "build/P/pairs.tsv", "build/P/words.txt",
                                       "build/P/world/*", "build/P/benchmarks/items.jsonl")),
    Kind("base model", ("build/P/base/*",)),
    Kind("4-bit weights", ("build/P/quantized/**/*",)),
    Kind("adapters", ("build/P/adapter/*", "build/P/sweep/adapters/**/*")),
    Kind("rows", ("build/P/*.tsv", "build/P/benchmarks/*.tsv", "build/P/sweep/rows/**/*", "build/P/sweep/train/**/*"),
         ("pairs.tsv",)),
    Kind("measured values", ("results/P/measured.json", "results/P/headline.json")),
    Kind("tables", ("paper/tables/P/*",)),
    Kind("figures", ("paper/figures/P/*",)),
    Kind("PDF", ("paper/artifact.pdf",), made="paper/artifact.pdf"),
    Kind("report", ("paper/report.html",), made="paper/report.html"),
)  # fmt: skip


class Table(NamedTuple):
    """One CSV file of a run; cells are text, as it stands there."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def cell(self, row: int, column: str) -> str | None:
        """A cell; None where the table has none there."""
        if row >= len(self.rows) or column not in self.header:
            return None
        return self.rows[row][self.header.index(column)]

    @property
    def width(self) -> int:
        """How many leading cells tell every row from the others; 0 where even all do not."""
        for width in range(1, len(self.header) + 1):
            if len({row[:width] for row in self.rows}) == len(self.rows):
                return width
        return 0

    def labels(self) -> list[str]:
        """A name for each row: those cells, or its number."""
        width = self.width
        return [" · ".join(row[:width]) if width else f"row {number}" for number, row in enumerate(self.rows, start=1)]


class Run(NamedTuple):
    """What a checkout holds after `dvc repro tables` or more."""

    name: str
    folder: Path
    params: Params
    measured: Measured
    tables: Mapping[str, Table]


def load(name: str, folder: Path) -> Run:
    """The run in the checkout `folder`.

    Raises:
        UserError: a file is not there or not of its form, or the tables are not this run's.
    """
    params = parameters.load(folder / "params.yaml")
    profile = params.model
    tables = folder / "paper" / "tables" / profile
    if not store.receipt_of(tables).is_file():
        raise store.UserError(f"{folder}: expected a whole run, got no {store.receipt_of(tables)}; run `dvc repro`")
    found = {path.stem: read_table(path) for path in sorted(tables.glob("*.csv"))}
    measured = store.read_json(folder / "results" / profile / "measured.json", "values by key")
    return Run(name, folder, params, measured, found)


def read_table(path: Path) -> Table:
    """A CSV file with a header. Raises UserError where its rows are not as long as that."""
    header, *rows = [*csv.reader(io.StringIO(store.read_text(path)))] or [[]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise store.UserError(f"{path}:{number}: expected {len(header)} cells, got {len(row)}; run `dvc repro`")
    return Table(tuple(header), tuple(map(tuple, rows)))


def comparable(reference: Run, run: Run, but: tuple[str, ...] = ()) -> None:
    """Raises UserError unless both have the same parameters, `compute` and those named `but` aside, and word pairs.

    And unless the reference has every cell that the run has: a cell that only the run has would not be seen.
    """
    here, there = settings(reference), settings(run)
    for key in here | there:
        if here.get(key) != there.get(key) and key not in but:
            asked = "compute" + "".join(f" and {name}" for name in but)
            raise store.UserError(
                f"{run.folder}: {key}: expected {store.brief(here.get(key))} as in {reference.folder}, got "
                f"{store.brief(there.get(key))}; compare runs that differ in {asked} alone"
            )
    for name, table in run.tables.items():
        own = reference.tables.get(name, Table((), ()))
        if {*table.header} - {*own.header} or len(table.rows) > len(own.rows):
            raise store.UserError(
                f"{run.folder}: table {name}: expected no cell that {reference.folder} lacks, got {len(table.rows)} "
                f"rows of {' '.join(table.header)[:80]}; compare runs of one version of the program"
            )


def settings(run: Run) -> Measured:
    """What a run's numbers may depend on, flat: its parameters without `compute` and other profiles, its word pairs."""
    shared = run.params.model_dump(mode="json", exclude={"profiles", "cluster", "fetch"})
    own = run.params.active.model_dump(mode="json", exclude={"compute"})
    return flat(shared | own) | {"inputs.pairs": run.measured.get("inputs.pairs")}


def names(several: Iterable[Run]) -> list[str]:
    return [run.name for run in several]


def conditions(run: Run) -> dict[str, str]:
    """What the run's receipts say of where and how it was made; several values where its stages differ."""
    found: dict[str, dict[str, None]] = {}
    for receipt in _receipts(run):
        packages = receipt.get("packages", {})
        for key, value in {
            "threads": receipt.get("threads"),
            "instruction set of torch": receipt.get("cpu_capability"),
            "processors": receipt.get("processors"),
            "machine": receipt.get("machine"),
            "Python": receipt.get("python"),
            **{name: packages.get(name) for name in ("torch", "bitsandbytes", "transformers", "peft", "numpy")},
            "commit": str(receipt.get("revision", "unknown")).removesuffix("+")[:12],
        }.items():
            if value is not None:
                found.setdefault(key, {})[str(value)] = None
    return {key: ", ".join(values) for key, values in found.items()}


def _receipts(run: Run) -> Iterator[dict[str, Any]]:
    """The run's receipts, the full grid's left out, by path."""
    build = run.folder / "build" / run.params.model
    for path in sorted(build.rglob("*.receipt.json")):
        if path.relative_to(build).parts[0] != "full":
            yield store.read_json(path, "a receipt")


def files(run: Run) -> dict[str, dict[str, str]]:
    """Kind -> path from the root -> SHA-256; an empty kind is one that the run did not make."""
    found: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        paths: set[Path] = set()
        if not kind.made or store.receipt_of(run.folder / kind.made).is_file():
            for pattern in kind.patterns:
                paths |= {*run.folder.glob(pattern.replace("/P/", f"/{run.params.model}/"))}
        kept = (path for path in paths if path.is_file() and path.name not in kind.less)
        named = {path.relative_to(run.folder).as_posix(): path for path in kept if ".receipt." not in path.name}
        found[kind.name] = {name: store.sha256(path) for name, path in sorted(named.items())}
    return found


def number(cell: object) -> float | None:
    """A cell or value as a number; None where it is a word, `-` or nothing."""
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
