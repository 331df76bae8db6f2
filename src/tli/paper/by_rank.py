"""The rank sweep: LoRA rank on alignment, and on XCOPA and XNLI by language, against rank 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from tli.analysis.outcomes import Source, by_item, tidy
from tli.analysis.premises import of_items
from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured, Rows, Sweep, cell
from tli.analysis.scores import (
    SCORING,
    Shown,
    accuracy,
    cells,
    columns,
    correct,
    each,
    flips,
    item_name,
    notes,
    said_of_items,
    shown,
    split,
)
from tli.analysis.views import PAIR_SETS, VIEW, WAYS, at, grid, points, trained_view
from tli.config.parameters import Params
from tli.paper.changes import bootstrap
from tli.stats import mcnemar, proportions
from tli.stats.bootstrap import Bootstrap, paired_bootstrap
from tli.stats.descriptive import mean, spread


def factor(rank: int, params: Params) -> float:
    """What LoRA multiplies B A with: 2 (`2r`), 32 / r (`fixed32`), 8 / sqrt(r) (`rslora`)."""
    return {"2r": 2.0, "fixed32": 32 / rank, "rslora": 8 / math.sqrt(rank)}[params.lora.scaling]


def ranks(align: Rows, sweep: Sweep, params: Params) -> Made:
    """Cosine, gain and retrieval by LoRA rank, mean and SD over seeds, rank 0 first."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes = []
    wanted = [*points(params).values(), "2.content.nf4"]
    for view in [view for view in grid(params, "nf4") if view in wanted]:
        start = {set_: align.one("base", set_, view, "cosine_mean") for set_ in PAIR_SETS}
        hits: dict[str, Cell] = {f"p1_{way}": align.one("base", "all", view, f"p_at_1.{way}") for way in WAYS}
        rows.append({**at(view, params), "rank": 0, **start, **hits})
        for rank in params.sweep.ranks:
            row = at(view, params) | _adapter(sweep, rank, params)
            found = {
                set_: _over_seeds(sweep.align[rank], rank, set_, view, "cosine_mean", params) for set_ in PAIR_SETS
            }
            for set_, values in found.items():
                after = spread(values)
                gain = spread([value - start[set_] for value in values])
                notes.append(after.note)
                row |= {set_: after.mean, f"gain_{set_}": gain.mean, f"gain_sd_{set_}": gain.sd}
                measured[f"sweep.r{rank}.gain_mean.{set_}.{view}"] = gain.mean
                measured[f"sweep.r{rank}.gain_sd.{set_}.{view}"] = gain.sd
            for way in WAYS:
                hit = spread(_over_seeds(sweep.align[rank], rank, "all", view, f"p_at_1.{way}", params))
                row |= {f"p1_{way}": hit.mean, f"p1_{way}_sd": hit.sd}
                measured[f"sweep.r{rank}.p1_{way}.{view}"] = hit.mean
            rows.append(row)
    table = Table(
        "ranks",
        "LoRA rank and alignment",
        "Mean cosine of the word pairs, its gain over rank 0 and P@1 among all pairs, mean and SD over "
        f"{len(params.sweep.seeds)} seeds a rank; rank 0 is the base model. Scaling `{params.lora.scaling}`; the "
        "factor is what B A is multiplied by. r ÷ min is the rank over the smaller width, d_in or d_out, of that "
        "projection.",
        (
            *VIEW,
            Column("rank", "rank", "count"),
            Column("factor", "factor", "number"),
            Column("parameters", "trained parameters", "count"),
            *(Column(f"share_{target}", f"r ÷ min, {target}", "number") for target in params.lora.targets),
            Column("loss_last", "loss, last epoch", "similarity"),
            *(
                column
                for set_ in PAIR_SETS
                for column in (
                    Column(set_, f"{set_} cosine", "similarity"),
                    Column(f"gain_{set_}", f"{set_} gain", "change"),
                    Column(f"gain_sd_{set_}", "SD", "similarity"),
                )
            ),
            *(
                column
                for way, arrow in WAYS.items()
                for column in (Column(f"p1_{way}", f"P@1 {arrow}", "score"), Column(f"p1_{way}_sd", "SD", "score"))
            ),
        ),
        rows,
        notes=notes,
    )
    return Made(table, measured)


def _over_seeds(rows: Rows, rank: int, set_: str, view: str, measure: str, params: Params) -> list[float]:
    return [rows.one(cell(rank, seed), set_, view, measure) for seed in params.sweep.seeds]


def _adapter(sweep: Sweep, rank: int, params: Params) -> dict[str, Cell]:
    """What a rank's adapters are: factor, trained parameters, last epoch's loss, share of each projection's width."""
    train, view = sweep.train[rank], trained_view(params)
    return {
        "rank": rank,
        "factor": factor(rank, params),
        "parameters": int(train.one(cell(rank, params.sweep.seeds[0]), "trained", view, "trainable_parameters")),
        "loss_last": mean(_over_seeds(train, rank, "trained", view, "loss_last", params)),
        **{f"share_{target}": rank / min(params.widths(target)) for target in params.lora.targets},
    }


def transfer_by_rank(task: str, source: Source, counts: Measured, params: Params) -> Made:
    """Accuracy by language and rank, and the change against rank 0 item by item.

    `counts` are the metrics of the stage `benchmarks`, which say what split is scored.
    """
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    alpha = params.stats.alpha
    transfer = source.transfer
    notes_ = []
    tabled = shown(transfer, counts, params, task)
    sizes = {one.set: len(correct(transfer, "base", one.set)) for one in tabled}
    alike = len(set(sizes.values())) == 1
    for one in tabled:
        set_, first = one.set, cells(one, tabled) | ({} if alike else {"n": sizes[one.set]})
        base = accuracy(transfer, "base", set_)
        values = by_item([source], set_, "correct", params)
        groups = of_items(source.premises, set_, each(transfer, "base", set_, "correct"))
        notes_.append(_premises(one, groups))
        rows.append({**first, "cell": "base", "rank": 0, **_single(transfer, "base", set_, params)})
        measured[f"transfer.{set_}.base.accuracy"] = base
        for rank in params.sweep.ranks:
            found = source.sweep.transfer[rank]
            names = [cell(rank, seed) for seed in params.sweep.seeds]
            scores = [accuracy(found, which, set_) for which in names]
            over = spread(scores)
            tests = [flips(transfer, found, which, set_) for which in names]
            drawn = bootstrap(values, rank, 100.0, params)
            rows.append(
                {
                    **first,
                    "cell": "sweep",
                    "rank": rank,
                    "seeds": len(names),
                    "accuracy": over.mean,
                    "sd": over.sd,
                    **_change([score - base for score in scores], tests, drawn, alpha),
                }
            )
            measured[f"sweep.r{rank}.accuracy_mean.{set_}"] = over.mean
            measured[f"sweep.r{rank}.accuracy_sd.{set_}"] = over.sd
        test = flips(transfer, transfer, "main", set_)
        main = accuracy(transfer, "main", set_)
        row = {**first, "cell": "paper's cell", "rank": params.lora.rank, "seeds": 1}
        drawn = _of_one(transfer, set_, groups, params)
        rows.append(row | _single(transfer, "main", set_, params) | _change([main - base], [test], drawn, alpha))
        measured |= {
            f"transfer.{set_}.main.{key}": value for key, value in (("accuracy", main), ("change", main - base))
        }
        measured |= {f"transfer.{set_}.main.{key}": value for key, value in (("won", test.won), ("lost", test.lost))}
    many = f" ({sizes[tabled[0].set]} items a language)" if alike else ""
    percent = f"{100 * params.stats.confidence:.9g} %"
    table = Table(
        task,
        f"{item_name(task, params)} items by language and rank",
        f"Accuracy in percent on the {split(tabled)}{many}, mean and SD over seeds, with Wilson's "
        f"{percent} interval for the base and the paper's cell; change against rank 0 in points, item by item, "
        "with the interval of the bootstrap over seeds and the items' premises (of the paper's cell, one adapter: over "
        "premises), and the exact McNemar test of each seed: the median of the seeds' p, how many seeds have p < "
        f"{alpha:.2g} (not corrected for the number of tests), and the items won and lost, summed over seeds. "
        f"{said_of_items(params)}".rstrip(),
        (
            *columns(tabled),
            *([] if alike else [Column("n", "n", "count")]),
            Column("cell", "cell"),
            Column("rank", "rank", "count"),
            Column("seeds", "seeds", "count"),
            Column("accuracy", "accuracy", "percent"),
            Column("sd", "SD", "percent"),
            Column("low", f"{percent} low", "percent"),
            Column("high", f"{percent} high", "percent"),
            Column("change", "change", "points"),
            Column("change_sd", "SD", "percent"),
            Column("change_low", f"{percent} low", "points"),
            Column("change_high", f"{percent} high", "points"),
            Column("p_median", "median p", "p"),
            Column("significant", "seeds below", "count"),
            Column("won", "won", "count"),
            Column("lost", "lost", "count"),
        ),
        rows,
        view=SCORING,
        notes=[
            "`-`: not defined (an SD of one seed, a p where no item flips) or not given (an interval over seeds)",
            *notes_,
            *notes(tabled, counts, params, task),
        ],
    )
    return Made(table, measured)


def _single(rows: Rows, which: str, set_: str, params: Params) -> dict[str, Cell]:
    """One model's accuracy with Wilson's interval, in percent."""
    right = correct(rows, which, set_)
    found = proportions.wilson(sum(right), len(right), params.stats.confidence)
    low, high = (None, None) if found is None else (100 * found[0], 100 * found[1])
    return {"accuracy": accuracy(rows, which, set_), "low": low, "high": high}


def _of_one(transfer: Rows, set_: str, groups: Sequence[str], params: Params) -> Bootstrap:
    """The paired bootstrap of the paper's cell against the base, in points."""
    before, after = (each(transfer, which, set_, "correct") for which in ("base", "main"))
    drawn = params.stats.bootstrap
    return paired_bootstrap(
        [100 * right for right in before.values()],
        [100 * after[item] for item in before],
        draws=drawn.draws,
        seed=drawn.seed,
        confidence=params.stats.confidence,
        groups=groups,
    )


def _premises(one: Shown, groups: Sequence[str]) -> str:
    """How far the items of a set are not independent."""
    found = len(set(groups))
    if found == len(groups):
        return ""
    return (
        f"{one.language}: {len(groups):,} items stand on {found:,} premises; McNemar's test takes the items as "
        "independent, the intervals of the change do not"
    )


def _change(
    changes: Sequence[float], tests: Sequence[mcnemar.McNemar], drawn: Bootstrap, alpha: float
) -> dict[str, Cell]:
    """Change in points with its interval, and the seeds' McNemar tests in short."""
    over, defined = spread(changes), [test.p for test in tests if test.p is not None]
    return {
        "change": over.mean,
        "change_sd": over.sd,
        "change_low": tidy(drawn.low),
        "change_high": tidy(drawn.high),
        "p_median": median(defined) if defined else None,
        "significant": sum(p < alpha for p in defined),
        "won": sum(test.won for test in tests),
        "lost": sum(test.lost for test in tests),
    }
