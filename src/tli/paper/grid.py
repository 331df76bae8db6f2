"""The full grid: the rows of every arm over several bases become tables and figures (stage: tables of full/dvc.yaml).

Each base has a corpus, a model and items of its own. The statistics of the default's tables are computed here over
bases as well; what arms do is held against rank 0 of the same base and of the same regime.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.analysis import effects, premises, render
from tli.analysis import outcomes as cells
from tli.analysis.outcomes import Source
from tli.analysis.results import Measured, Rows, Sweep, cell
from tli.config.parameters import Params
from tli.io import progress
from tli.io.errors import UserError
from tli.io.structured import write_json
from tli.paper import arm_controls, arms, changes, classes, grid_figures, regime, summary, verdicts

KINDS = ("similarity", "score")


class Kept(NamedTuple):
    """What is left of an arm when its rows have been read: they would not fit in memory together."""

    summary: arms.Arm
    effects: Sequence[effects.Effect]  # of an arm with several ranks
    trained: regime.Trained | None  # of an arm of the BOS regime, and of one like it on the base as it is


def run(
    folder: Path, tables: Path, figures_out: Path, measured: Path, params: Params, each: Mapping[str, Params]
) -> None:
    """The stage.

    Args:
        folder: holds sBASE/benchmarks/items.jsonl and sBASE/{plain,bos}/{scan.tsv,rows/base,rows/ARM}, as full/dvc.yaml
            writes them.
        tables, figures_out: folders to write, replaced as wholes.
        measured: JSON file to write, flat key -> value.
        each: the parameters of every arm.

    Raises:
        UserError: a base's or an arm's rows are missing.
    """
    first = params.sweep.arms[0]
    read: dict[str, Kept] = {}
    made: list[render.Made] = []
    by_regime: dict[str, list[Source]] = {}
    beside, rank = _beside(each, params), arms.common_rank(params)
    names = [(name, "plain") for name in params.sweep.arms] + [(name, "bos") for name in params.sweep.bos_arms]
    for name, where in progress.track(names, "tables full", len(names)):
        own = _of_arm(each[name], name)
        if where not in by_regime:
            by_regime[where] = starts(folder, where, params)
        found = sources(folder, where, name, by_regime[where], own)
        several = len(own.sweep.ranks) > 1
        tested = effects.effects(cells.outcomes(found, own), own) if several else []
        layered = None
        if name in beside and rank in own.sweep.ranks:
            layered = regime.trained(found, name, where, rank, own)
        read[name] = Kept(arms.summarise(found, name, where, own), tested, layered)
        if name == first:
            tasks = changes.tasks(found, own)
            made += [
                changes.changes(tasks, changes.drawn(tasks, own), own),
                changes.gap(tasks, own),
                changes.calibration(tasks, own),
                classes.table(tasks, found, own),
            ]
    for name, kept in read.items():
        if kept.effects:
            made += _tests(kept.effects, _of_arm(each[name], name), name, whole=name == first)
    summaries = [kept.summary for kept in read.values()]
    scans = {
        where: [_rows(folder / f"s{base}" / where / "scan.tsv") for base in params.sweep.base_seeds]
        for where in ("plain", "bos")
    }
    layers = [kept.trained for kept in read.values() if kept.trained is not None]
    tested_arms = {name: kept.effects for name, kept in read.items() if kept.effects}
    made = [
        arm_controls.controls(summaries, params),
        arms.alignment(summaries, params),
        arms.transfer(summaries, params),
        regime.table(scans, params),
        *([regime.trained_table(layers, rank, params)] if layers else []),
        *([verdicts.table(tested_arms, _of_arm(each[first], first))] if tested_arms else []),
        *made,
    ]
    values: Measured = {}
    for one in made:
        values |= {f"full.{key}": value for key, value in one.measured.items()}
    figured = grid_figures.write(figures_out, summaries, scans, params)
    shown = [one.table for one in made]
    page = render.Page(intro(params), {table.name: table for table in shown}, figured, bases_in_words(params))
    render.write(tables, page, os.path.relpath(figures_out, tables))
    write_json(measured, values)


def _beside(each: Mapping[str, Params], params: Params) -> set[str]:
    """The arms of the BOS regime, and those on the bases as they are that train the same way."""
    bos = params.sweep.bos_arms
    ways = [(each[name].lora, each[name].train) for name in bos]
    return {*bos, *(name for name in params.sweep.arms if (each[name].lora, each[name].train) in ways)}


def _of_arm(params: Params, name: str) -> Params:
    """The arm's parameters, its ranks those of the sweep."""
    sweep = params.sweep.model_copy(update={"ranks": params.arms[name].ranks})
    return params.model_copy(update={"sweep": sweep})


def _tests(found: Sequence[effects.Effect], params: Params, name: str, whole: bool) -> list[render.Made]:
    """The robustness tables of an arm; of all but the first, the summaries alone, under the arm's name."""
    result = []
    for one in summary.tables(found, params):
        if whole:
            result.append(one)
        elif one.table.name.startswith("robustness"):
            table = one.table
            named = render.Table(
                f"{table.name}_{name}",
                f"{table.title}, arm {name}",
                table.caption,
                table.columns,
                table.rows,
                table.view,
                table.notes,
            )
            result.append(render.Made(named, {f"{name}.{key}": value for key, value in one.measured.items()}))
    return result


def starts(folder: Path, where: str, params: Params) -> list[Source]:
    """The rows of every base of params.sweep.base_seeds itself in the regime `where`, and its items; no adapters.

    Raises:
        UserError: a file is missing.
    """
    nothing = Sweep({}, {}, {})
    found = []
    for base in params.sweep.base_seeds:
        aligned, scored = (_rows(folder / f"s{base}" / where / "rows" / "base" / f"{kind}.tsv") for kind in KINDS)
        shared = premises.read_premises(folder / f"s{base}" / "benchmarks" / "items.jsonl")
        found.append(Source(base, aligned, scored, nothing, shared))
    return found


def sources(folder: Path, where: str, arm: str, bases: Sequence[Source], params: Params) -> list[Source]:
    """The bases with an arm's rows, in the regime `where`.

    Raises:
        UserError: a file is missing, or lacks a rank and seed of the arm.
    """
    found = []
    for start in bases:
        at = folder / f"s{start.base}" / where
        aligned, scored = (_rows(at / "rows" / arm / f"{kind}.tsv") for kind in KINDS)
        trained = _rows(at / "train" / f"{arm}.tsv")
        for one in (aligned, scored, trained):
            wanted = [cell(rank, seed) for rank in params.sweep.ranks for seed in params.sweep.seeds]
            missing = [name for name in wanted if name not in one.cells]
            if missing:
                raise UserError(
                    f"{one.path}: no rows of {missing[0]}, which arms.{arm} lists; run `dvc repro full/dvc.yaml`"
                )
        ranks = params.sweep.ranks
        sweep = Sweep(dict.fromkeys(ranks, aligned), dict.fromkeys(ranks, scored), dict.fromkeys(ranks, trained))
        found.append(start._replace(sweep=sweep))
    return found


def _rows(path: Path) -> Rows:
    if not path.is_file():
        raise UserError(
            f"{path}: expected the full grid's rows, found no file; run "
            "`dvc exp run -S 'sweep.grid=[full]' full/dvc.yaml`"
        )
    return Rows(path)


def bases_in_words(params: Params) -> str:
    """How many bases and adapters the tables rest on."""
    sweep = params.sweep
    count = sum(len(params.arms[name].ranks) for name in (*sweep.arms, *sweep.bos_arms))
    return (
        f"{len(sweep.base_seeds)} bases (seeds {', '.join(map(str, sweep.base_seeds))}), each with a corpus, a model "
        f"and benchmark items of its own; {len(sweep.seeds)} adapters of each rank of each arm on each of them: "
        f"{count * len(sweep.seeds) * len(sweep.base_seeds)} adapters. The default's base is not among them. What "
        "holds for bases like these is told by t over bases; items, of which each base has others, are as given unless "
        "a table says that they were resampled."
    )


def intro(params: Params) -> list[str]:
    """The README's opening: what this folder is, what it was made with."""
    sweep = params.sweep
    rows = "\n".join(
        f"| `{name}` | {regime.NAMES[where]} | {', '.join(map(str, params.arms[name].ranks))} | "
        f"{arms.changed(params, name)} |"
        for names, where in ((sweep.arms, "plain"), (sweep.bos_arms, "bos"))
        for name in names
    )
    return [
        f"# The full grid, model `{params.model}`",
        "Generated by the stage `tables` of full/dvc.yaml from measured rows; do not edit. `dvc exp run -S "
        "'sweep.grid=[full]' full/dvc.yaml` writes them again. The .csv files hold nine significant digits; here and "
        "in the .tex files numbers are rounded, and `-` is a value that is not defined or not given.",
        bases_in_words(params),
        f"| arm | base | ranks | differs from params.yaml in |\n| :-- | :-- | :-- | :-- |\n{rows}",
    ]
