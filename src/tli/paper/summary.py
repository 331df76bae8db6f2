"""The robustness tables: what any rank does against rank 0, what the rank adds, and a sentence for each outcome.

The sentences are chosen by the tests' verdicts and filled with the tables' own numbers (`said`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tli.analysis.effects import Effect, verdict
from tli.analysis.outcomes import Outcome, scope, tidy
from tli.analysis.render import Cell, Column, Kind, Made, Table, shown
from tli.analysis.results import Measured
from tli.analysis.scores import said_of_items
from tli.config.parameters import Params
from tli.paper.inference import count_bases, ends, equivalences, notes_of, odds, percent, said_of_units, share, trends
from tli.stats.equivalence import BOTH, DIFFERENT, EQUIVALENT, NEITHER

SHORT = {
    EQUIVALENT: "equivalent",
    BOTH: "differs within margin",
    DIFFERENT: "differs",
    NEITHER: "cannot tell",
    None: "undefined",
}


def tables(effects: Sequence[Effect], params: Params) -> list[Made]:
    """The summaries of transfer and of alignment, then the tests behind them."""
    transfer = [one for one in effects if one.outcome.answers]
    found = [
        summary("robustness", "Robustness of transfer", transfer, params),
        summary("robustness_alignment", "Robustness of alignment", [x for x in effects if x not in transfer], params),
        trends(effects, params),
        equivalences(effects, params),
        odds(transfer, params),
    ]
    return [one for one in found if one.table.rows]


def summary(name: str, title: str, effects: Sequence[Effect], params: Params) -> Made:
    """One row an outcome: rank 0, any rank against it, the lowest against the highest rank, the verdict."""
    accuracy = all(one.outcome.answers for one in effects)
    change: Kind = "points" if accuracy else "change"
    size: Kind = "percent" if accuracy else "similarity"
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for one in effects:
        key = one.outcome.key
        measured |= {f"rank.change.{key}": one.change, f"rank.worst.{key}": one.by_rank[one.worst]}
        measured |= {f"rank.range.{key}": one.range, f"rank.p.{key}": one.p["change"]}
        rows.append(
            {
                "outcome": one.outcome.name,
                "start": tidy(one.outcome.values.at_zero),
                "change": tidy(one.change),
                "low": tidy(one.low),
                "high": tidy(one.high),
                "p_holm": one.p_holm["change"],
                "span": None if one.trend.slope is None else tidy(one.trend.slope * one.doublings),
                "span_p_holm": one.p_holm["trend"],
                "range": tidy(one.range),
                "worst": one.worst,
                "worst_change": tidy(one.by_rank[one.worst]),
                "detectable": tidy(one.detectable),
                "verdict": SHORT[verdict(one, params.stats.alpha)],
            }
        )
    level = percent(params)
    unit = "Accuracy in percent, changes in points." if accuracy else "Cosines, and P@1 as a share."
    over = f"the cluster bootstrap over {'bases, ' if count_bases(effects) > 1 else ''}seeds and "
    over += "items" if accuracy else "word pairs (of P@1: Student's t over the units of the fit)"
    tests = "GEE over items" if accuracy else "the paired t-test over word pairs (of P@1: t over the same units)"
    columns = [
        Column("outcome", "outcome"),
        Column("start", "rank 0", size),
        Column("change", "mean of ranks − rank 0", change),
        Column("low", f"{level} low", change),
        Column("high", f"{level} high", change),
        Column("p_holm", "p, Holm", "p"),
        Column("span", f"{ends(params)}, fitted", change),
        Column("span_p_holm", "p, Holm", "p"),
        Column("range", "range over ranks", size),
        Column("worst", "worst rank", "count"),
        Column("worst_change", "its change", change),
        Column("detectable", "detectable", size),
        Column("verdict", "verdict, these items"),
    ]
    table = Table(
        name,
        title,
        f"{unit} Mean of ranks: over ranks {ends(params)} and their seeds, against rank 0, with the interval of "
        f"{over} and the p of {tests}; told apart from 0 where both say so. "
        "Fitted: the change from the lowest to the highest rank on a line in log2(rank), "
        f"its t over {said_of_units(effects)}; detectable: the smallest such change that an uncorrected test at "
        f"{params.stats.alpha:.2g} would have found with power {params.stats.power:g}. Verdict on the rank, by p "
        "corrected by Holm within the declared family: equivalent (a change as large as the margin is rejected), "
        "differs, or the data cannot tell. It takes the items as given; the sentences add the interval with items "
        f"resampled too. {said_of_items(params) if accuracy else ''}".rstrip(),
        columns,
        rows,
        view=effects[0].outcome.view if effects else "-",
        notes=[counted(effects, params), *(said(one, params) for one in effects), *notes_of(effects)],
    )
    return Made(table, measured)


def counted(effects: Sequence[Effect], params: Params) -> str:
    """The verdicts in one sentence."""
    ways = Counter(way(one, params) or "undefined" for one in effects)
    found = Counter(SHORT[verdict(one, params.stats.alpha)] for one in effects)
    order = ("below", "above", "not told apart", "undefined")
    first = ", ".join(f"{where} in {ways[where]}" for where in order if ways[where])
    second = ", ".join(f"{word} in {found[word]}" for word in SHORT.values() if found[word])
    return f"Of {len(effects)} outcomes, mean of the ranks against rank 0: {first}; verdict on the rank: {second}"


def way(one: Effect, params: Params) -> str | None:
    """Where the mean of the ranks lies against rank 0: by the corrected test, which takes the adapters as given, and by
    the interval, which resamples them too; apart where both say so."""
    p = one.p_holm["change"]
    if p is None or one.low is None or one.high is None:
        return None
    apart = p < params.stats.alpha and not one.low <= 0 <= one.high
    return "not told apart" if not apart else "above" if one.change > 0 else "below"


def said(one: Effect, params: Params) -> str:
    """The verdict on an outcome as a sentence, filled with its numbers."""
    number, lies = _Numbers(one.outcome), way(one, params)
    name = one.outcome.name[:1].upper() + one.outcome.name[1:]
    interval = number.interval(one.low, one.high, params.stats.confidence)
    if lies is None:
        first = f"the mean of the ranks against rank 0 is {number(one.change)}, without a test"
    elif lies == "not told apart":
        first = f"the mean of the ranks is not told apart from rank 0: {number(one.change)}{interval}"
    else:
        first = f"the mean of the ranks lies {number.size(one.change)} {lies} rank 0{interval}"
    worst = f"lowest at rank {one.worst} ({number(one.by_rank[one.worst])})"
    return f"{name}: {first}, {worst}; {_of_rank(one, number, params)}."


def _of_rank(one: Effect, number: _Numbers, params: Params) -> str:
    """The part of the sentence about the rank."""
    found, margin, span = verdict(one, params.stats.alpha), number.size(one.outcome.margin), one.span
    if found is None or span is None or span.estimate is None or span.low is None or span.high is None:
        return f"the rank has no test: {scope(one.trend.note)[0] if one.trend.note else 'no trend'}"
    along = f"from rank {ends(params)}"
    moved = f"{'rises' if span.estimate > 0 else 'falls'} by {number.size(span.estimate)} {along}"
    if found == EQUIVALENT:
        text = f"{along} it changes by less than the margin of {margin} (fitted {number(span.estimate)})"
    elif found == BOTH:
        text = f"it {moved}, less than the margin of {margin}"
    elif found == DIFFERENT:
        beyond = min(abs(span.low), abs(span.high)) > one.outcome.margin and span.low * span.high > 0
        text = f"it {moved}, {'more than' if beyond else 'not shown to be less than'} the margin of {margin}"
    else:
        seen = "-" if one.detectable is None else number.size(one.detectable)
        text = (
            f"whether the rank matters these data cannot tell: fitted {number(span.estimate)} {along}, the smallest "
            f"detectable before correction {seen}, the margin {margin}"
        )
    low, high = one.span_drawn.low, one.span_drawn.high
    if low is not None and high is not None:
        text += f"; with items resampled too{number.interval(low, high, 1 - 2 * params.stats.alpha)}"
        beside = ["exceeds the margin"] if found in (EQUIVALENT, BOTH) and max(-low, high) >= one.outcome.margin else []
        beside += ["includes 0"] if found in (DIFFERENT, BOTH) and low <= 0 <= high else []
        text += f", which {' and '.join(beside)}" if beside else ""
    if found in (EQUIVALENT, BOTH) and one.range >= one.outcome.margin:
        text += f"; yet the ranks' means lie up to {number.size(one.range)} apart, which a line does not see"
    return text


class _Numbers:
    """Numbers in prose: signed, or their size; points for accuracies."""

    def __init__(self, outcome: Outcome) -> None:
        self.points = outcome.answers

    def __call__(self, value: float) -> str:
        return shown(tidy(value), "points" if self.points else "change").replace("-", "−")

    def interval(self, low: float | None, high: float | None, confidence: float) -> str:
        """` (95 % interval a to b)`, or nothing."""
        return "" if low is None or high is None else f" ({share(confidence)} interval {self(low)} to {self(high)})"

    def size(self, value: float) -> str:
        size = tidy(abs(value))
        return f"{shown(size, 'percent')} points" if self.points else shown(size, "similarity")
