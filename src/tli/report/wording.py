"""Sentences of the document that depend on a result: which one stands there is chosen by sign, p and interval.

Each function reads the tables that are quoted and returns a sentence filled with their numbers, rounded as the tables
round. A p decides at alpha = 1 - stats.confidence; what has no p is said without a claim of difference. Feeds paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tli.analysis.render import Cell, Kind, Table, shown
from tli.analysis.views import IN_BFLOAT16, WAYS, points, trained_view
from tli.config.parameters import Params

SETS = {"trained": "trained pairs", "control": "unseen pairs"}


def number(value: float, kind: Kind) -> str:
    """A number in prose: as the tables show it, with a minus sign."""
    return shown(value, kind).replace("-", "−") if kind != "p" else shown(value, kind)


def p_value(p: float | None) -> str:
    """`p = 0.0123`, or that there is no test."""
    return "not tested" if p is None else f"p = {shown(p, 'p')}".replace("= ≤", "≤ ")


def apart(p: float | None, alpha: float) -> bool:
    """Whether a test tells the value from 0."""
    return p is not None and p < alpha


def way(change: float, p: float | None, alpha: float) -> str:
    """`rises`, `falls`, or that neither is shown."""
    return "is not shown to change" if not apart(p, alpha) else "rises" if change > 0 else "falls"


def training(table: Table, view: str, params: Params, where: str = "") -> str:
    """What training does to the mean cosine of the trained and of the unseen pairs at a view (before_after).

    `where` says the view in other words than its name.
    """
    parts = []
    for set_, name in SETS.items():
        one = {
            key: table.number(key, view=view, set=set_, name=_own(table, view))
            for key in ("before", "after", "gain", "p", "d_z")
        }
        before, after, gain = (_given(one[key]) for key in ("before", "after", "gain"))
        size = "" if one["d_z"] is None else f", d_z = {number(one['d_z'], 't')}"
        said = way(gain, one["p"], params.stats.alpha)
        parts.append(
            f"of {name} {said}, from {number(before, 'similarity')} to {number(after, 'similarity')} "
            f"({p_value(one['p'])}{size})"
        )
    return f"{where or f'At `{view}`'} the mean cosine {' and that '.join(parts)}."


def unseen(table: Table, view: str, params: Params) -> str:
    """Whether trained pairs gain more than unseen ones (gains)."""
    return _unseen(table, view, _own(table, view), params.stats.alpha, "Here")


def unseen_published(table: Table, params: Params) -> str | None:
    """The same of the published summaries; None where the table does not show them."""
    rows = [row for row in table.rows if _text(row, "name").startswith("published")]
    if not rows:
        return None
    return _unseen(table, _text(rows[0], "view"), _text(rows[0], "name"), params.stats.alpha, "In the published values")


def _unseen(table: Table, view: str, name: str, alpha: float, where: str) -> str:
    found = table.number("difference", view=view, name=name)
    p, difference = table.number("p", view=view, name=name), _given(found)
    size = number(difference, "change")
    if not apart(p, alpha):
        return f"{where} trained pairs and unseen pairs are not told apart by their gain: {size} ({p_value(p)})."
    more = "more" if difference > 0 else "less"
    return f"{where} trained pairs gain {more} than unseen pairs: {size} ({p_value(p)})."


def against_random(table: Table, params: Params) -> str:
    """What is left of the gain beside random pairs, at the first control row, `as trained` (controls)."""
    gain, random, left, p = (table.number(key, control="as trained") for key in ("gain", "random", "left", "p"))
    first = f"The same Swahili words with another pair's English word change by {number(_given(random), 'change')}"
    size = number(abs(_given(left)), "similarity")
    if not apart(p, params.stats.alpha):
        return f"{first}: of the gain of translations nothing is shown to be left beside it (p = {_bare(p)})."
    toward = "draw nearer to each other than random pairs do" if _given(left) > 0 else "lose against random pairs"
    fall = ", though their own cosine falls" if _given(left) > 0 > _given(gain) else ""
    return f"{first}: beside them translations {toward}, by {size} ({p_value(p)}){fall}."


def _bare(p: float | None) -> str:
    return "-" if p is None else shown(p, "p")


def survives(table: Table, params: Params) -> str:
    """In how many of the control rows that have a test translations gain more than random pairs (controls)."""
    found = [row for row in table.rows if row.get("p") is not None]
    ways = [_mean(row, "left") for row in found if apart(_value(row, "p"), params.stats.alpha)]
    up, down = sum(left > 0 for left in ways), sum(left < 0 for left in ways)
    return (
        f"Of the {len(found)} control rows that have a test, translations gain more than random pairs in {up}, less in "
        f"{down}, and are not told apart from them in {len(found) - up - down}, by the table's p."
    )


def retrieval(table: Table, view: str, where: str = "") -> str:
    """P@1 in both directions before and after training (retrieval); no test stands behind it."""
    parts = []
    for arrow in WAYS.values():
        before, after = (
            _given(table.number(f"p1_{when}", view=view, set="all", direction=arrow)) for when in ("before", "after")
        )
        moved = "rises" if after > before else "falls" if after < before else "stays"
        parts.append(f"{arrow} {moved} from {number(before, 'score')} to {number(after, 'score')}")
    return f"{where or f'At `{view}`'} P@1 among all pairs {' and '.join(parts)}."


def cosine_and_hits(table: Table, found: Table, view: str, params: Params) -> str:
    """Whether mean cosine and P@1 move the same way at a view (before_after, retrieval)."""
    gain = _given(table.number("gain", view=view, set="trained", name=_own(table, view)))
    p = table.number("p", view=view, set="trained", name=_own(table, view))
    hits = [
        _given(found.number("p1_after", view=view, set="all", direction=arrow))
        - _given(found.number("p1_before", view=view, set="all", direction=arrow))
        for arrow in WAYS.values()
    ]
    if not apart(p, params.stats.alpha):
        return "Where the mean cosine is not shown to change, nothing is said of how the two move together."
    if all(hit * gain > 0 for hit in hits):
        return "Mean cosine and P@1 move the same way in both directions at this view."
    if all(hit * gain < 0 for hit in hits):
        said = "move in opposite ways in both directions"
    else:
        said = "do not move the same way in both directions"
    return f"Mean cosine and P@1 {said} at this view: the one does not stand for the other."


def views(table: Table, params: Params) -> str:
    """At how many of this run's views the mean cosine of the trained pairs rises, falls, or neither (before_after)."""
    rows = [row for row in table.matching(set="trained") if _is_run_s(_text(row, "name"))]
    ways = [way(_mean(row, "gain"), _value(row, "p"), params.stats.alpha) for row in rows]
    up, down = ways.count("rises"), ways.count("falls")
    rest = "" if up + down == len(rows) else f", and is not shown to change at {len(rows) - up - down}"
    return f"Of {len(rows)} views the mean cosine of trained pairs falls at {down} and rises at {up}{rest}."


def beside_published(table: Table, params: Params) -> str | None:
    """The sign of the gain at both readings of the published one, as far as this run has their layers.

    Of another model the sign alone is compared.
    """
    rows = [row for row in table.matching(set="trained") if _text(row, "name").startswith("published")]
    if not rows:
        return None
    theirs, parts = _mean(rows[0], "gain"), []
    for name in _readings(params):
        view = points(params)[name]
        gain = _given(table.number("gain", view=view, set="trained", name=_own(table, view)))
        p = table.number("p", view=view, set="trained", name=_own(table, view))
        sign = (
            "no sign told"
            if not apart(p, params.stats.alpha)
            else ("the same sign" if gain * theirs > 0 else "the other sign")
        )
        parts.append(f"{number(gain, 'change')} at `{view}` (`{name}`; {sign})")
    return f"The published mean gain is {number(theirs, 'change')}; this run's is {' and '.join(parts)}."


def scan(table: Table, params: Params) -> str:
    """Translations beside random pairs at the trained layer under both poolings (scan)."""
    parts = []
    for pooling, name in (("mask", "BOS in the mean"), ("content", "BOS out")):
        view = f"{params.train.layer}.{pooling}.nf4"
        pairs, random = (_given(table.number(key, view=view)) for key in ("cosine", "random"))
        parts.append(
            f"with {name} translations have a mean cosine of {number(pairs, 'similarity')} and random pairs of "
            f"{number(random, 'similarity')} (`{view}`)"
        )
    return f"Before training, {'; '.join(parts)}."


def highest(table: Table, pooling: str) -> str:
    """Whether the layer of the highest mean cosine is that of the best retrieval, under one pooling (scan)."""
    rows = [row for row in table.rows if _text(row, "view").split(".")[1] == pooling]
    best = {
        key: _text(max(rows, key=lambda row: _mean(row, key)), "view") for key in ("cosine", "p1_sw_en", "difference")
    }
    if best["cosine"] == best["p1_sw_en"]:
        return f"Under {pooling} pooling mean cosine and P@1 sw→en are both highest at `{best['cosine']}`."
    return (
        f"Under {pooling} pooling the mean cosine is highest at `{best['cosine']}`, P@1 sw→en at `{best['p1_sw_en']}`, "
        f"and translations lie furthest above random pairs at `{best['difference']}`."
    )


def bos(table: Table, params: Params) -> str:
    """What training does to the BOS state's norm beside that of words, at the trained layer (norms)."""
    view = f"{params.train.layer}.-.nf4"
    before, after = (_given(table.number(f"ratio_{when}", view=view)) for when in ("before", "after"))
    moved = "falls" if after < before else "rises" if after > before else "stays"
    return (
        f"The norm of the BOS state over that of the words' own states {moved} from {number(before, 'number')} to "
        f"{number(after, 'number')} at layer {params.train.layer} in training."
    )


def recomputed(verify: Mapping[str, Any]) -> str:
    """Whether the published t, p and d_z follow from the published means and SDs (verify)."""
    agrees, every = sum(one["agrees"] for one in verify["recomputed"]), len(verify["recomputed"])
    if agrees == every:
        return f"All {every} published test statistics (t, p and d_z of both sets) follow from the published summaries."
    wrong = ", ".join(one["statistic"] for one in verify["recomputed"] if not one["agrees"])
    return f"Of {every} published test statistics {agrees} follow from the published summaries; not so: {wrong}."


def judged(verify: Mapping[str, Any]) -> str:
    """The claims by verdict (verify)."""
    counts = ", ".join(f"{count} `{verdict}`" for verdict, count in verify["claims"]["verdicts"].items())
    return f"The study's {verify['claims']['number']} claims read: {counts}."


def expected(verify: Mapping[str, Any]) -> str:
    """How the run compares with what is expected of it (verify)."""
    counts = verify["verdicts"]
    held = counts["agrees"] + counts["differs"]
    rest = f"; {counts['no expectation']:,} more have no expectation under these parameters"
    if not held:
        return f"None of this run's {counts['no expectation']:,} values has an expectation under these parameters."
    if not counts["differs"]:
        return f"All {held:,} values that have an expectation agree with it within their tolerance{rest}."
    return f"Of {held:,} values that have an expectation {counts['differs']:,} lie outside their tolerance{rest}."


def all_sentences(
    tables: Mapping[str, Table], full: Mapping[str, Table], verify: Mapping[str, Any], params: Params
) -> dict[str, str]:
    """Name -> sentence, for every sentence whose tables this run has, of the default or of the full grid."""
    view, alone = trained_view(params), {"recomputed": recomputed(verify), "judged": judged(verify)}
    found: dict[str, str | None] = {**alone, "expected": expected(verify)}
    if table := full.get("controls"):
        found["survives_over_bases"] = survives(table, params)
    if table := tables.get("before_after"):
        found |= {"training": training(table, view, params), "views": views(table, params)}
        found["in_short"] = training(table, view, params, "Where the loss reads,")
        found |= {"beside_published": beside_published(table, params)}
        found |= {name: training(table, points(params)[name], params) for name in _readings(params)}
        if other := tables.get("retrieval"):
            found["cosine_and_hits"] = cosine_and_hits(table, other, view, params)
    if table := tables.get("gains"):
        found |= {"unseen": unseen(table, view, params), "unseen_published": unseen_published(table, params)}
    if table := tables.get("controls"):
        found |= {"against_random": against_random(table, params), "survives": survives(table, params)}
    if table := tables.get("retrieval"):
        found["retrieval"] = retrieval(table, view)
        found["retrieval_in_short"] = retrieval(table, view, "There")
    if table := tables.get("scan"):
        found |= {"scan": scan(table, params)}
        found |= {f"highest_{pooling}": highest(table, pooling) for pooling in ("mask", "content")}
    if table := tables.get("norms"):
        found["bos"] = bos(table, params)
    return {name: text for name, text in found.items() if text is not None}


def _readings(params: Params) -> list[str]:
    """The names of the readings of the published value that this run measures; a cut model has no layer L - 1."""
    return [name for name in ("as_scripted", "as_described") if name in points(params)]


def _is_run_s(name: str) -> bool:
    """Whether a row is the run's own: not a published one, and not the paper's cell again in bfloat16."""
    return not name.startswith("published") and not name.endswith(IN_BFLOAT16)


def _own(table: Table, view: str) -> str:
    """The names of a view in the rows of this run, which the published rows stand beside."""
    (name,) = {_text(row, "name") for row in table.matching(view=view) if _is_run_s(_text(row, "name"))}
    return name


def _value(row: Mapping[str, Cell], key: str) -> float | None:
    """A number of a row; None where it is undefined."""
    value = row.get(key)
    return None if value is None else float(value)


def _mean(row: Mapping[str, Cell], key: str) -> float:
    return _given(_value(row, key))


def _text(row: Mapping[str, Cell], key: str) -> str:
    return str(row[key])


def _given(value: float | None) -> float:
    """A mean, which is always defined."""
    if value is None:
        raise ValueError("a mean of the tables has no value")
    return value
