"""Published | expected | measured | tolerance | verdict for every value of a run, and its conclusions (stage: verify).

The stage writes its verdicts and never fails for one. The command without `--out`, with which `make repro` ends, fails
by the rule of judge.py.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from tli.analysis import published
from tli.analysis.render import shown
from tli.analysis.results import Measured
from tli.analysis.views import PAIR_SETS
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import CheckFailed, UserError
from tli.io.files import sha256_of
from tli.io.structured import read_json, write_json
from tli.verify import claims, expected, judge
from tli.verify.expected import Expected
from tli.verify.judge import AGREES, DIFFERS, NONE, NOT_JUDGED, Judged, exact

LISTED = 20  # reasons to fail that are printed


class Files(NamedTuple):
    """What the verdicts rest on, beside the run itself."""

    reported: Path = Path("paper/reported.yaml")
    expected: Path = Path("paper/expected")
    conclusions: Path = Path("paper/conclusions.yaml")
    tolerances: Path = Path("paper/tolerances.yaml")


def published_values(reported: Mapping[str, Any], params: Params) -> Measured:
    """Published values by the keys of measured.json: the pilot; before, after and gains at both readings of the paper.

    For another model than the published one they are that model's, at the layers whose place is the same.
    """
    values: Measured = {
        f"scan.trained.cosine.{layer}.mask.nf4": value for layer, value in published.pilot(reported, params).items()
    }
    for view in published.readings(params).values():
        for set_ in PAIR_SETS:
            for key in ("before", "after", "gain", "gain_sd", "t", "d_z"):
                values[f"align.{set_}.{key}.{view}"] = reported["before_after"][set_][key]
        test = published.difference(reported, params)
        values |= {f"gains.difference.{view}": test.difference, f"gains.welch_t.{view}": test.t}
    return values


def run(
    *, measured: Path, files: Files, params: Params, out: Path | None = None, strict: bool = False, every: bool = False
) -> list[str]:
    """Judges measured.json against the recorded run; prints what was published, differs or is concluded.

    Args:
        out: write the verdicts there, as the stage does.
        strict: count every value outside its tolerance as a failure.
        every: print every value.

    Returns:
        One line for each reason to fail.

    Raises:
        UserError: a file is missing or not of its form (exit 2).
    """
    values: Measured = read_json(measured, "measured values by key")
    chosen = judge.rules(files.tolerances, files.conclusions, files.reported, params)
    recorded = expected.load(expected.file_of(files.expected, params))
    judged = judge.judge(values, recorded, chosen, params, strict)
    published_here = published_values(chosen.reported, params)
    recomputed = claims.recomputed(chosen.reported)
    study = claims.study_claims(values, chosen.reported, params)
    listed = [check for check in judged.checks if check.key in published_here or check.verdict == DIFFERS]
    if out is not None:
        write_json(out, _json(judged, listed, published_here, recomputed, study, params))
    _print_values(judged.checks if every else listed, published_here)
    _print_outcomes(judged)
    _print_claims(recomputed, study)
    _print_counts(judged, params.model)
    return [f"{params.model}: {failure}" for failure in judged.failures]


def base_weights(build: Path, files: Files, params: Params) -> list[str]:
    """One line where the base model's weights are not the recorded ones though all settings are the same."""
    recorded = expected.load(expected.file_of(files.expected, params))
    base = build / "base"
    if recorded is None or not any(base.glob("*.safetensors")):
        return []
    want, weights = str(recorded.digests.get(expected.BASE)), expected.weights(base)
    if want == weights or expected.difference(recorded.settings, expected.settings(params, recorded.values)):
        return []
    return [f"{params.model}: {base}: expected weights with the digest {want[:12]}…, got {weights[:12]}…"]


def against(folder: Path, files: Files, params: Params, strict: bool = False, every: bool = False) -> list[str]:
    """Judges this checkout's run against the run in the checkout `folder`, by the same rules.

    Returns:
        One line for each reason to fail.

    Raises:
        UserError: the other run has other settings; the line names the first that differs.
    """
    measured = Path("results") / params.model / "measured.json"
    values: Measured = read_json(measured, "measured values by key")
    other: Measured = read_json(folder / measured, "measured values by key")
    theirs = parameters.load(folder / "params.yaml", model=params.model)
    recorded = Expected(params.model, expected.settings(theirs, other), {}, other)
    if setting := expected.difference(recorded.settings, expected.settings(params, values)):
        raise UserError(f"verify --against {folder}: {params.model}: {setting}; compare runs of the same settings")
    chosen = judge.rules(files.tolerances, files.conclusions, files.reported, params)
    judged = judge.judge(values, recorded, chosen, params, strict)
    _print_values(judged.checks if every else [check for check in judged.checks if check.verdict == DIFFERS], {})
    _print_outcomes(judged)
    _print_counts(judged, params.model)
    equal, number = equal_bytes(Path(), folder, params)
    click.echo(f"verify, {params.model}: equal bytes in {equal} of {number} row files")
    return [f"{params.model}: {failure}" for failure in judged.failures]


def row_files(folder: Path, params: Params) -> dict[str, Path]:
    """Path inside the build folder -> file, for every file of measured rows."""
    build = folder / "build" / params.model
    patterns = ("*.tsv", "benchmarks/*.tsv", "sweep/rows/**/*.tsv", "sweep/train/**/*.tsv")
    files = sorted({path for pattern in patterns for path in build.glob(pattern) if path.name != "pairs.tsv"})
    return {path.relative_to(build).as_posix(): path for path in files}


def equal_bytes(folder: Path, other: Path, params: Params) -> tuple[int, int]:
    """How many row files are the same in two checkouts, of how many that one of them has."""
    here, there = row_files(folder, params), row_files(other, params)
    equal = [name for name in here.keys() & there.keys() if sha256_of(here[name]) == sha256_of(there[name])]
    return len(equal), len(here.keys() | there.keys())


def finish(failures: Sequence[str], where: str) -> None:
    """Raises CheckFailed (exit 1) with the first failure, where there is one."""
    if failures:
        for failure in failures[:LISTED]:
            click.echo(f"FAILED  {failure}")
        if len(failures) > LISTED:
            click.echo(f"FAILED  … and {len(failures) - LISTED:,} more")
        more = f" ({len(failures) - 1:,} more above)" if len(failures) > 1 else ""
        raise CheckFailed(f"{where}: {failures[0]}{more}")


def _json(
    judged: Judged,
    listed: Sequence[judge.Check],
    published_here: Measured,
    recomputed: Sequence[claims.Recomputed],
    study: Sequence[claims.Claim],
    params: Params,
) -> dict[str, Any]:
    """What the stage writes; numbers that are infinite become null."""
    return {
        "model": params.model,
        "other_setting": judged.other_setting,
        "verdicts": judged.counts,
        "failures": [*judged.failures],
        "conclusions": [{**outcome._asdict(), "changed": outcome.changed} for outcome in judged.outcomes],
        "kinds": {
            kind: {"values": count.values, "outside": count.outside, "farthest": _finite(count.farthest)}
            for kind, count in judged.kinds.items()
        },
        "claims": {
            "number": len(study),
            "verified": sum(claim.verified for claim in study),
            "verdicts": dict(Counter(claim.verdict for claim in study)),
        },
        "values": {check.key: check.verdict for check in judged.checks},
        "shown": [
            {**check._asdict(), "times": _finite(check.times), "published": published_here.get(check.key)}
            for check in listed
        ],
        "recomputed": [statistic._asdict() for statistic in recomputed],
        "study_claims": [claim._asdict() for claim in study],
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _print_values(checks: Sequence[judge.Check], published_here: Measured) -> None:
    lines = []
    for check in checks:
        numbers = (published_here.get(check.key), check.expected, check.measured, check.tolerance)
        verdict = f"{NONE}: {check.why}" if check.verdict == NONE else check.verdict
        lines.append([check.key, *map(exact, numbers), verdict])
    _table("values", ("value", "published", "expected", "measured", "tolerance", "verdict"), lines)


def _print_outcomes(judged: Judged) -> None:
    lines = []
    for outcome in judged.outcomes:
        verdict = "as expected" if outcome.expected_state == outcome.measured_state else "CHANGED"
        lines.append(
            [
                outcome.name,
                f"{outcome.expected_state} ({exact(outcome.expected_value)})",
                f"{outcome.measured_state} ({exact(outcome.measured_value)})",
                exact(outcome.margin),
                verdict + (", borderline: decides nothing" if outcome.borderline else ""),
            ]
        )
    if lines:
        _table("conclusions", ("conclusion", "expected", "measured", "margin", "verdict"), lines)


def _print_claims(recomputed: Sequence[claims.Recomputed], study: Sequence[claims.Claim]) -> None:
    statistics = [
        [
            statistic.statistic,
            shown(statistic.published, statistic.kind),
            shown(statistic.recomputed, statistic.kind),
            AGREES if statistic.agrees else DIFFERS,
        ]
        for statistic in recomputed
    ]
    _table("published statistics, recomputed", ("statistic", "published", "recomputed", "verdict"), statistics)
    judged = [[str(claim.id), str(claim.published), claim.here, claim.verdict] for claim in study]
    _table("the study's claims", ("no.", "published", "measured here", "verdict"), judged)


def _print_counts(judged: Judged, model: str) -> None:
    """The last lines: values outside, conclusions, and why nothing is expected where that is so."""
    counts = judged.counts
    number = counts[AGREES] + counts[DIFFERS]
    click.echo(
        f"verify, {model}: {counts[DIFFERS]:,} of {number:,} values outside their tolerance; "
        f"{counts[NOT_JUDGED]:,} shown, not judged; {counts[NONE]:,} without an expectation"
    )
    if judged.other_setting:
        click.echo(f"verify, {model}: no expectation: {judged.other_setting}")
    if judged.outcomes:
        changed = sum(outcome.changed for outcome in judged.outcomes)
        borderline = sum(outcome.borderline for outcome in judged.outcomes)
        click.echo(
            f"verify, {model}: {changed} of {len(judged.outcomes) - borderline} conclusions changed; "
            f"{borderline} borderline, which decide nothing"
        )


def _table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A rich table on a terminal, else plain aligned lines."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table as Grid

        grid = Grid(*header, title=title, title_justify="left")
        for line in lines:
            grid.add_row(*line)
        Console().print(grid)
        return
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    click.echo(f"# {title}")
    for line in (header, *lines):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
