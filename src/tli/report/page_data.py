"""What the report shows of one model: tables, sentences, curves, word pairs and items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli.analysis import published
from tli.analysis.render import read_model
from tli.analysis.results import Rows, flat
from tli.analysis.row_file import read_files
from tli.analysis.scores import CORRECTED, at_chance, marked, said_of_items, set_name
from tli.analysis.table import Table
from tli.analysis.views import MOMENTS, PAIR_SETS, points, trained_view
from tli.config.parameters import Params
from tli.data.benchmarks.items import read_items
from tli.data.benchmarks.prompts import Item
from tli.data.words.lexicon import item_names, read_pairs
from tli.io.files import sha256_of
from tli.io.structured import read_json
from tli.measure.views import per_pair
from tli.report import wording
from tli.report.cells import displayed
from tli.report.numbers import plain

MOST_ITEMS = 3000  # of one model in the page, shared evenly by the sets: all of XNLI's languages would take 5 MB


class Sources(NamedTuple):
    """The files of one model that the page shows; it lists their hashes.

    Attributes:
        tables: tables.json.
        verify: verify.json.
        pairs: the checked word list.
        items: the rendered benchmark items.
        similarity: the similarity rows of the base, and those of the paper's configuration.
        score: the scores of the base, and those of the paper's configuration.
    """

    tables: Path
    verify: Path
    pairs: Path
    items: Path
    similarity: tuple[Path, Path]
    score: tuple[Path, Path]

    @property
    def hashes(self) -> list[tuple[str, str]]:
        """Path -> SHA-256 of every file that exists."""
        paths = [self.tables, self.verify, self.pairs, self.items, *self.similarity, *self.score]
        return [(path.as_posix(), sha256_of(path)) for path in paths if path.is_file()]


def collect(sources: Sources, params: Params) -> dict[str, Any]:
    """Everything that the page shows of one model.

    Raises:
        UserError: a file is missing or broken.
    """
    tables = read_model(sources.tables).tables
    similarity, scores = read_files(*sources.similarity), read_files(*sources.score)
    return {
        "model": params.model,
        "title": params.active.model.title,
        "of_items": said_of_items(params),
        "of_published": published.whose(params),
        "sentences": wording.all_sentences(tables, read_json(sources.verify, "verdicts"), params),
        "tables": {name: displayed(table) for name, table in tables.items()},
        "plots": {
            "scan": scan(tables.get("scan")),
            "pairs": word_pairs(sources.pairs, similarity, params),
            "curves": curves(tables.get("changes")),
            "items": benchmark(sources.items, scores, params),
        },
        "parameters": _parameters(params),
        "hashes": sources.hashes,
    }


def _parameters(params: Params) -> list[tuple[str, str]]:
    """Every parameter of this model's run, as text."""
    shared = flat(params.model_dump(mode="json", exclude={"profiles", "variants", "model"}))
    of_model = flat(params.active.model_dump(mode="json"), f"profiles.{params.model}")
    return [(key, plain(value)) for key, value in (shared | of_model).items()]


def scan(table: Table | None) -> list[dict[str, Any]]:
    """The layer scan as numbers: layer, pooling, and what the plot can show."""
    points_by_layer = []
    for row in table.rows if table else ():
        layer, pooling, _ = str(row["view"]).split(".")
        numbers = {key: row.get(key) for key in ("cosine", "random", "p1_sw_en", "p1_en_sw", "published")}
        points_by_layer.append({"layer": layer, "pooling": pooling, **numbers})
    return points_by_layer


def word_pairs(path: Path, similarity: Rows, params: Params) -> dict[str, Any]:
    """Every pair with its cosine before and after training, at every view at which each pair was measured."""
    model, layer = params.active.model, params.train.layer
    names = [str(view) for kind in ("nf4", "fp4") for view in per_pair(model, layer, kind)]
    listed = read_pairs(path)
    views = [view for view in names if all(similarity.has("base", set_, view, "cosine") for set_ in PAIR_SETS)]
    values = {
        (run, view): {
            item: value for set_ in PAIR_SETS for item, value in similarity.each(run, set_, view, "cosine").items()
        }
        for run in MOMENTS.values()
        for view in views
    }
    rows = [
        [pair.swahili, pair.english, pair.set]
        + [[round(values[run, view][item], 4) for view in views] for run in MOMENTS.values()]
        for pair, item in zip(listed, item_names(listed), strict=True)
    ]
    view_names = {view: name for name, view in points(params).items()}
    return {
        "views": views,
        "names": [view_names.get(view, "") for view in views],
        "rows": rows,
        "first": trained_view(params),
    }


def curves(table: Table | None) -> dict[str, list[list[Any]]]:
    """Task and language -> [rank, change, low, high] by rank."""
    by_set: dict[str, list[list[Any]]] = {}
    for row in table.rows if table else ():
        point = [row.get(key) for key in ("rank", "change", "low", "high")]
        by_set.setdefault(f"{row['task']}, {row['language']}", []).append(point)
    return by_set


def benchmark(path: Path, scores: Rows, params: Params) -> list[dict[str, Any]]:
    """The items of each set with the choices' log-likelihoods before and after, MOST_ITEMS of them in all."""
    sets: dict[str, list[Item]] = {}
    for item in read_items(path) if path.is_file() and params.active.benchmarks.source != "none" else []:
        if not item.task.endswith(CORRECTED):
            sets.setdefault(item.set, []).append(item)
    scored = {set_: items for set_, items in sets.items() if scores.has("base", set_, "-", "pred")}
    return [_set(set_, items, MOST_ITEMS // len(scored), scores, params) for set_, items in scored.items()]


def _set(set_: str, items: Sequence[Item], most: int, scores: Rows, params: Params) -> dict[str, Any]:
    choices = range(len(items[0].options))
    runs = MOMENTS.values()
    likelihoods = {run: [scores.each(run, set_, "-", f"loglik.{number}") for number in choices] for run in runs}
    chosen = {run: scores.each(run, set_, "-", "pred") for run in runs}

    def line(item: Item) -> list[Any]:
        values = [[round(of_choice[item.id], 3) for of_choice in likelihoods[run]] for run in runs]
        return [item.context, item.options, item.label, *values, *(int(chosen[run][item.id]) for run in runs)]

    name = marked(set_name(set_, params), at_chance([scores], set_, params))
    return {"name": name, "number": len(items), "rows": [line(item) for item in items[:most]]}
