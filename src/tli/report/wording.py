"""Sentences of the paper that depend on a result: sign, p and interval choose the sentence.

Each function reads the tables that it quotes and fills its sentence with their cells as the tables show them. A
difference is stated where p < alpha = 1 - stats.confidence; where there is no p, none is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tli.analysis.table import Table
from tli.analysis.views import WAYS, points, trained_view
from tli.config.parameters import Params
from tli.report.cells import ShownRow, shown_row, shown_rows

SETS = {"trained": "trained pairs", "control": "unseen pairs"}
RUN, PUBLISHED = "run", "published"  # of the column `values`


def p_value(row: ShownRow) -> str:
    """`p = 0.0123`, `p < 1e-4`, or `not tested`."""
    text = row.texts["p"]
    return "not tested" if text == "-" else f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def unsigned(text: str) -> str:
    """The size of a signed number."""
    return text.lstrip("+−")


def significant(row: ShownRow, alpha: float) -> bool:
    """Whether the row's test rejects that the value is 0."""
    p = row.number("p")
    return p is not None and p < alpha


def direction(row: ShownRow, key: str, alpha: float) -> str:
    """`rises`, `falls`, or that neither is shown."""
    return "is not shown to change" if not significant(row, alpha) else "rises" if row.mean(key) > 0 else "falls"


def training(table: Table, view: str, params: Params, where: str = "") -> str:
    """What training does to the mean cosine of the trained and of the unseen pairs at a view (before_after).

    Args:
        where: the view in other words than its name.
    """
    parts = []
    for set_, name in SETS.items():
        row = shown_row(table, values=RUN, view=view, set=set_)
        size = "" if row.number("d_z") is None else f", d_z = {row.texts['d_z']}"
        parts.append(
            f"of {name} {direction(row, 'gain', params.stats.alpha)}, from {row.texts['before']} to "
            f"{row.texts['after']} ({p_value(row)}{size})"
        )
    return f"{where or f'At `{view}`'} the mean cosine {' and that '.join(parts)}."


def unseen(table: Table, view: str, params: Params) -> str:
    """Whether trained pairs gain more than unseen ones (gains)."""
    return _unseen(shown_row(table, values=RUN, view=view), params.stats.alpha, "Here")


def unseen_published(table: Table, params: Params) -> str | None:
    """The same of the published summaries; None where the table does not show them."""
    rows = shown_rows(table, values=PUBLISHED)
    return _unseen(rows[0], params.stats.alpha, "In the published values") if rows else None


def _unseen(row: ShownRow, alpha: float, where: str) -> str:
    size = row.texts["difference"]
    if not significant(row, alpha):
        return f"{where} trained pairs and unseen pairs are not told apart by their gain: {size} ({p_value(row)})."
    more = "more" if row.mean("difference") > 0 else "less"
    return f"{where} trained pairs gain {more} than unseen pairs: {size} ({p_value(row)})."


def against_random(table: Table, view: str, params: Params) -> str:
    """How much more translations gain than random pairs, trained pairs at one view (controls)."""
    row = shown_row(table, view=view, set="trained", measure="cosine")
    first = f"The same Swahili words with another pair's English word change by {row.texts['random']}"
    if not significant(row, params.stats.alpha):
        return f"{first}: the gain of translations is not shown to exceed it ({p_value(row)})."
    excess, gain = row.mean("excess"), row.mean("gain")
    toward = "draw nearer to each other than random pairs do" if excess > 0 else "lose against random pairs"
    fall = ", though their own cosine falls" if excess > 0 > gain else ""
    return f"{first}: beside them translations {toward}, by {unsigned(row.texts['excess'])} ({p_value(row)}){fall}."


def survives(table: Table, params: Params) -> str:
    """In how many of the control rows that have a test translations gain more than random pairs (controls)."""
    tested = [row for row in shown_rows(table) if row.number("p") is not None]
    excesses = [row.mean("excess") for row in tested if significant(row, params.stats.alpha)]
    more, less = sum(excess > 0 for excess in excesses), sum(excess < 0 for excess in excesses)
    return (
        f"Of the {len(tested)} control rows that have a test, translations gain more than random pairs in {more}, less "
        f"in {less}, and are not told apart from them in {len(tested) - more - less}, by the table's p."
    )


def retrieval(table: Table, view: str, where: str = "") -> str:
    """P@1 in both directions before and after training, without a test (retrieval)."""
    parts = []
    for arrow in WAYS.values():
        row = shown_row(table, view=view, set="all", direction=arrow)
        change = row.mean("p1_after") - row.mean("p1_before")
        moved = "rises" if change > 0 else "falls" if change < 0 else "stays"
        parts.append(f"{arrow} {moved} from {row.texts['p1_before']} to {row.texts['p1_after']}")
    return f"{where or f'At `{view}`'} P@1 among all pairs {' and '.join(parts)}."


def cosine_and_hits(table: Table, hits: Table, view: str, params: Params) -> str:
    """Whether mean cosine and P@1 move the same way at a view (before_after, retrieval)."""
    row = shown_row(table, values=RUN, view=view, set="trained")
    gain = row.mean("gain")
    by_direction = [shown_row(hits, view=view, set="all", direction=arrow) for arrow in WAYS.values()]
    changes = [of.mean("p1_after") - of.mean("p1_before") for of in by_direction]
    if not significant(row, params.stats.alpha):
        return "Where the mean cosine is not shown to change, nothing is said of how the two move together."
    if all(change * gain > 0 for change in changes):
        return "Mean cosine and P@1 move the same way in both directions at this view."
    if all(change * gain < 0 for change in changes):
        moved = "move in opposite ways in both directions"
    else:
        moved = "do not move the same way in both directions"
    return f"Mean cosine and P@1 {moved} at this view: the one does not stand for the other."


def views(table: Table, params: Params) -> str:
    """At how many of this run's views the mean cosine of the trained pairs rises, falls, or neither (before_after)."""
    rows = shown_rows(table, values=RUN, set="trained")
    directions = [direction(row, "gain", params.stats.alpha) for row in rows]
    up, down = directions.count("rises"), directions.count("falls")
    rest = "" if up + down == len(rows) else f", and is not shown to change at {len(rows) - up - down}"
    return f"Of {len(rows)} views the mean cosine of trained pairs falls at {down} and rises at {up}{rest}."


def beside_published(table: Table, params: Params) -> str | None:
    """The sign of the gain at both readings of the published one, as far as this run has their layers.

    Of another model the sign alone is compared.
    """
    rows = shown_rows(table, values=PUBLISHED, set="trained")
    if not rows:
        return None
    parts = []
    for name in _readings(params):
        view = points(params)[name]
        row = shown_row(table, values=RUN, view=view, set="trained")
        sign = "the same sign" if row.mean("gain") * rows[0].mean("gain") > 0 else "the other sign"
        sign = sign if significant(row, params.stats.alpha) else "no sign told"
        parts.append(f"{row.texts['gain']} at `{view}` (`{name}`; {sign})")
    return f"The published mean gain is {rows[0].texts['gain']}; this run's is {' and '.join(parts)}."


def scan(table: Table, params: Params) -> str:
    """Translations beside random pairs at the trained layer under both poolings (scan)."""
    parts = []
    for pooling, name in (("mask", "BOS in the mean"), ("content", "BOS out")):
        view = f"{params.train.layer}.{pooling}.nf4"
        row = shown_row(table, view=view)
        parts.append(
            f"with {name} translations have a mean cosine of {row.texts['cosine']} and random pairs of "
            f"{row.texts['random']} (`{view}`)"
        )
    return f"Before training, {'; '.join(parts)}."


def highest(table: Table, pooling: str) -> str:
    """Whether the layer of the highest mean cosine is that of the best retrieval, under one pooling (scan)."""
    rows = [row for row in shown_rows(table) if row.texts["view"].split(".")[1] == pooling]
    best = {key: max(rows, key=lambda row: row.mean(key)).texts["view"] for key in ("cosine", "p1_sw_en", "difference")}
    if best["cosine"] == best["p1_sw_en"]:
        return f"Under {pooling} pooling mean cosine and P@1 sw→en are both highest at `{best['cosine']}`."
    return (
        f"Under {pooling} pooling the mean cosine is highest at `{best['cosine']}`, P@1 sw→en at `{best['p1_sw_en']}`, "
        f"and translations lie furthest above random pairs at `{best['difference']}`."
    )


def bos(table: Table, params: Params) -> str:
    """What training does to the BOS state's norm beside that of words, at the trained layer (norms)."""
    row = shown_row(table, view=f"{params.train.layer}.-.nf4")
    change = row.mean("ratio_after") - row.mean("ratio_before")
    moved = "falls" if change < 0 else "rises" if change > 0 else "stays"
    return (
        f"The norm of the BOS state over that of the words' own states {moved} from {row.texts['ratio_before']} to "
        f"{row.texts['ratio_after']} at layer {params.train.layer} in training."
    )


def recomputed(verify: Mapping[str, Any]) -> str:
    """Whether the published t, p and d_z follow from the published means and SDs (verify)."""
    statistics = verify["recomputed"]
    wrong = [statistic["statistic"] for statistic in statistics if not statistic["agrees"]]
    if not wrong:
        return (
            f"All {len(statistics)} published test statistics (t, p and d_z of both sets) follow from the published "
            "summaries."
        )
    return (
        f"Of {len(statistics)} published test statistics {len(statistics) - len(wrong)} follow from the published "
        f"summaries; not so: {', '.join(wrong)}."
    )


def judged(verify: Mapping[str, Any]) -> str:
    """The claims by verdict (verify)."""
    counts = ", ".join(f"{count} `{verdict}`" for verdict, count in verify["claims"]["verdicts"].items())
    return f"The study's {verify['claims']['number']} claims read: {counts}."


def expected(verify: Mapping[str, Any]) -> str:
    """How the run compares with the recorded run (verify)."""
    counts = verify["verdicts"]
    number = counts["agrees"] + counts["differs"]
    rest = f"; {counts['no expectation']:,} more have no expectation under these parameters"
    if not number:
        return f"None of this run's {counts['no expectation']:,} values has an expectation under these parameters."
    if not counts["differs"]:
        return f"All {number:,} values that have an expectation agree with it within their tolerance{rest}."
    return f"Of {number:,} values that have an expectation {counts['differs']:,} lie outside their tolerance{rest}."


def all_sentences(tables: Mapping[str, Table], verify: Mapping[str, Any], params: Params) -> dict[str, str]:
    """Name -> sentence, for every sentence whose tables this run has."""
    view = trained_view(params)
    sentences: dict[str, str | None] = {
        "recomputed": recomputed(verify),
        "judged": judged(verify),
        "expected": expected(verify),
    }
    if table := tables.get("before_after"):
        sentences |= {"training": training(table, view, params), "views": views(table, params)}
        sentences["in_short"] = training(table, view, params, "Where the loss reads,")
        sentences["beside_published"] = beside_published(table, params)
        sentences |= {name: training(table, points(params)[name], params) for name in _readings(params)}
        if hits := tables.get("retrieval"):
            sentences["cosine_and_hits"] = cosine_and_hits(table, hits, view, params)
    if table := tables.get("gains"):
        sentences |= {"unseen": unseen(table, view, params), "unseen_published": unseen_published(table, params)}
    if table := tables.get("controls"):
        sentences |= {"against_random": against_random(table, view, params), "survives": survives(table, params)}
    if table := tables.get("retrieval"):
        sentences["retrieval"] = retrieval(table, view)
        sentences["retrieval_in_short"] = retrieval(table, view, "There")
    if table := tables.get("scan"):
        sentences["scan"] = scan(table, params)
        sentences |= {f"highest_{pooling}": highest(table, pooling) for pooling in ("mask", "content")}
    if table := tables.get("norms"):
        sentences["bos"] = bos(table, params)
    return {name: sentence for name, sentence in sentences.items() if sentence is not None}


def _readings(params: Params) -> list[str]:
    """The names of the readings of the published value that this run measures; a cut model has no layer L - 1."""
    return [name for name in ("as_scripted", "as_described") if name in points(params)]
