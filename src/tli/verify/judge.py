"""The rule of `verify`: compares a run's values and conclusions with the recorded ones, and decides whether it fails.

A run fails if a conclusion changes, if more than 1 % of a kind's values are outside their tolerance, or if a value is
more than five tolerances away. paper/tolerances.yaml and paper/conclusions.yaml hold the tolerances and conclusions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli.analysis import published, tolerances
from tli.analysis.cells import Cells
from tli.analysis.results import Measured, Value, load_yaml
from tli.analysis.tolerances import Tolerances
from tli.config.parameters import Params
from tli.verify import conclusions, expected
from tli.verify.conclusions import Conclusion, Outcome
from tli.verify.expected import Expected

AGREES, DIFFERS = "agrees", "differs"
NOT_JUDGED, NONE = "shown, not judged", "no expectation"
VERDICTS = (AGREES, DIFFERS, NOT_JUDGED, NONE)
OF_PUBLISHED = "published values"  # their kind
OUTSIDE_SHARE = 0.01  # of a kind's values that may leave their tolerance
FAR = 5.0  # a value more tolerances away than this fails alone


class Check(NamedTuple):
    """One value beside its expectation; `times` is its distance from it in tolerances."""

    key: str
    expected: Value
    measured: Value
    tolerance: float | None
    verdict: str
    why: str
    kind: str = ""
    times: float = 0.0


class Kind(NamedTuple):
    """How many of a kind's values are judged, how many lie outside, and the farthest of them in tolerances."""

    values: int
    outside: int
    farthest: float


class Judged(NamedTuple):
    """The verdicts on a run; `failures` has a line for each reason to fail, and is empty if the run passes."""

    checks: Sequence[Check]
    outcomes: Sequence[Outcome]
    kinds: Mapping[str, Kind]
    other_setting: str
    failures: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> number of values."""
        counts = Counter(check.verdict for check in self.checks)
        return {verdict: counts[verdict] for verdict in VERDICTS}


class Rules(NamedTuple):
    """What the recorded and the published values are judged by."""

    tolerances: Tolerances
    conclusions: Sequence[Conclusion]
    reported: Mapping[str, Any]


def rules(tolerance_file: Path, conclusion_file: Path, reported: Path, params: Params) -> Rules:
    """Reads the three files. Raises UserError where one is missing or not of its form."""
    return Rules(tolerances.load(tolerance_file), conclusions.load(conclusion_file, params), load_yaml(reported))


def judge(
    values: Measured,
    settings: Measured,
    recorded: Expected | None,
    chosen: Rules,
    params: Params,
    strict: bool = False,
) -> Judged:
    """Every measured and every expected value with its verdict, in the order of `values`, and every conclusion.

    The recorded values are expected if all settings are the same; a published value, if the settings that it was
    published for are. A value with neither has no expectation and decides nothing.

    Args:
        values: key -> value of every cell of the run's tables.
        settings: those of the run (`expected.settings`).
        recorded: the run to compare with; None where none is recorded.
        strict: every value outside its tolerance is a failure.
    """
    other = "none is recorded" if recorded is None else expected.difference(recorded.settings, settings)
    reference = recorded.cells if recorded is not None and not other else Cells({})
    parts = published.expectations(chosen.reported, params)
    keys = dict.fromkeys([*values, *reference.by_key, *(key for part in parts for key in part["keys"])])
    checks = []
    for key in keys:
        if key in reference.by_key:
            checks.append(_recorded(key, values, reference, chosen.tolerances, params))
        else:
            checks.append(_published(key, values, parts, settings, other or "not in the recorded run"))
    compared = chosen.conclusions if reference.by_key else []
    outcomes = conclusions.compare(compared, reference.values, values, params)
    kinds = _kinds(checks)
    return Judged(checks, outcomes, kinds, other, [*_failures(checks, outcomes, kinds, strict)])


def _recorded(key: str, values: Measured, reference: Cells, chosen: Tolerances, params: Params) -> Check:
    """A value beside that of the recorded run."""
    cell, value = reference.by_key[key], values.get(key)
    want, tolerance, kind = cell.value, chosen.tolerance(cell, reference.counts, params), chosen.kind(cell, params)
    if tolerance is None:
        return Check(key, want, value, None, NOT_JUDGED, kind, kind)
    return _check(key, want, value, tolerance, kind, kind, key in values)


def _published(key: str, values: Measured, parts: Sequence[Mapping[str, Any]], settings: Measured, other: str) -> Check:
    """A value beside the published one whose conditions this run fulfils best."""
    unmet = [
        (part, [name for name, value in part["under"].items() if settings.get(name) != value])
        for part in parts
        if key in part["keys"]
    ]
    if not unmet:
        return Check(key, None, values.get(key), None, NONE, other)
    part, names = min(unmet, key=lambda pair: len(pair[1]))
    entry = part["keys"][key]
    if names:
        why = f"{names[0]} is {settings.get(names[0], '-')}, published for {part['under'][names[0]]}"
        return Check(key, entry["value"], values.get(key), entry["tolerance"], NONE, why)
    tolerance = entry["tolerance"] or 0.0
    return _check(key, entry["value"], values.get(key), tolerance, OF_PUBLISHED, entry["why"], key in values)


def _check(key: str, want: Value, value: Value, tolerance: float, kind: str, why: str, measured: bool) -> Check:
    """Numbers agree within the tolerance, up to the ninth digit that files keep; anything else where it is equal."""
    times = 0.0
    if not measured:
        times = math.inf
    elif isinstance(value, int | float) and isinstance(want, int | float):
        distance = max(0.0, abs(value - want) - 1e-8 * abs(want))
        times = distance / tolerance if tolerance else (math.inf if distance else 0.0)
    elif value != want:
        times = math.inf
    return Check(key, want, value, tolerance, DIFFERS if times > 1 else AGREES, why, kind, times)


def _kinds(checks: Sequence[Check]) -> dict[str, Kind]:
    """The judged values by kind, in the order in which the kinds first occur."""
    by_kind: dict[str, list[Check]] = {}
    for check in checks:
        if check.verdict in (AGREES, DIFFERS):
            by_kind.setdefault(check.kind, []).append(check)
    return {
        kind: Kind(len(judged), sum(check.verdict == DIFFERS for check in judged), max(check.times for check in judged))
        for kind, judged in by_kind.items()
    }


def _failures(
    checks: Sequence[Check], outcomes: Sequence[Outcome], kinds: Mapping[str, Kind], strict: bool
) -> list[str]:
    """One line for each reason to fail: conclusions first, then kinds, then single values."""
    lines = [
        f"conclusion `{outcome.name}`: expected {outcome.expected_state} ({exact(outcome.expected_value)}), got "
        f"{outcome.measured_state} ({exact(outcome.measured_value)}), margin {exact(outcome.margin)}"
        for outcome in outcomes
        if outcome.changed
    ]
    outside = [check for check in checks if check.verdict == DIFFERS]
    for kind, count in kinds.items():
        if count.outside > OUTSIDE_SHARE * count.values:
            first = next(check for check in outside if check.kind == kind)
            lines.append(
                f"{kind}: expected at most {OUTSIDE_SHARE:.0%} of {count.values:,} values outside their tolerance, got "
                f"{count.outside:,}; first {line(first)}"
            )
    lines += [line(check) for check in outside if strict or check.times > FAR]
    return lines


def line(check: Check) -> str:
    """A value outside its tolerance, in one line."""
    times = "" if math.isinf(check.times) else f", {check.times:.3g} times the tolerance"
    return (
        f"{check.key}: expected {exact(check.expected)} within {exact(check.tolerance)}, "
        f"got {exact(check.measured)}{times}"
    )


def exact(value: Value) -> str:
    """Six significant digits: enough to see what a tolerance decides."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else value
