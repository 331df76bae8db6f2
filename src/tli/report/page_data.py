"""What the report shows of one model, as JSON: tables, sentences, word pairs and items (stage: report-data).

Tables are those of the stage `tables`, sentences those of the paper. What the page draws comes from the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tli.analysis import published, render
from tli.analysis.render import Page
from tli.analysis.results import Rows, flat
from tli.analysis.scores import CORRECTED, item_name, language_name, said_of_items
from tli.analysis.views import PAIR_SETS, points, trained_view
from tli.config.parameters import Params
from tli.data.benchmarks.items import read_items
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import item_names, read_pairs
from tli.io.files import sha256_of, write_text
from tli.io.structured import read_json
from tli.measure.views import per_pair
from tli.report import wording
from tli.report.document import text

MOST_ITEMS = 3000  # of one model in the page, shared evenly by the sets: all of XNLI's languages would take 5 MB


def run(
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
    page = render.read(tables / params.model)
    full = tables / f"{params.model}-full"
    grid = render.read(full) if full.is_dir() else None
    over_bases = grid.tables if grid else {}
    aligned = Rows(base_rows / "similarity.tsv", align)
    scored = Rows(base_rows / "score.tsv", transfer)
    sources = (pairs, items, base_rows / "similarity.tsv", base_rows / "score.tsv", align, transfer, verify)
    made = {
        "model": params.model,
        "title": params.active.model.title,
        "of_items": said_of_items(params),
        "of_published": published.whose(params),
        "said": wording.all_sentences(page.tables, over_bases, read_json(verify, "verdicts"), params),
        "tables": {name: table.displayed() for name, table in page.tables.items()},
        "full": {name: table.displayed() for name, table in over_bases.items()},
        "full_revision": grid.revision if grid else "",
        "plots": {
            "scan": scan(page),
            "pairs": word_pairs(pairs, aligned, params),
            "curves": curves(page, grid),
            "items": benchmark(items, scored, params),
        },
        "parameters": _parameters(params),
        "hashes": [(path.as_posix(), sha256_of(path)) for path in sources if path.is_file()],
    }
    write_text(out, json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")


def _parameters(params: Params) -> list[tuple[str, str]]:
    """Every parameter of this model's run, as text."""
    shared = flat(params.model_dump(mode="json", exclude={"profiles", "arms", "model"}))
    of_model = flat(params.active.model_dump(mode="json"), f"profiles.{params.model}")
    return [(key, text(f"params.{key}", value)) for key, value in (shared | of_model).items()]


def scan(page: Page) -> list[dict[str, Any]]:
    """The layer scan as numbers: layer, pooling, and what the plot can show."""
    table = page.tables.get("scan")
    if table is None:
        return []
    rows = []
    for row in table.rows:
        layer, pooling, _ = str(row["view"]).split(".")
        numbers = {key: row.get(key) for key in ("cosine", "random", "p1_sw_en", "p1_en_sw", "published")}
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
        for row in table.rows:
            line = _numbers(row, "rank", "change", "low", "high")
            outcomes.setdefault(f"{row['task']}, {row['language']}", {}).setdefault("sweep, this base", []).append(line)
    if grid and (table := grid.tables.get("arms_transfer")):
        for row in table.rows:
            line = _numbers(row, "rank", "change", "low", "high")
            outcomes.setdefault(str(row["items"]), {}).setdefault(f"{row['arm']}, over bases", []).append(line)
    return outcomes


def _numbers(row: Mapping[str, render.Cell], *columns: str) -> list[float | None]:
    """The cells of these columns, which hold numbers or nothing."""
    return [cell for cell in (row.get(column) for column in columns) if not isinstance(cell, str)]


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
