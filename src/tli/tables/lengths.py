"""Whether a pair's length explains its similarity.

The mean of more token states lies closer to any other mean, so that cosine may follow length whatever the meaning.
"""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results, Rows
from tli.analysis.table import Cell, Column
from tli.analysis.views import PAIR_SETS, VIEW_COLUMNS, at, grid
from tli.config.parameters import Params
from tli.stats.descriptive import correlation, spread

TITLE = "Length and similarity"
CAPTION = (
    "Pearson's r and Spearman's ρ between a pair's number of tokens and its cosine before training, its cosine after "
    "training and its gain, over all pairs; and the mean gain of single-word and of longer pairs."
)
SOURCE = ("train", "base-rows", "similarity")
SIDES = ("swahili", "english")
MEASURED = ("before", "after", "gain")
COLUMNS = (
    *VIEW_COLUMNS,
    Column("class", "pairs", id=True),
    Column("n", "n", "count"),
    Column("gain", "mean gain", "cosine_change"),
    *(
        Column(f"{key}_{name}", f"{symbol}, {name}", "ratio")
        for name in MEASURED
        for key, symbol in (("r", "r"), ("rho", "ρ"))
    ),
)
Pair = tuple[str, str]  # set and item


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """At each named view and its neighbours: all pairs, then each class of length."""
    train, similarity = results.of("train"), results.of("similarity")
    tokens = {pair: sum(sides) for pair, sides in _of_pairs(train, "tokens").items()}
    words = {pair: max(sides) for pair, sides in _of_pairs(train, "words").items()}
    for view in grid(params, "nf4", "fp4"):
        pairs, before, after = zip(*_cosines(similarity, view), strict=True)
        gain = [y - x for x, y in zip(before, after, strict=True)]
        length = [tokens[pair] for pair in pairs]
        measured = dict(zip(MEASURED, (before, after, gain), strict=True))
        correlations = {name: correlation(length, values) for name, values in measured.items()}
        classes = {
            "all": gain,
            "single": [value for pair, value in zip(pairs, gain, strict=True) if words[pair] == 1],
            "several": [value for pair, value in zip(pairs, gain, strict=True) if words[pair] > 1],
        }
        for name, gains in classes.items():
            of_class = spread(gains)
            row: dict[str, Cell] = {**at(view, params), "class": name, "n": of_class.n, "gain": of_class.mean}
            if name == "all":
                row |= {f"r_{key}": values.pearson for key, values in correlations.items()}
                row |= {f"rho_{key}": values.spearman for key, values in correlations.items()}
            yield {**row, "note": [values.note for values in correlations.values()]}


def _of_pairs(train: Rows, measure: str) -> dict[Pair, tuple[float, float]]:
    """Pair -> the measure (tokens or words) of its Swahili and of its English form."""
    swahili, english = (
        {
            (set_, item): value
            for set_ in PAIR_SETS
            for item, value in train.each("base", set_, "-", f"{measure}.{side}").items()
        }
        for side in SIDES
    )
    return {pair: (swahili[pair], english[pair]) for pair in swahili}


def _cosines(similarity: Rows, view: str) -> Iterator[tuple[Pair, float, float]]:
    """Each pair of both sets with its cosine before and after training."""
    for set_ in PAIR_SETS:
        before, after = similarity.matched(("base", "main"), set_, view, "cosine")
        items = similarity.each("base", set_, view, "cosine")
        yield from zip(((set_, item) for item in items), before, after, strict=True)


def notes(results: Results, params: Params) -> list[str]:
    """How length is counted, and what the classes are."""
    return [
        "number of tokens: of both sides together, without BOS and EOS",
        "single: one word on each side; several: two or more words on a side",
    ]
