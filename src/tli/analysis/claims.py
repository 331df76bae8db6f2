"""The study's claims, each judged by its kind of evidence, and the published statistics recomputed (table: claims).

A value of this run is looked up by its key, `NAME/ROW/COLUMN` of a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tli.analysis.published import is_published_model
from tli.analysis.table import Cell, Kind, exact_p, shown
from tli.analysis.views import PAIR_SETS, points
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.measure.views import names
from tli.stats import t_tests

HOLDS, FAILS, IMPLEMENTED = "holds", "does not hold", "implemented so"
OTHERWISE, NEEDS = "implemented otherwise", "needs models=[lugha_llama]"
Values = Mapping[str, Cell]  # key -> value of a cell


class Claim(NamedTuple):
    """One of the study's claims, with the values of this run that bear on it and the verdict."""

    id: int
    claim: str
    verified: bool  # as the study's table marks it
    confidence: float  # as the study's table gives it
    published: Cell
    evidence: str
    here: str
    tolerance: float | None
    verdict: str
    reason: str


def places(values: Values, params: Params) -> dict[str, str]:
    """What the names in braces of reported.yaml stand for: views and layers of this run's model."""
    last_but_one, final = params.active.model.blocks - 1, values.get("setup/final_hidden_state/here")
    views = {name: str(view) for name, view in names(params.active.model.blocks).items()}
    return {**views, **points(params), "last_but_one": str(last_but_one), "final": str(final)}


def study_claims(values: Values, published: Mapping[str, Any], params: Params) -> list[Claim]:
    """The claims of reported.yaml, each judged by its kind of evidence.

    measured: whether the published model's value lies within the tolerance, on the author's word lists; other runs do
    not judge it. configuration: whether this run loaded it so, which says nothing of the paper's run. data: counted on
    this run's word list. recomputed: from the published numbers.
    """
    named = places(values, params) | {"recomputed": shown(_pooled_before(published), "cosine")}
    claims = []
    for entry in published["claims"]:
        keys = {name: key.format_map(named) for name, key in entry.get("look_up", {}).items()}
        known = {name: key for name, key in keys.items() if values.get(key) is not None}
        here = "; ".join(_shown(name if len(known) > 1 else "", key, values[key]) for name, key in known.items())
        verdict, remark = _verdict(entry, keys, values, named, params)
        if entry["about"] == "published":
            again = recomputed(published)
            here = "; ".join(f"{line.statistic}: {_recomputed_text(line)}" for line in again)
            verdict = HOLDS if all(line.agrees for line in again) else FAILS
        claims.append(
            Claim(
                id=entry["id"],
                claim=str(entry["claim"]),
                verified=bool(entry["verified"]),
                confidence=float(entry["confidence"]),
                published=entry["published"],
                evidence=str(entry["evidence"]),
                here=here or "-",
                tolerance=entry.get("tolerance"),
                verdict=verdict,
                reason=" ".join(filter(None, (str(entry.get("reason", "")).format_map(named), remark))),
            )
        )
    return claims


def _verdict(
    entry: Mapping[str, Any], keys: Mapping[str, str], values: Values, named: Mapping[str, str], params: Params
) -> tuple[str, str]:
    """The verdict on a claim, and a remark where it needs one; `study_claims` judges the published arithmetic.

    What `expects` names must read so. The first value that a measured claim looks up must lie within the tolerance.
    """
    if entry["about"] == "model" and not is_published_model(params):
        return NEEDS, ""
    if entry["evidence"] == "measured" and params.pairs.source != "author":
        return (
            NEEDS,
            "It was measured on the author's word lists, and this run's are others: pairs.source=author as well.",
        )
    lacking = [key for key in keys.values() if values.get(key) is None]
    if not params.active.model.whole and (lacking or entry["about"] == "final_layer"):
        return NEEDS, _of_the_rest(entry, keys, values, params)
    expected = {keys[name]: str(value).format_map(named) for name, value in entry.get("expects", {}).items()}
    as_expected = all(str(_value(values, key)) == value for key, value in expected.items())
    if entry["evidence"] == "measured":
        close = {
            key: abs(float(_value(values, key)) - entry["published"]) <= entry["tolerance"]
            for name, key in keys.items()
            if name not in entry.get("expects", {})
        }
        first, *others = close
        remarks = [f"Read at {_view(key)} it {HOLDS if close[key] else FAILS}." for key in others]
        return HOLDS if as_expected and close[first] else FAILS, " ".join(remarks)
    if entry["about"] == "final_layer" or (entry["about"] == "pairs" and params.pairs.source == "author"):
        return HOLDS if as_expected else FAILS, ""
    return IMPLEMENTED if as_expected else OTHERWISE, ""


def _of_the_rest(entry: Mapping[str, Any], keys: Mapping[str, str], values: Values, params: Params) -> str:
    """Why a cut model cannot judge a claim, and what its other values say of a measured one."""
    model = params.active.model
    remarks = [f"This run has the first {model.held} of {model.blocks} blocks."]
    if entry["evidence"] == "measured" and not entry.get("expects"):
        for key in keys.values():
            if (value := values.get(key)) is not None:
                close = abs(float(value) - entry["published"]) <= entry["tolerance"]
                remarks.append(f"Read at {_view(key)} it {HOLDS if close else FAILS}.")
    return " ".join(remarks)


def _value(values: Values, key: str) -> Any:
    """A value that a verdict rests on. Raises UserError where it was not measured."""
    if values.get(key) is None:
        raise UserError(f"claims: expected the value {key}, which was not measured; run `dvc repro`")
    return values[key]


def _view(key: str) -> str:
    """The view in a key: `2.content.fp4` of before_after/run,2.content.fp4,all/before."""
    view = re.search(r"\w+\.(mask|content)\.\w+", key)
    return view[0] if view else key


def _shown(name: str, key: str, value: Cell) -> str:
    """A looked-up value as a reader sees it: a similarity with its view, by name where there are several."""
    text = f"{shown(value, 'cosine')} at {_view(key)}" if isinstance(value, float) else str(value)
    return (f"{name}: " if name else "") + text


def _recomputed_text(line: Recomputed) -> str:
    value = line.recomputed
    return exact_p(value) if line.kind == "p" else shown(value, line.kind)


def _pooled_before(published: Mapping[str, Any]) -> float:
    """The published means before training, averaged over both sets by their n."""
    sets = [published["before_after"][set_] for set_ in PAIR_SETS]
    return float(sum(part["n"] * part["before"] for part in sets) / sum(part["n"] for part in sets))


class Recomputed(NamedTuple):
    """A published statistic against the one that follows from the published summary."""

    statistic: str
    kind: Kind
    published: float
    recomputed: float
    tolerance: float
    agrees: bool


def recomputed(published: Mapping[str, Any]) -> list[Recomputed]:
    """Published t, p and d_z against those that follow from the published n, mean gain and SD of the gain.

    The tolerance is what the rounding of the published digits allows.
    """
    half = published["before_after"]["half_unit"]
    statistics = []
    for set_ in PAIR_SETS:
        summary = published["before_after"][set_]
        n, gain, sd = summary["n"], summary["gain"], summary["gain_sd"]
        again = t_tests.paired_from_summary(n, gain, sd)
        ends = zip(*(t_tests.paired_from_summary(n, gain + shift, sd - shift) for shift in (-half, half)), strict=True)
        given = (summary["t"], float(summary["p"]), summary["d_z"])
        unit = float(f"1e{str(summary['p']).partition('e')[2]}")  # p is published with four decimals, as 1.3320e-240
        last_digit = (5e-6, 5e-5 * unit, 5e-3)
        kinds: tuple[tuple[str, Kind], ...] = (("t", "t"), ("p", "p"), ("d_z", "t"))
        for (name, kind), value, (low, high), printed, digit in zip(kinds, again, ends, given, last_digit, strict=True):
            tolerance = abs(high - low) / 2 + digit
            agrees = abs(value - printed) <= tolerance
            statistics.append(Recomputed(f"{name}, {set_}", kind, printed, value, tolerance, agrees))
    return statistics
