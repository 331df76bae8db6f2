"""The study's claims, each judged by its kind of evidence, and the published statistics recomputed (table: claims)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tli.analysis.published import is_published_model
from tli.analysis.render import Column, Kind, Table, shown
from tli.analysis.results import Measured, Value
from tli.analysis.views import PAIR_SETS, points
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.measure.views import names
from tli.stats import t_tests

HOLDS, FAILS, IMPLEMENTED = "holds", "does not hold", "implemented so"
OTHERWISE, NEEDS = "implemented otherwise", "needs models=[lugha_llama]"


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


def places(measured: Measured, params: Params) -> dict[str, str]:
    """What the names in braces of reported.yaml stand for: views, and layers of the profile's model."""
    last_but_one, final = params.active.model.blocks - 1, measured.get("setup.final_hidden_state")
    views = {name: str(view) for name, view in names(params.active.model.blocks).items()}
    return {**views, **points(params), "last_but_one": str(last_but_one), "final": str(final)}


def study_claims(measured: Measured, reported: Mapping[str, Any], params: Params) -> list[Claim]:
    """The claims of reported.yaml, each judged by its kind of evidence.

    measured: the published model's value within the tolerance, on the author's lists; only a run of both can say.
    configuration: whether what this run loaded is so, which says nothing of the paper's run. data: counted on this
    run's word list. recomputed: from the published numbers.
    """
    named = places(measured, params) | {"recomputed": shown(_pooled_before(reported), "similarity")}
    found = []
    for entry in reported["claims"]:
        keys = {name: key.format_map(named) for name, key in entry.get("look_up", {}).items()}
        there = {name: key for name, key in keys.items() if measured.get(key) is not None}
        here = "; ".join(_here(name if len(there) > 1 else "", key, measured[key]) for name, key in there.items())
        verdict, said = _verdict(entry, keys, measured, named, params)
        if entry["about"] == "published":
            again = recomputed(reported)
            here = "; ".join(f"{one.statistic}: {shown(one.recomputed, one.kind)}" for one in again)
            verdict = HOLDS if all(one.agrees for one in again) else FAILS
        reason = " ".join(filter(None, (str(entry.get("reason", "")).format_map(named), said)))
        text, given, evidence = str(entry["claim"]), entry["published"], str(entry["evidence"])
        source, tolerance = (bool(entry["verified"]), float(entry["confidence"])), entry.get("tolerance")
        found.append(Claim(entry["id"], text, *source, given, evidence, here or "-", tolerance, verdict, reason))
    return found


def _verdict(
    entry: Mapping[str, Any], keys: Mapping[str, str], measured: Measured, named: Mapping[str, str], params: Params
) -> tuple[str, str]:
    """The verdict on a claim, and a sentence where it needs one; the published arithmetic is judged elsewhere.

    What `expects` names must read so; of a measured claim the first value looked up must lie within the tolerance.
    """
    if entry["about"] == "model" and not is_published_model(params):
        return NEEDS, ""
    if entry["evidence"] == "measured" and params.pairs.source != "author":
        return (
            NEEDS,
            "It was measured on the author's word lists, and this run's are others: pairs.source=author as well.",
        )
    lacking = [key for key in keys.values() if measured.get(key) is None]
    if not params.active.model.whole and (lacking or entry["about"] == "final_layer"):
        return NEEDS, _of_the_rest(entry, keys, measured, params)
    wanted = {keys[name]: str(value).format_map(named) for name, value in entry.get("expects", {}).items()}
    so = all(str(_of(measured, key)) == value for key, value in wanted.items())
    if entry["evidence"] == "measured":
        close = {
            key: abs(float(_of(measured, key)) - entry["published"]) <= entry["tolerance"]
            for name, key in keys.items()
            if name not in entry.get("expects", {})
        }
        first, *others = close
        said = [f"Read at {_view(key)} it {HOLDS if close[key] else FAILS}." for key in others]
        return HOLDS if so and close[first] else FAILS, " ".join(said)
    if entry["about"] == "final_layer" or (entry["about"] == "pairs" and params.pairs.source == "author"):
        return HOLDS if so else FAILS, ""
    return IMPLEMENTED if so else OTHERWISE, ""


def _of_the_rest(entry: Mapping[str, Any], keys: Mapping[str, str], measured: Measured, params: Params) -> str:
    """Why a cut model cannot judge a claim, and what its other values say of a measured one."""
    model = params.active.model
    said = [f"This run has the first {model.held} of {model.blocks} blocks."]
    if entry["evidence"] == "measured" and not entry.get("expects"):
        for key in keys.values():
            if (value := measured.get(key)) is not None:
                close = abs(float(str(value)) - entry["published"]) <= entry["tolerance"]
                said.append(f"Read at {_view(key)} it {HOLDS if close else FAILS}.")
    return " ".join(said)


def _of(measured: Measured, key: str) -> Any:
    """A value that a verdict rests on. Raises UserError where it was not measured."""
    if measured.get(key) is None:
        raise UserError(f"claims: expected the value {key}, which was not measured; run `dvc repro`")
    return measured[key]


def _view(key: str) -> str:
    return ".".join(key.split(".")[-3:])


def _here(name: str, key: str, value: Value) -> str:
    """A looked-up value in words: a similarity with its view, by name where there are several."""
    text = f"{shown(value, 'similarity')} at {_view(key)}" if isinstance(value, float) else str(value)
    return (f"{name}: " if name else "") + text


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
            "measured: a value of the published model on the author's lists, judged under `models=[lugha_llama]` with "
            "`pairs.source=author` only; the one shown is this run's",
            "configuration: read off what this run loaded and measured; `implemented so` says nothing of the paper's",
            *(["implemented otherwise: a parameter of this run is not the paper's"] if OTHERWISE in verdicts else []),
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
    """Published t, p and d_z against those that follow from the published n, mean gain and SD of the gain.

    The tolerance is what the rounding of the published digits allows.
    """
    half = reported["before_after"]["half_unit"]
    found = []
    for set_ in PAIR_SETS:
        one = reported["before_after"][set_]
        n, gain, sd = one["n"], one["gain"], one["gain_sd"]
        got = t_tests.paired_from_summary(n, gain, sd)
        ends = zip(*(t_tests.paired_from_summary(n, gain + shift, sd - shift) for shift in (-half, half)), strict=True)
        claimed = (one["t"], float(one["p"]), one["d_z"])
        unit = float(f"1e{str(one['p']).partition('e')[2]}")  # p is published with four decimals, as 1.3320e-240
        last_digit = (5e-6, 5e-5 * unit, 5e-3)
        kinds: tuple[tuple[str, Kind], ...] = (("t", "t"), ("p", "p"), ("d_z", "t"))
        for (name, kind), value, (low, high), said, digit in zip(kinds, got, ends, claimed, last_digit, strict=True):
            tolerance = abs(high - low) / 2 + digit
            agrees = abs(value - said) <= tolerance
            found.append(Recomputed(f"{name}, {set_}", kind, said, value, tolerance, agrees))
    return found
