"""Accuracy of every set by rank: the base, the sweep and the paper's configuration, with the change against rank 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from tli.analysis.changes import bootstrap
from tli.analysis.outcomes import by_item, tidy
from tli.analysis.premises import of_items
from tli.analysis.results import Results, Rows, run_name
from tli.analysis.scores import SCORING, accuracy, all_sets, cells, each, flips, notes_on, set_columns, single
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params
from tli.stats.bootstrap import Bootstrap, paired_bootstrap
from tli.stats.descriptive import spread

TITLE = "Accuracy by rank"
CAPTION = (
    "Accuracy in percent of the base (rank 0), of each rank of the sweep (mean and SD over seeds) and of the paper's "
    "configuration; change against rank 0 in points, with {params.stats.confidence:.0%} intervals and exact McNemar "
    "tests."
)
SOURCE = ("base-rows", "score", "sweep-score", "benchmarks")
VIEW = SCORING


def columns(results: Results, params: Params) -> list[Column]:
    """Those of the sets, then of the run."""
    return [
        *set_columns(all_sets(results, params)),
        Column("n", "n", "count"),
        Column("run", "run", id=True),
        Column("rank", "rank", "count", id=True),
        Column("seeds", "seeds", "count"),
        Column("accuracy", "accuracy", "percent"),
        Column("sd", "SD", "percent"),
        Column("low", "CI low", "percent"),
        Column("high", "CI high", "percent"),
        Column("change", "change", "points"),
        Column("change_sd", "SD", "percent"),
        Column("change_low", "CI low", "points"),
        Column("change_high", "CI high", "points"),
        Column("p_median", "median p", "p"),
        Column("significant", f"seeds with p < {params.stats.alpha:.2g}", "flips"),
        Column("won", "won", "flips"),
        Column("lost", "lost", "flips"),
    ]


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """Per set: the base, every rank of the sweep that was scored on it, the paper's configuration."""
    scores, sets = results.of("score"), all_sets(results, params)
    for scored in sets:
        set_ = scored.set
        right = by_item(results, set_, "correct", params)
        items = each(scores, "base", set_, "correct")
        premises = of_items(results.premises, set_, items)
        first = {**cells(scored, sets, params), "n": len(items)}
        distinct = len(set(premises))
        note = f"{set_}: {len(items):,} items share {distinct:,} premises" if distinct < len(items) else ""
        yield {**first, "run": "base", "rank": 0, **single(scores, "base", set_, params), "note": note}
        untested: dict[str, Cell] = dict.fromkeys(("p_median", "significant")) if scored.at_chance else {}
        for rank in right.ranks:
            runs = [run_name(rank, seed) for _, seed, of_run in right.tuned if of_run == rank]
            over_seeds = spread([accuracy(scores, run, set_) for run in runs])
            row: dict[str, Cell] = {"run": "sweep", "rank": rank, "accuracy": over_seeds.mean, "sd": over_seeds.sd}
            change = _change(scores, runs, set_, bootstrap(right, rank, 100.0, params), params)
            yield {**first, **row, **change, **untested}
        row = {"run": "main", "rank": params.lora.rank, **single(scores, "main", set_, params)}
        change = _change(scores, ["main"], set_, _of_main(scores, set_, premises, params), params)
        yield {**first, **row, **change, **untested}


def _of_main(scores: Rows, set_: str, premises: Sequence[str], params: Params) -> Bootstrap:
    """The paired bootstrap of the paper's configuration against the base over premises, in points."""
    before, after = (each(scores, run, set_, "correct") for run in ("base", "main"))
    return paired_bootstrap(
        [100 * right for right in before.values()],
        [100 * after[item] for item in before],
        draws=params.stats.bootstrap.draws,
        seed=params.stats.bootstrap.seed,
        confidence=params.stats.confidence,
        groups=premises,
    )


def _change(scores: Rows, runs: Sequence[str], set_: str, interval: Bootstrap, params: Params) -> dict[str, Cell]:
    """The mean change over `runs` in points, and McNemar's test of each run."""
    base = accuracy(scores, "base", set_)
    over_seeds = spread([accuracy(scores, run, set_) - base for run in runs])
    tests = [flips(scores, run, set_) for run in runs]
    p = [test.p for test in tests if test.p is not None]
    return {
        "seeds": len(runs),
        "change": over_seeds.mean,
        "change_sd": over_seeds.sd,
        "change_low": tidy(interval.low),
        "change_high": tidy(interval.high),
        "p_median": median(p) if p else None,
        "significant": sum(value < params.stats.alpha for value in p),
        "won": sum(test.won for test in tests),
        "lost": sum(test.lost for test in tests),
    }


def notes(results: Results, params: Params) -> list[str]:
    """How intervals and tests are made."""
    return [
        "intervals: Wilson's of the accuracy of a single model; of the change the bootstrap over seeds and the items' "
        "premises, or over premises alone for the paper's configuration, a single adapter",
        "McNemar: each seed against rank 0 on the same items, taken as independent; the median of the seeds' p (not "
        "corrected for the number of tests), and the items won and lost, summed over seeds",
        "`-`: undefined (the SD of one seed, p where no item flips) or not given (Wilson's interval over seeds)",
        *notes_on(all_sets(results, params), results.metrics["benchmarks"], params),
    ]
