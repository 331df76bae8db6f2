"""Counts of the word list, of the corpus and of the base model's training, as their stages wrote them."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Measured, Results, Rows
from tli.analysis.table import Cell, Column
from tli.analysis.views import PAIR_SETS
from tli.config.parameters import Params
from tli.stats.descriptive import mean

TITLE = "Data audit"
CAPTION = (
    "Counts of the word list (source `{params.pairs.source}`), of the micro-world's corpus, and of the base model's "
    "training or file."
)
SOURCE = ("words", "microworld", "base", "train")
VIEW = "none (counts, no similarity)"
COLUMNS = (
    Column("part", "part", id=True),
    Column("what", "what", id=True),
    Column("all", "value", "number"),
    *(Column(set_, set_, "number") for set_ in PAIR_SETS),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per count; one that is given by set (key ending in all, trained or control) fills several columns."""
    for part, counts in _parts(results).items():
        lines: dict[str, dict[str, Cell]] = {}
        for key, value in counts.items():
            name, _, last = key.rpartition(".")
            name, column = (name, last) if name and last in ("all", *PAIR_SETS) else (key, "all")
            lines.setdefault(name, {})[column] = value
        for name, values in lines.items():
            yield {"part": part, "what": name.replace(".", ": ").replace("_", " "), **values}


def _parts(results: Results) -> dict[str, Measured]:
    """Part of the table -> flat key -> count."""
    of_corpus, of_base = results.metrics["microworld"], results.metrics["base"]
    return {
        "word pairs": {**results.metrics["words"], **_tokens(results.of("train"))},
        "corpus": {key: value for key, value in of_corpus.items() if not key.startswith("items.")},
        "base": {key: value for key, value in of_base.items() if key != "bos"},  # which the setup table shows
    }


def _tokens(train: Rows) -> Measured:
    """Mean number of tokens of a form, by side and set; BOS and EOS are not counted."""
    means: Measured = {}
    for side in ("swahili", "english"):
        by_set = {set_: [*train.each("base", set_, "-", f"tokens.{side}").values()] for set_ in PAIR_SETS}
        both = [value for values in by_set.values() for value in values]
        means |= {f"tokens_a_form.{side}.{set_}": mean(values) for set_, values in {"all": both, **by_set}.items()}
    return means
