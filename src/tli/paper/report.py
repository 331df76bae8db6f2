"""The report: one HTML file that shows the run and needs nothing else, no server and no network (stage: report).

The page is paper/report/report.html.j2 with report.css and report.js written into it, and the numbers as JSON. Tables
are those of the stage `tables`, sentences those of the paper; what is interactive is drawn from the rows themselves.
Times and memory are no part of it, so that the same rows give the same bytes: results/<profile>/costs.md has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from tli import store
from tli.data.items import read_items
from tli.data.lexicon import item_names, read_pairs
from tli.data.prompts import Item
from tli.paper import collected, dag, published, wording
from tli.paper.collected import Collected, Page
from tli.paper.document import text
from tli.paper.rows import Rows, flat, load_yaml
from tli.paper.scores import CORRECTED, item_name, language_name, said_of_items
from tli.paper.similarity import PAIR_SETS, points, trained_view
from tli.params import Params
from tli.study.views import per_pair

MOST_ITEMS = 3000  # in the page, shared evenly by the sets: with all of XNLI's languages it would grow past 5 MB


def run(
    *,
    source: Path,
    tables: Path,
    full: Path,
    verify: Path,
    pairs: Path,
    items: Path,
    base_rows: Path,
    align: Path,
    transfer: Path,
    pipeline: Path,
    requirements: Path,
    out: Path,
    params: Params,
) -> None:
    """The `report` stage.

    Args:
        source: folder with report.html.j2, report.css and report.js.
        tables, full: folders of tables, of the default and of the full grid; `full` need not exist.
        verify: JSON of the verdicts.
        pairs, items, base_rows, align, transfer: the word list, the items, the rows of base and paper's cell.
        pipeline: dvc.yaml. requirements: the list of packages with their versions.
        out: the HTML file to write.
    """
    page = collected.read(tables)
    grid = collected.read(full) if full.is_dir() else None
    over_bases = grid.tables if grid else {}
    verdicts = store.read_json(verify)
    aligned = Rows(base_rows / "align.tsv", align)
    scored = Rows(base_rows / "transfer.tsv", transfer)
    data = {
        "scan": scan(page),
        "pairs": word_pairs(pairs, aligned, params),
        "curves": curves(page, grid),
        "items": benchmark(items, scored, params),
    }
    found = dag.stages(load_yaml(pipeline))
    context = {
        "profile": params.model,
        "microworld": params.active.model.source in ("versioned", "pretrain"),
        "of_items": said_of_items(params),
        "of_published": published.whose(params),
        "said": wording.all_sentences(page.tables, over_bases, verdicts, params),
        "verify": verdicts,
        "tables": {**page.tables},
        "full": {**over_bases},
        "data": Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")),
        "has": {name: bool(found) for name, found in data.items()},
        "stages": found,
        "dag": Markup(dag.draw(found)),
        "parameters": _parameters(params),
        "packages": re.findall(r"^([\w.-]+)==(\S+)", store.read_text(requirements), re.M),
        "hashes": [(name, store.sha256(path)) for name, path in _files(pairs, items, align, transfer, verify)],
        "style": Markup(store.read_text(source / "report.css")),
        "script": Markup(store.read_text(source / "report.js")),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "grid": grid_of}
    page_text = environment.from_string(store.read_text(source / "report.html.j2")).render(context)
    store.write_text(out, page_text + "\n")


def _files(*paths: Path) -> list[tuple[str, Path]]:
    return [(path.as_posix(), path) for path in paths if path.is_file()]


def _parameters(params: Params) -> list[tuple[str, str]]:
    """Every parameter of this run, the profile's part among them, as text."""
    shared = flat(params.model_dump(mode="json", exclude={"profiles", "arms"}))
    own = flat(params.active.model_dump(mode="json"), f"profiles.{params.model}")
    return [(key, text(f"params.{key}", value)) for key, value in (shared | own).items()]


def inline(said: str) -> Markup:
    """Text with `code` as HTML, a power of ten raised."""
    pieces = []
    for index, piece in enumerate(said.split("`")):
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
    found: dict[str, dict[str, list[list[float | None]]]] = {}
    if table := page.tables.get("changes"):
        for row in table.rows():
            line = [_number(row[key]) for key in ("rank", "change", "low", "high")]
            found.setdefault(f"{row['task']}, {row['language']}", {}).setdefault("sweep, this base", []).append(line)
    if grid and (table := grid.tables.get("arms_transfer")):
        for row in table.rows():
            line = [_number(row[key]) for key in ("rank", "change", "low", "high")]
            found.setdefault(row["items"], {}).setdefault(f"{row['arm']}, over bases", []).append(line)
    return found


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
