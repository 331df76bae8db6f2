"""One module per table: `paper/tables/NAME.md` is made by `src/tli/tables/NAME.py`.

A module has

- TITLE; CAPTION, of at most 40 words, in which `{params.lora.rank}` and the like stand for parameters;
- COLUMNS, or `columns(results, params)` where they depend on the parameters;
- `rows(results, params)`, which yields one mapping per row: column key -> value; under NOTE it may give a note on that
  row, or several;
- SOURCE, the stages whose rows it reads;
- optionally VIEW, where every similarity is read at one view, and `notes(results, params)`.

A table without rows is left out. To add a table, add a module and its name to ORDER.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from tli.analysis.results import Results
from tli.analysis.table import Steps, Table, display
from tli.config.parameters import Params

ORDER = (
    "setup",
    "scan",
    "norms",
    "before_after",
    "gains",
    "lengths",
    "controls",
    "retrieval",
    "pools",
    "geometry",
    "projection",
    "adapter",
    "ranks",
    "accuracy_by_rank",
    "changes",
    "gap",
    "calibration",
    "class_changes",
    "robustness",
    "robustness_alignment",
    "trends",
    "equivalence",
    "odds",
    "translation",
    "classes",
    "baselines",
    "audit",
    "items",
    "claims",  # reads the tables before it
)
NOTE = "note"


def compute(name: str, results: Results, params: Params, steps: Callable[[Results], Steps]) -> Table:
    """The table of that name.

    Args:
        results: its `tables` holds those that come before in ORDER.
        steps: how far each cell may move between processors, which decides the printed decimals.
    """
    module = import_module(f"tli.tables.{name}")
    columns = module.COLUMNS if hasattr(module, "COLUMNS") else module.columns(results, params)
    rows, notes = [], []
    for row in module.rows(results, params):
        note = row.pop(NOTE, ())
        notes += [note] if isinstance(note, str) else note
        rows.append(row)
    more = module.notes(results, params) if hasattr(module, "notes") else []
    table = Table(
        name=name,
        title=module.TITLE,
        caption=module.CAPTION.format(params=params),
        columns=columns,
        rows=rows,
        view=getattr(module, "VIEW", ""),
        notes=[note for note in dict.fromkeys([*more, *notes]) if note],
        source=module.SOURCE,
    )
    results.tables[name] = table
    return Table(**{**vars(table), "text": display(table, steps(results))})


def compute_all(results: Results, params: Params, steps: Callable[[Results], Steps]) -> list[Table]:
    """Every table that has rows, in the order of ORDER."""
    tables = [compute(name, results, params, steps) for name in ORDER]
    return [table for table in tables if table.rows]
