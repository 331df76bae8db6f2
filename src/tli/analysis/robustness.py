"""What the tables of the rank study share: effects of one model, words for verdicts, and a sentence for each outcome.

The sentences are chosen by the tests' verdicts and filled with the tables' own numbers. Feeds the tables robustness,
robustness_alignment, trends, equivalence and odds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from tli.analysis.effects import Effect, effects, verdict
from tli.analysis.outcomes import Outcome, outcomes, scope, tidy
from tli.analysis.results import Results
from tli.analysis.scores import AT_CHANCE, CHANCE_NOTE
from tli.analysis.table import Cell, Column, Kind, shown
from tli.config.parameters import Params
from tli.stats.equivalence import BOTH, DIFFERENT, EQUIVALENT, NEITHER

OUTCOME_COLUMNS = (Column("key", "key", id=True), Column("outcome", "outcome"))
VIEW_OF_SCORES = "scores, NF4"  # of an accuracy, in a table of several views
VERDICTS = {
    EQUIVALENT: "equivalent",
    BOTH: "differs within margin",
    DIFFERENT: "differs",
    NEITHER: "cannot tell",
    AT_CHANCE: AT_CHANCE,
    None: "undefined",
}
NOT_APART = "not told apart"

_computed: WeakKeyDictionary[Results, tuple[Params, list[Effect]]] = WeakKeyDictionary()


def effects_of(results: Results, params: Params) -> list[Effect]:
    """The effects of every outcome of one model. They are computed once: five tables read them."""
    known, computed = _computed.get(results, (None, []))
    if known is not params:
        computed = effects(outcomes(results, params), params)
        _computed[results] = (params, computed)
    return computed


def of_scores(results: Results, params: Params) -> list[Effect]:
    """The effects on accuracies; none where the model has no benchmarks."""
    return [effect for effect in effects_of(results, params) if effect.outcome.answers]


def of_similarity(results: Results, params: Params) -> list[Effect]:
    """The effects on cosines and retrieval."""
    return [effect for effect in effects_of(results, params) if not effect.outcome.answers]


def outcome_cells(effect: Effect) -> dict[str, Cell]:
    """The cells of OUTCOME_COLUMNS."""
    return {"key": effect.outcome.key, "outcome": effect.outcome.name}


def tested_cells(effect: Effect) -> dict[str, Cell]:
    """The first cells of the tables of tests: the outcome, its family, its view."""
    view = VIEW_OF_SCORES if effect.outcome.answers else effect.outcome.view
    return {**outcome_cells(effect), "family": effect.outcome.family, "view": view}


def summary_columns(size: Kind, change: Kind) -> tuple[Column, ...]:
    """The columns of `summary_rows`, but those of the outcome; the kinds of a value and of a change."""
    return (
        Column("start", "rank 0", size),
        Column("change", "mean of ranks − rank 0", change),
        Column("low", "CI low", change),
        Column("high", "CI high", change),
        Column("p", "p", "p"),
        Column("p_holm", "p, Holm", "p"),
        Column("span", "lowest to highest rank, fitted", change),
        Column("span_p_holm", "p, Holm", "p"),
        Column("range", "range over ranks", size),
        Column("worst", "worst rank", "count"),
        Column("worst_change", "its change", change),
        Column("detectable", "detectable", size),
        Column("verdict", "verdict, these items"),
    )


def summary_rows(measured: Sequence[Effect], params: Params) -> Iterator[dict[str, Cell]]:
    """One row per outcome: rank 0, all ranks against it, the lowest against the highest rank, the verdict."""
    for effect in measured:
        slope = effect.trend.slope
        yield {
            **outcome_cells(effect),
            "start": tidy(effect.outcome.values.at_zero),
            "change": tidy(effect.change),
            "low": tidy(effect.low),
            "high": tidy(effect.high),
            "p": effect.p["change"],
            "p_holm": effect.p_holm["change"],
            "span": None if slope is None else tidy(slope * effect.doublings),
            "span_p_holm": effect.p_holm["trend"],
            "range": tidy(effect.range),
            "worst": effect.worst,
            "worst_change": tidy(effect.by_rank[effect.worst]),
            "detectable": tidy(effect.detectable),
            "verdict": VERDICTS[verdict(effect, params.stats.alpha)],
        }


def summary_notes(measured: Sequence[Effect], params: Params) -> list[str]:
    """The verdicts counted, a sentence for each outcome, then how the numbers are computed; none without outcomes."""
    if not measured:
        return []
    chosen = params.stats
    answers = all(effect.outcome.answers for effect in measured)
    over = f"{'bases, ' if count_bases(measured) > 1 else ''}seeds and {'items' if answers else 'word pairs'}"
    students_t = "" if answers else " (of P@1: Student's t over the units of the fit)"
    test = "GEE over items" if answers else "the paired t-test over word pairs (of P@1: t over the same units)"
    return [
        counted(measured, params),
        *(sentence(effect, params) for effect in measured),
        f"Mean of ranks: over ranks {ends(params)} and their seeds. Its interval is that of the cluster bootstrap over "
        f"{over}{students_t}, its p that of {test}. It differs from rank 0 where both say so.",
        f"Fitted: the change from the lowest to the highest rank on a line in log2(rank), its t over "
        f"{units(measured)}. "
        f"Detectable: the smallest such change that an uncorrected test at {chosen.alpha:.2g} finds with power "
        f"{chosen.power:g}.",
        "Verdict on the rank, by p corrected by Holm within the declared family: equivalent (a change as large as the "
        "margin is rejected), differs, or the data cannot tell. It takes the items as given; the sentences add the "
        "interval with items resampled too.",
        *notes_of(measured),
    ]


def counted(measured: Sequence[Effect], params: Params) -> str:
    """The verdicts in one sentence."""
    tested = [effect for effect in measured if not effect.outcome.at_chance]
    places = Counter(against_zero(effect, params) or "undefined" for effect in tested)
    words = Counter(VERDICTS[verdict(effect, params.stats.alpha)] for effect in tested)
    order = ("below", "above", NOT_APART, "undefined")
    first = ", ".join(f"{place} in {places[place]}" for place in order if places[place])
    second = ", ".join(f"{word} in {words[word]}" for word in VERDICTS.values() if words[word])
    parts = [f"mean of the ranks against rank 0: {first}", f"verdict on the rank: {second}"] if tested else []
    untested = len(measured) - len(tested)
    parts += [f"{AT_CHANCE}: no loss could show in {untested}"] if untested else []
    return f"Of {len(measured)} outcomes, {'; '.join(parts)}"


def against_zero(effect: Effect, params: Params) -> str | None:
    """Whether the mean of the ranks is `above` or `below` rank 0, or NOT_APART; None where either test is undefined.

    It differs where the corrected test, which takes the adapters as given, and the interval, which resamples them too,
    both say so. AT_CHANCE where no loss could show.
    """
    if effect.outcome.at_chance:
        return AT_CHANCE
    p = effect.p_holm["change"]
    if p is None or effect.low is None or effect.high is None:
        return None
    apart = p < params.stats.alpha and not effect.low <= 0 <= effect.high
    return NOT_APART if not apart else "above" if effect.change > 0 else "below"


def sentence(effect: Effect, params: Params) -> str:
    """The verdict on an outcome in words, filled with its numbers."""
    number, place = _Numbers(effect.outcome), against_zero(effect, params)
    name = effect.outcome.name[:1].upper() + effect.outcome.name[1:]
    if effect.outcome.at_chance:
        return f"{name}: no loss could show."
    interval = number.interval(effect.low, effect.high, params.stats.confidence)
    if place is None:
        first = f"the mean of the ranks against rank 0 is {number(effect.change)}, without a test"
    elif place == NOT_APART:
        first = f"the mean of the ranks is not told apart from rank 0: {number(effect.change)}{interval}"
    else:
        first = f"the mean of the ranks lies {number.size(effect.change)} {place} rank 0{interval}"
    worst = f"lowest at rank {effect.worst} ({number(effect.by_rank[effect.worst])})"
    return f"{name}: {first}, {worst}; {_of_rank(effect, number, params)}."


def _of_rank(effect: Effect, number: _Numbers, params: Params) -> str:
    """The part of the sentence about the rank."""
    word, margin, span = verdict(effect, params.stats.alpha), number.size(effect.outcome.margin), effect.span
    if word is None or span is None or span.estimate is None or span.low is None or span.high is None:
        return f"the rank has no test: {scope(effect.trend.note)[0] if effect.trend.note else 'no trend'}"
    along = f"from rank {ends(params)}"
    moved = f"{'rises' if span.estimate > 0 else 'falls'} by {number.size(span.estimate)} {along}"
    if word == EQUIVALENT:
        text = f"{along} it changes by less than the margin of {margin} (fitted {number(span.estimate)})"
    elif word == BOTH:
        text = f"it {moved}, less than the margin of {margin}"
    elif word == DIFFERENT:
        beyond = min(abs(span.low), abs(span.high)) > effect.outcome.margin and span.low * span.high > 0
        text = f"it {moved}, {'more than' if beyond else 'not shown to be less than'} the margin of {margin}"
    else:
        smallest = "-" if effect.detectable is None else number.size(effect.detectable)
        text = (
            f"whether the rank matters these data cannot tell: fitted {number(span.estimate)} {along}, the smallest "
            f"detectable before correction {smallest}, the margin {margin}"
        )
    low, high = effect.span_drawn.low, effect.span_drawn.high
    if low is not None and high is not None:
        text += f"; with items resampled too{number.interval(low, high, 1 - 2 * params.stats.alpha)}"
        exceeds = word in (EQUIVALENT, BOTH) and max(-low, high) >= effect.outcome.margin
        beside = ["exceeds the margin"] if exceeds else []
        beside += ["includes 0"] if word in (DIFFERENT, BOTH) and low <= 0 <= high else []
        text += f", which {' and '.join(beside)}" if beside else ""
    if word in (EQUIVALENT, BOTH) and effect.range >= effect.outcome.margin:
        text += f"; yet the ranks' means lie up to {number.size(effect.range)} apart, which a line does not see"
    return text


class _Numbers:
    """Numbers in prose: signed, or their size; points for accuracies."""

    def __init__(self, outcome: Outcome) -> None:
        self.points = outcome.answers

    def __call__(self, value: float) -> str:
        return shown(tidy(value), "points" if self.points else "cosine_change").replace("-", "−")

    def interval(self, low: float | None, high: float | None, confidence: float) -> str:
        """` (95 % interval a to b)`, or nothing."""
        return "" if low is None or high is None else f" ({percent(confidence)} interval {self(low)} to {self(high)})"

    def size(self, value: float) -> str:
        size = tidy(abs(value))
        return f"{shown(size, 'percent')} points" if self.points else shown(size, "cosine")


def count_bases(measured: Sequence[Effect]) -> int:
    """The number of bases that the effects are over."""
    return max((len(effect.outcome.values.start) for effect in measured), default=0)


def units(measured: Sequence[Effect]) -> str:
    """What the t of a trend is over."""
    bases = count_bases(measured)
    return f"{bases} bases" if bases > 1 else "the seeds of one base: it says nothing of other bases"


def ends(params: Params) -> str:
    """The lowest and the highest rank of the sweep: `1 to 32`."""
    low, high = min(params.sweep.ranks), max(params.sweep.ranks)
    return f"{low}" if low == high else f"{low} to {high}"


def percent(confidence: float) -> str:
    return f"{100 * confidence:.9g} %"


def notes_of(measured: Sequence[Effect]) -> list[str]:
    """Each note of the statistics once, with its outcomes where it does not hold for all; what `at chance` means."""
    of: dict[str, list[str]] = {}
    for effect in measured:
        for note in filter(None, scope(effect.note)):
            of.setdefault(note, []).append(effect.outcome.name)
    notes = [note if len(names) == len(measured) else f"{'; '.join(names)}: {note}" for note, names in of.items()]
    return [*notes, *chance_notes(measured)]


def chance_notes(measured: Sequence[Effect]) -> list[str]:
    """What `at chance` means, where an outcome is."""
    return [CHANCE_NOTE] if any(effect.outcome.at_chance for effect in measured) else []
