"""Cosine of each word pair before and after training, with a paired t-test, beside the published values."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis import published
from tli.analysis.results import Results, Rows
from tli.analysis.table import Cell, Column
from tli.analysis.views import INTERVAL, PAIR_SETS, VIEW_COLUMNS, at, grid, left_out
from tli.config.parameters import Params
from tli.stats import t_tests

TITLE = "Before and after training"
CAPTION = (
    "Mean cosine of the word pairs in the base and in the paper's configuration (rank {params.lora.rank}, seed "
    "{params.train.seed}), two-sided paired t-test, {params.stats.confidence:.0%} interval of the mean gain, and d_z = "
    "mean gain ÷ SD of the gain."
)
SOURCE = ("base-rows", "similarity", "bfloat16")
TESTED = (
    "n",
    "before",
    "before_sd",
    "after",
    "after_sd",
    "gain",
    "gain_sd",
    "low",
    "high",
    "t",
    "p",
    "d_z",
    "decreased",
)
COLUMNS = (
    Column("values", "values", id=True),
    *VIEW_COLUMNS,
    Column("set", "set", id=True),
    Column("n", "n", "count"),
    Column("before", "before", "cosine"),
    Column("before_sd", "SD", "cosine"),
    Column("after", "after", "cosine"),
    Column("after_sd", "SD", "cosine"),
    Column("gain", "mean gain", "cosine_change"),
    Column("gain_sd", "SD of gain", "cosine"),
    *INTERVAL,
    Column("t", "t", "t"),
    Column("p", "p", "p"),
    Column("d_z", "d_z", "t"),
    Column("decreased", "pairs down", "flips"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """At each named view and its neighbours: this run, the run in bfloat16 if measured, the published values."""
    similarity, bfloat16 = results.of("similarity"), results.of("bfloat16")
    for view in grid(params, "nf4", "fp4"):
        for set_ in (*PAIR_SETS, "all"):
            test = _test(similarity, ("base", "main"), set_, view, params)
            yield {"values": "run", **at(view, params), "set": set_, **_tested(test), "note": test.note}
        for set_ in PAIR_SETS:
            if bfloat16.has("base-bfloat16", set_, view, "cosine"):
                test = _test(bfloat16, ("base-bfloat16", "main-bfloat16"), set_, view, params)
                yield {"values": "run in bfloat16", **at(view, params), "set": set_, **_tested(test)}
        for name, reading in published.readings(params).items():
            if reading == view:
                for set_ in PAIR_SETS:
                    values = results.published["before_after"][set_]
                    own_view = published.own_view(name, results.published)
                    row: dict[str, Cell] = {"values": "published", "view": own_view, "name": name, "set": set_}
                    row |= {key: values[key] for key in TESTED if key in values}
                    yield {**row, "p": float(values["p"])}


def _test(rows: Rows, runs: tuple[str, str], set_: str, view: str, params: Params) -> t_tests.Paired:
    """The paired t-test of a set; `all` is the trained and the control pairs together."""
    parts = [rows.matched(runs, part, view, "cosine") for part in (PAIR_SETS if set_ == "all" else (set_,))]
    before, after = ([value for part in parts for value in part[moment]] for moment in (0, 1))
    return t_tests.paired(before, after, params.stats.confidence)


def _tested(test: t_tests.Paired) -> dict[str, Cell]:
    return {key: value for key, value in test._asdict().items() if key in TESTED}


def notes(results: Results, params: Params) -> list[str]:
    """The test, how FP4 was made, whose the published values are, what a cut model lacks."""
    return [
        "paired t-test: df = n − 1",
        published.said_of_fp4(params),
        published.READ_AS,
        published.whose(params),
        left_out(params),
    ]
