"""The study's claims, each judged by its kind of evidence, and the published statistics recomputed (table: claims)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tli.paper import stats
from tli.paper.published import log10_of
from tli.paper.render import Column, Kind, Table, shown
from tli.paper.rows import Measured, Value
from tli.paper.similarity import PAIR_SETS, points
from tli.params import Params

HOLDS, FAILS, IMPLEMENTED = "holds", "does not hold", "implemented so"
OTHERWISE, NEEDS = "implemented otherwise", "needs profile=paper"


class Claim(NamedTuple):
    """One of the study's claims with what this run says of it."""

    id: int
    claim: str
    verified: bool
    confidence: float
    published: Value
    evidence: str
    here: str
    tolerance: float | None
    verdict: str
    reason: str


def places(params: Params) -> dict[str, str]:
    """What the names in braces of reported.yaml stand for: views, and layers of the profile's model."""
    blocks = params.active.model.blocks
    return {**points(params), "blocks": str(blocks), "last_but_one": str(blocks - 1)}


def study_claims(measured: Measured, reported: Mapping[str, Any], params: Params) -> list[Claim]:
    """The claims of reported.yaml, each judged by its kind of evidence.

    measured: the published model's value within the tolerance; only profile=paper can say. configuration: whether this
    run is set so, which says nothing of the paper's run. data: counted on this run's word list. recomputed: from the
    published numbers.
    """
    names = places(params) | {"recomputed": shown(_pooled_before(reported), "similarity")}
    found = []
    for entry in reported["claims"]:
        keys = {name: key.format_map(names) for name, key in entry.get("look_up", {}).items()}
        values = [measured.get(key) for key in keys.values()]
        here = "; ".join(_here(key, measured.get(key)) for key in keys.values())
        verdict = _verdict(entry, values, names, params)
        reason = str(entry.get("reason", "")).format_map(names)
        if entry["about"] == "published":
            again = recomputed(reported)
            here = "; ".join(f"{one.statistic}: {shown(one.recomputed, one.kind)}" for one in again)
            verdict = HOLDS if all(one.agrees for one in again) else FAILS
        elif entry["about"] == "final_layer":
            here = f"hidden states 0 to {names['blocks']}; layer {names['last_but_one']} is the last but one"
        text, published, evidence = str(entry["claim"]), entry["published"], str(entry["evidence"])
        source, tolerance = (bool(entry["verified"]), float(entry["confidence"])), entry.get("tolerance")
        found.append(Claim(entry["id"], text, *source, published, evidence, here, tolerance, verdict, reason))
    return found


def _verdict(entry: Mapping[str, Any], values: Sequence[Value], names: Mapping[str, str], params: Params) -> str:
    """The verdict on a claim from the first of its looked-up values; the published arithmetic is judged elsewhere."""
    about, value = entry["about"], values[0] if values else None
    if about == "final_layer":
        return HOLDS if names["last_but_one"] == names["blocks"] else FAILS
    if about == "model" and params.profile != "paper":
        return NEEDS
    if entry["evidence"] == "measured":
        close = isinstance(value, int | float) and abs(value - entry["published"]) <= entry["tolerance"]
        return HOLDS if close else FAILS
    so = str(entry.get("expects", "")).format_map(names) in str(value)
    if about == "pairs" and params.pairs.source != "project":
        return HOLDS if so else FAILS
    return IMPLEMENTED if so else OTHERWISE


def _here(key: str, value: Value) -> str:
    """A looked-up value in words: a similarity with its view."""
    if isinstance(value, float):
        return f"{shown(value, 'similarity')} at {'.'.join(key.split('.')[-3:])}"
    return "-" if value is None else str(value)


def _pooled_before(reported: Mapping[str, Any]) -> float:
    """The published means before training, averaged over both sets by their n."""
    sets = [reported["before_after"][set_] for set_ in PAIR_SETS]
    return float(sum(one["n"] * one["before"] for one in sets) / sum(one["n"] for one in sets))


def table(claims: Sequence[Claim]) -> Table:
    """The claims as a table, with the counts in its caption."""
    verdicts = Counter(claim.verdict for claim in claims)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    verified = sum(claim.verified for claim in claims)
    return Table(
        "claims",
        "The study's claims",
        f"The {len(claims)} claims of the study's table, {verified} of them marked there as verified in their source "
        f"(✓), with its confidence, and what this run can say: {counted}.",
        (
            Column("id", "no.", "count"),
            Column("claim", "claim"),
            Column("source", "source"),
            Column("confidence", "confidence", "number"),
            Column("published", "published", "number"),
            Column("evidence", "evidence"),
            Column("here", "measured here"),
            Column("tolerance", "tolerance", "number"),
            Column("verdict", "verdict"),
            Column("reason", "reason"),
        ),
        [_row(claim) for claim in claims],
        view="said in the column `measured here`, as layer.pooling.quantisation, wherever a similarity stands there",
        notes=[
            "measured: a value of the published model, judged under `profile=paper` only; the one shown is this run's",
            "configuration: `implemented so` says how this run is set up and nothing of the paper's",
        ],
    )


def _row(claim: Claim) -> dict[str, Value]:
    row: dict[str, Value] = {key: value for key, value in claim._asdict().items() if key != "verified"}
    return {**row, "published": str(claim.published), "source": "✓" if claim.verified else "×"}


class Recomputed(NamedTuple):
    """A published statistic against the one that follows from the published summary."""

    statistic: str
    kind: Kind
    published: float
    recomputed: float
    tolerance: float
    agrees: bool


def recomputed(reported: Mapping[str, Any]) -> list[Recomputed]:
    """Published t, p (as log10) and d_z against those that follow from the published n, mean gain and SD of the gain.

    The tolerance is what the rounding of the published digits allows.
    """
    half = reported["before_after"]["half_unit"]
    found = []
    for set_ in PAIR_SETS:
        one = reported["before_after"][set_]
        n, gain, sd = one["n"], one["gain"], one["gain_sd"]
        got = stats.from_summary(n, gain, sd)
        ends = zip(*(stats.from_summary(n, gain + shift, sd - shift) for shift in (-half, half)), strict=True)
        p = str(one["p"])
        claimed = (one["t"], log10_of(p), one["d_z"])
        last_digit = (5e-6, math.log10(1 + 5e-5 / float(p.partition("e")[0])), 5e-3)
        kinds: tuple[tuple[str, Kind], ...] = (("t", "t"), ("p", "p"), ("d_z", "t"))
        for (name, kind), value, (low, high), said, digit in zip(kinds, got, ends, claimed, last_digit, strict=True):
            tolerance = abs(high - low) / 2 + digit
            agrees = abs(value - said) <= tolerance
            found.append(Recomputed(f"{name}, {set_}", kind, said, value, tolerance, agrees))
    return found
