"""Stage `tables`: compute every table and figure of one model from its rows.

Each table is a module of tli.tables; results/MODEL/tables.json holds the tables as data.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from tli.analysis import render
from tli.analysis.results import Results, read_results
from tli.analysis.table import Row, Steps, Table, display
from tli.analysis.tolerances import load
from tli.config.parameters import Params
from tli.figures import plots
from tli.figures import write as figures
from tli.io.structured import write_json
from tli.tables import (
    accuracy_by_rank,
    adapter,
    audit,
    baselines,
    before_after,
    calibration,
    changes,
    claims,
    class_changes,
    classes,
    controls,
    equivalence,
    gains,
    gap,
    geometry,
    items,
    lengths,
    norms,
    odds,
    pools,
    projection,
    ranks,
    retrieval,
    robustness,
    robustness_alignment,
    scan,
    setup,
    study_calibration,
    study_changes,
    study_class_changes,
    study_controls,
    study_equivalence,
    study_gap,
    study_odds,
    study_robustness,
    study_robustness_alignment,
    study_scores,
    study_similarity,
    study_sink,
    study_sink_training,
    study_trends,
    study_verdicts,
    translation,
    trends,
)
from tli.verify.headline import headline_values

# In the order in which README.md shows them. `claims` reads the tables before it.
MODULES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        setup,
        scan,
        norms,
        before_after,
        gains,
        lengths,
        controls,
        retrieval,
        pools,
        geometry,
        projection,
        adapter,
        ranks,
        accuracy_by_rank,
        changes,
        gap,
        calibration,
        class_changes,
        robustness,
        robustness_alignment,
        trends,
        equivalence,
        odds,
        translation,
        classes,
        baselines,
        audit,
        items,
        study_similarity,
        study_scores,
        study_controls,
        study_sink,
        study_sink_training,
        study_verdicts,
        study_robustness,
        study_robustness_alignment,
        study_trends,
        study_equivalence,
        study_odds,
        study_changes,
        study_gap,
        study_calibration,
        study_class_changes,
        claims,
    )
}
ORDER = tuple(MODULES)
NOTE = "note"  # under this key a row may hold a note on itself, or several


def run(
    *,
    build: Path,
    metrics: Path,
    published: Path,
    tolerances: Path,
    out: Path,
    figures_out: Path,
    plots_out: Path,
    headline: Path,
    params: Params,
) -> None:
    """Computes the tables.

    Args:
        build: build/MODEL, with the row files of every stage.
        metrics: results/MODEL, with the counts of the stages.
        published: paper/reported.yaml.
        tolerances: paper/tolerances.yaml; the drift between processors decides the printed decimals.
        out: tables.json to write.
        figures_out: folder of figures to write, replaced as a whole.
        plots_out: folder to write for `dvc plots`, replaced as a whole.
        headline: JSON file to write: a few numbers for `dvc exp show`.
    """
    results = read_results(build, metrics, published, params)
    tables = compute_all(results, params, load(tolerances).steps(results, params))
    made = figures.write(figures_out, results, params)
    written = render.ModelTables(params.model, {table.name: table for table in tables}, made, results.pairs_sha256)
    plots.write(plots_out, written.tables, params)
    write_json(headline, headline_values(written.tables, params))
    render.write_model(out, written)


def compute_all(results: Results, params: Params, steps: Steps) -> list[Table]:
    """Every table that has rows."""
    tables = [compute(name, results, params, steps) for name in ORDER]
    return [table for table in tables if table.rows]


def compute(name: str, results: Results, params: Params, steps: Steps) -> Table:
    """The table of the module tli.tables.NAME; it is added to `results.tables`.

    Args:
        steps: how far a cell may move between processors, which decides its printed decimals.
    """
    module = MODULES[name]
    columns = module.COLUMNS if hasattr(module, "COLUMNS") else module.columns(results, params)
    rows: list[Row] = []
    notes: list[str] = []
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
    results.tables[name] = table = replace(table, text=display(table, steps))
    return table
