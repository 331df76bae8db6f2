"""The parts of docs/reproducibility.md that go cell by cell: conclusions that change, and every table's drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tli import store
from tli.ops import pages, runs
from tli.ops.compared import VERDICT, Cell, Compared, Drift, masked, rms
from tli.ops.runs import Run


def conclusions(found: Compared) -> Iterator[str]:
    """Verdicts, other words and sentences that are not the same in every run."""
    words = [cell for cell in found.cells if cell not in found.numbers]
    verdicts = [cell for cell in words if cell.column == VERDICT]
    yield f"The tables' {len(verdicts)} verdicts: those that change in any run; `=`: as in the reference."
    yield ""
    changed = [*_words(found, verdicts, found.others)]
    yield from changed or ["None changes."]
    rest = [cell for cell in words if cell.column != VERDICT]
    yield from pages.details("Other words that change, figures in them aside", [*_words(found, rest, found.same)])
    yield from pages.details("Sentences under the tables that change, figures in them aside", [*_sentences(found)])


def _words(found: Compared, cells: Sequence[Cell], others: Sequence[Run]) -> Iterator[str]:
    lines = []
    for cell in cells:
        own = found.text(cell, found.first) or ""
        drifts = [found.drifts[run.name][cell] for run in others]
        if any(masked(str(drift)) != masked(own) for drift in drifts if drift != 0):
            where = f"{cell.table}, {pages.cut(found.first.tables[cell.table].labels()[cell.row])}: {cell.column}"
            lines.append(pages.row(where, own, *("=" if drift == 0 else pages.text(drift) for drift in drifts)))
    if lines:
        yield from (*pages.head("cell", ["reference", *runs.names(others)], ":--"), *lines)


def _sentences(found: Compared) -> Iterator[str]:
    """The notes under the tables that only one of reference and run has."""
    for name in found.first.tables:
        own = _notes(found.first, name)
        for run in found.same:
            other = _notes(run, name)
            if own.keys() != other.keys():
                yield f"- {name}"
                yield from (f"  - reference: {own[key]}" for key in own if key not in other)
                yield from (f"  - {run.name}: {other[key]}" for key in other if key not in own)


def _notes(run: Run, name: str) -> dict[str, str]:
    path = run.folder / "paper" / "tables" / run.params.model / f"{name}.md"
    lines = store.read_text(path).splitlines() if path.is_file() else []
    return {masked(line): line[2:] for line in lines if line.startswith("- ")}


def every_table(found: Compared) -> Iterator[str]:
    """A block a table, to unfold: its columns' largest drifts and SDs, then every cell's."""
    yield (
        "Unfold a table. Above: each column's largest drift in each run, and its SD over base seeds (root mean "
        "square). Below: each cell's largest drift over the runs, in its own unit. 0: the same digits; ≠: no number in "
        "one of them."
    )
    for name, table in found.first.tables.items():
        rows = range(len(table.rows))
        places = {column: [Cell(name, row, column) for row in rows] for column in table.header[table.width :]}
        columns = {column: cells for column, cells in places.items() if not found.numbers.isdisjoint(cells)}
        lines = [*pages.head("", [*columns])]
        for run in found.same:
            own = found.drifts[run.name]
            shown = [largest([own[cell] for cell in cells]) for cells in columns.values()]
            lines.append(pages.row(f"**{run.name}**", *shown))
        if found.bases:
            spreads = [[found.spreads[cell] for cell in cells if cell in found.spreads] for cells in columns.values()]
            lines.append(pages.row("**SD**", *(pages.brief(rms(own)) for own in spreads)))
        for row, label in enumerate(table.labels()):
            lines.append(pages.row(pages.cut(label), *(_over_runs(cells[row], found) for cells in columns.values())))
        equal = (f"{_equal(found, run, name)} in {run.name}" for run in found.same)
        count = len(table.rows) * len(table.header)
        yield from pages.details(f"{name}: {count} cells, as in the reference {'; '.join(equal)}", lines)


def _over_runs(cell: Cell, found: Compared) -> str:
    drifts = [found.drifts[run.name][cell] for run in found.same]
    return largest(drifts) if cell in found.numbers or any(drifts) else ""


def _equal(found: Compared, run: Run, table: str) -> int:
    return sum(drift == 0 for cell, drift in found.drifts[run.name].items() if cell.table == table)


def largest(drifts: Sequence[Drift]) -> str:
    """The largest difference, and ≠ where one of the places has no number."""
    numbers = [abs(drift) for drift in drifts if isinstance(drift, float)]
    return " ".join([*([pages.brief(max(numbers))] if numbers else []), *(["≠"] if len(numbers) < len(drifts) else [])])
