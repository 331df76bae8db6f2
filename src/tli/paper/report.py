"""The report: one HTML file that shows every model of a run, without server or network (stages: report-data, report).

`report-data` gathers what the page needs of one model, as JSON; `report` writes the page from these files:
paper/report/report.html.j2 with report.css and report.js in it. Tables are those of the stage `tables`, sentences those
of the paper; what is interactive is drawn from the rows themselves. Times and memory are no part of the page, so that
the same rows give the same bytes: docs/costs/MODEL/costs.md has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from tli import store
from tli.data.items import read_items
from tli.data.lexicon import item_names, read_pairs
from tli.data.prompts import Item
from tli.paper import collected, dag, published, wording
from tli.paper.collected import Collected, Heading, Page
from tli.paper.document import text
from tli.paper.rows import Rows, flat, load_yaml
from tli.paper.scores import CORRECTED, item_name, language_name, said_of_items
from tli.paper.similarity import PAIR_SETS, points, trained_view
from tli.params import Params
from tli.study.views import per_pair

MOST_ITEMS = 3000  # of one model in the page, shared evenly by the sets: all of XNLI's languages would take 5 MB


def gather(
    *,
    tables: Path,
    verify: Path,
    pairs: Path,
    items: Path,
    base_rows: Path,
    align: Path,
    transfer: Path,
    out: Path,
    params: Params,
) -> None:
    """The `report-data` stage: everything that the page shows of one model.

    Args:
        tables: parent folder of the models' tables; MODEL-full beside MODEL is its full grid and need not exist.
        verify: JSON of the verdicts.
        pairs, items, base_rows, align, transfer: the word list, the items, the rows of base and paper's cell.
        out: the JSON file to write.
    """
    page = collected.read(tables / params.model)
    full = tables / f"{params.model}-full"
    grid = collected.read(full) if full.is_dir() else None
    over_bases = grid.tables if grid else {}
    aligned = Rows(base_rows / "align.tsv", align)
    scored = Rows(base_rows / "transfer.tsv", transfer)
    sources = (pairs, items, base_rows / "align.tsv", base_rows / "transfer.tsv", align, transfer, verify)
    made = {
        "model": params.model,
        "title": params.active.model.title,
        "of_items": said_of_items(params),
        "of_published": published.whose(params),
        "said": wording.all_sentences(page.tables, over_bases, store.read_json(verify, "verdicts"), params),
        "tables": {name: _written(table) for name, table in page.tables.items()},
        "full": {name: _written(table) for name, table in over_bases.items()},
        "full_revision": collected.earlier_revision(grid) if grid else "",
        "plots": {
            "scan": scan(page),
            "pairs": word_pairs(pairs, aligned, params),
            "curves": curves(page, grid),
            "items": benchmark(items, scored, params),
        },
        "parameters": _parameters(params),
        "hashes": [(path.as_posix(), store.sha256(path)) for path in sources if path.is_file()],
    }
    store.write_text(out, json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")


def _written(table: Collected) -> dict[str, Any]:
    """A table as JSON: what a reader sees of it."""
    return {
        "title": table.title,
        "caption": table.caption,
        "columns": [column._asdict() for column in table.columns],
        "lines": table.lines,
        "notes": table.notes,
    }


def _read_table(name: str, written: Mapping[str, Any]) -> Collected:
    """A table back from JSON; the page shows rounded cells alone."""
    return Collected(
        name=name,
        title=written["title"],
        caption=written["caption"],
        columns=tuple(Heading(**column) for column in written["columns"]),
        lines=tuple(map(tuple, written["lines"])),
        values=(),
        notes=tuple(written["notes"]),
    )


def run(*, source: Path, folder: Path, models: Sequence[str], pipeline: Path, requirements: Path, out: Path) -> None:
    """The `report` stage.

    Args:
        source: folder with report.html.j2, report.css and report.js.
        folder: what `report-data` wrote: MODEL.json of each of `models`. Other files there are of other runs.
        models: the models of the run; the page shows the first one first.
        pipeline: dvc.yaml. requirements: the list of packages with their versions.
        out: the HTML file to write.

    Raises:
        UserError: the file of a model is missing.
    """
    runs = [store.read_json(folder / f"{model}.json", "a model's data") for model in models]
    stages = dag.stages(load_yaml(pipeline))
    plots = {written["model"]: written["plots"] for written in runs}
    context = {
        "runs": [_shown(written) for written in runs],
        "data": Markup(json.dumps(plots, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")),
        "stages": stages,
        "dag": Markup(dag.draw(stages)),
        "packages": re.findall(r"^([\w.-]+)==(\S+)", store.read_text(requirements), re.M),
        "style": Markup(store.read_text(source / "report.css")),
        "script": Markup(store.read_text(source / "report.js")),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "grid": grid_of}
    page_text = environment.from_string(store.read_text(source / "report.html.j2")).render(context)
    store.write_text(out, page_text + "\n")


def _shown(written: Mapping[str, Any]) -> dict[str, Any]:
    """A model's data as the template reads them: tables as tables, and which views have anything to draw."""
    groups = {
        group: {name: _read_table(name, table) for name, table in written[group].items()}
        for group in ("tables", "full")
    }
    return {**written, **groups, "has": {name: bool(values) for name, values in written["plots"].items()}}


def _parameters(params: Params) -> list[tuple[str, str]]:
    """Every parameter of this model's run, as text."""
    shared = flat(params.model_dump(mode="json", exclude={"profiles", "arms", "model"}))
    of_model = flat(params.active.model_dump(mode="json"), f"profiles.{params.model}")
    return [(key, text(f"params.{key}", value)) for key, value in (shared | of_model).items()]


def inline(sentence: str) -> Markup:
    """Text with `code` as HTML, a power of ten raised."""
    pieces = []
    for index, piece in enumerate(sentence.split("`")):
        safe = str(escape(piece))
        raised = re.sub(r"([\d.]+)e(-?)(\d+)", lambda m: f"{m[1]} × 10<sup>{'−' * bool(m[2])}{m[3]}</sup>", safe)
        pieces.append(f"<code>{safe}</code>" if index % 2 else raised.replace("d_z", "<i>d</i><sub>z</sub>"))
    return Markup("".join(pieces))


def grid_of(table: Collected, *keys: str) -> Markup:
    """A table, or some of its columns, as HTML that scrolls where the screen is narrow."""
    at = [index for index, column in enumerate(table.columns) if not keys or column.key in keys]
    side = ["n" if table.columns[index].number else "t" for index in at]
    head = "".join(
        f'<th scope="col" class="{side}">{inline(table.columns[index].title)}</th>'
        for index, side in zip(at, side, strict=True)
    )
    lines = []
    for line in table.lines:
        cells = [inline(line[index]) for index in at]
        first = f'<th scope="row" class="{side[0]}">{cells[0]}</th>'
        rest = (f'<td class="{mark}">{cell}</td>' for mark, cell in zip(side[1:], cells[1:], strict=True))
        lines.append(f"<tr>{first}{''.join(rest)}</tr>")
    title = escape(table.title)
    return Markup(
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table><caption class="out">{title}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def scan(page: Page) -> list[dict[str, Any]]:
    """The layer scan as numbers: layer, pooling, and what the plot can show."""
    table = page.tables.get("scan")
    if table is None:
        return []
    rows = []
    for row in table.rows():
        layer, pooling, _ = row["view"].split(".")
        numbers = {key: _number(row[key]) for key in ("cosine", "random", "p1_sw_en", "p1_en_sw", "published")}
        rows.append({"layer": layer, "pooling": pooling, **numbers})
    return rows


def word_pairs(path: Path, align: Rows, params: Params) -> dict[str, Any]:
    """Every pair with its cosine before and after training at every view that keeps one for each pair."""
    model, layer = params.active.model, params.train.layer
    names = [str(view) for kind in ("nf4", "fp4") for view in per_pair(model, layer, kind)]
    listed = read_pairs(path)
    views = [view for view in names if all(align.has("base", set_, view, "cosine") for set_ in PAIR_SETS)]
    values = {
        (cell, view): align.each(cell, "trained", view, "cosine") | align.each(cell, "control", view, "cosine")
        for cell in ("base", "main")
        for view in views
    }
    rows = [
        [pair.swahili, pair.english, pair.set]
        + [[round(values[cell, view][item], 4) for view in views] for cell in ("base", "main")]
        for pair, item in zip(listed, item_names(listed), strict=True)
    ]
    named = {view: name for name, view in points(params).items()}
    return {
        "views": views,
        "names": [named.get(view, "") for view in views],
        "rows": rows,
        "first": trained_view(params),
    }


def curves(page: Page, grid: Page | None) -> dict[str, dict[str, list[list[float | None]]]]:
    """Outcome -> arm -> [rank, change, low, high]: of the sweep on this base, of the full grid's arms over bases."""
    outcomes: dict[str, dict[str, list[list[float | None]]]] = {}
    if table := page.tables.get("changes"):
        for row in table.rows():
            line = [_number(row[key]) for key in ("rank", "change", "low", "high")]
            outcomes.setdefault(f"{row['task']}, {row['language']}", {}).setdefault("sweep, this base", []).append(line)
    if grid and (table := grid.tables.get("arms_transfer")):
        for row in table.rows():
            line = [_number(row[key]) for key in ("rank", "change", "low", "high")]
            outcomes.setdefault(row["items"], {}).setdefault(f"{row['arm']}, over bases", []).append(line)
    return outcomes


def benchmark(path: Path, transfer: Rows, params: Params) -> list[dict[str, Any]]:
    """The items of each set with the options' log-likelihoods before and after, MOST_ITEMS of them in all."""
    sets: dict[str, list[Item]] = {}
    for item in read_items(path) if path.is_file() and params.active.benchmarks.source != "none" else []:
        if not item.task.endswith(CORRECTED):
            sets.setdefault(f"{item.task}.{item.language}", []).append(item)
    scored = {set_: some for set_, some in sets.items() if transfer.has("base", set_, "-", "pred")}
    return [_set(set_, some, MOST_ITEMS // len(scored), transfer, params) for set_, some in scored.items()]


def _set(set_: str, items: Sequence[Item], most: int, transfer: Rows, params: Params) -> dict[str, Any]:
    options = len(items[0].options)
    scores = {
        cell: [transfer.each(cell, set_, "-", f"loglik.{number}") for number in range(options)]
        for cell in ("base", "main")
    }
    chosen = {cell: transfer.each(cell, set_, "-", "pred") for cell in ("base", "main")}

    def line(item: Item) -> list[Any]:
        values = [[round(one[item.id], 3) for one in scores[cell]] for cell in ("base", "main")]
        return [item.context, item.options, item.label, *values, *(int(chosen[cell][item.id]) for cell in chosen)]

    name = f"{item_name(set_.partition('.')[0], params)}, {language_name(set_, params)}"
    return {"name": name, "number": len(items), "rows": [line(item) for item in items[:most]]}


def _number(value: str) -> float | None:
    return None if value == "-" else float(value)
