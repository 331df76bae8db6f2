"""Stage `tables`: compute every table and figure of one model from its rows.

Each table is a module of tli.tables; results/MODEL/tables.json holds them as data.
"""

from __future__ import annotations

from pathlib import Path

from tli.analysis import render
from tli.analysis.results import read_results
from tli.analysis.tolerances import load
from tli.config.parameters import Params
from tli.figures import plots
from tli.figures import write as figures
from tli.io.structured import write_json
from tli.tables import compute_all
from tli.verify.headline import headline_values


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
    steps = load(tolerances).steps(results, params)
    tables = compute_all(results, params, lambda _: steps)
    made = figures.write(figures_out, results, params)
    written = render.ModelTables(params.model, {table.name: table for table in tables}, made, results.pairs_sha256)
    plots.write(plots_out, written.tables, params)
    write_json(headline, headline_values(written.tables, params))
    render.write_model(out, written)
