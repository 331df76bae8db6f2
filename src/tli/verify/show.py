"""What `tli verify` prints: values, conclusions, claims, counts (verify)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from tli.analysis.claims import Claim, Recomputed
from tli.analysis.results import Measured
from tli.analysis.table import shown
from tli.verify.judge import AGREES, DIFFERS, NONE, NOT_JUDGED, Check, Judged, exact


def print_values(checks: Sequence[Check], published: Measured) -> None:
    """One line for each value.

    Args:
        published: key -> published value.
    """
    lines = []
    for check in checks:
        numbers = (published.get(check.key), check.expected, check.measured, check.tolerance)
        verdict = f"{NONE}: {check.why}" if check.verdict == NONE else check.verdict
        lines.append([check.key, *map(exact, numbers), verdict])
    _table("values", ("value", "published", "expected", "measured", "tolerance", "verdict"), lines)


def print_conclusions(judged: Judged) -> None:
    """One line for each conclusion, if there are any."""
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


def print_claims(recomputed: Sequence[Recomputed], claims: Sequence[Claim]) -> None:
    """The published statistics with what follows from the published summaries, then the study's claims."""
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
    lines = [[str(claim.id), str(claim.published), claim.here, claim.verdict] for claim in claims]
    _table("the study's claims", ("no.", "published", "measured here", "verdict"), lines)


def print_counts(judged: Judged, model: str) -> None:
    """The last lines: values outside their tolerance, conclusions that changed, and why nothing is expected."""
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
