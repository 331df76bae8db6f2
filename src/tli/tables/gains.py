"""The gain of trained pairs against that of control pairs and of random pairs, beside the published values."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis import published
from tli.analysis.results import Results
from tli.analysis.table import Cell, Column
from tli.analysis.views import INTERVAL, PAIR_SETS, VIEW_COLUMNS, at, comparison, grid, left_out
from tli.config.parameters import Params
from tli.stats import t_tests
from tli.stats.descriptive import mean

TITLE = "What the gain is compared with"
CAPTION = (
    "Mean gain in cosine of the paper's configuration over the base: trained against control pairs (two-sided Welch "
    "test, {params.stats.confidence:.0%} interval of the difference), and translations against random pairs; excess = "
    "gain − gain of random pairs."
)
SOURCE = ("base-rows", "similarity")
TESTED = ("difference", "low", "high", "t", "df", "p")
COLUMNS = (
    Column("values", "values", id=True),
    *VIEW_COLUMNS,
    Column("trained", "trained", "cosine_change"),
    Column("control", "control", "cosine_change"),
    Column("difference", "trained − control", "cosine_change"),
    *INTERVAL,
    Column("t", "Welch t", "t"),
    Column("df", "df", "number"),
    Column("p", "p", "p"),
    Column("random_trained", "random, trained", "cosine_change"),
    Column("random_control", "random, control", "cosine_change"),
    Column("excess_trained", "excess, trained", "cosine_change"),
    Column("excess_control", "excess, control", "cosine_change"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """At each named view and its neighbours: this run, and the published values where they may be read."""
    similarity = results.of("similarity")
    for view in grid(params, "nf4", "fp4"):
        gains = {}
        row: dict[str, Cell] = {"values": "run", **at(view, params)}
        for set_ in PAIR_SETS:
            before, after = similarity.matched(("base", "main"), set_, view, "cosine")
            gains[set_] = [y - x for x, y in zip(before, after, strict=True)]
            gain = mean(gains[set_])
            random = comparison(similarity, set_, view, params, "random_cosine").gain or 0.0
            row |= {set_: gain, f"random_{set_}": random, f"excess_{set_}": gain - random}
        test = t_tests.welch(gains["trained"], gains["control"], params.stats.confidence)
        yield {**row, **_tested(test), "note": test.note}
        for name, reading in published.readings(params).items():
            if reading == view:
                values = results.published["before_after"]
                yield {
                    "values": "published",
                    "view": published.own_view(name, results.published),
                    "name": name,
                    **{set_: values[set_]["gain"] for set_ in PAIR_SETS},
                    **_tested(published.difference(results.published, params)),
                }


def _tested(test: t_tests.Welch) -> dict[str, Cell]:
    return {key: value for key, value in test._asdict().items() if key in TESTED}


def notes(results: Results, params: Params) -> list[str]:
    """What random pairs are, how FP4 was made, whose the published values are, what a cut model lacks."""
    return [
        "random pairs: the same Swahili forms, each with the English form of another pair of its set",
        "the published Welch test follows from the published n, means and SDs",
        published.said_of_fp4(params),
        published.READ_AS,
        published.whose(params),
        left_out(params),
    ]
