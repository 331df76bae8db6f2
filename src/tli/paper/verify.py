"""Published | expected | measured | tolerance | verdict for every value of a run (stage: verify).

The stage writes its verdicts and never fails for one; `strict` does, for `make repro` and CI.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tli import store
from tli.paper import claims, published
from tli.paper import expected as expectations
from tli.paper.expected import AGREES, DIFFERS, NONE, Check
from tli.paper.render import shown
from tli.paper.rows import Measured, Value, load_yaml
from tli.paper.similarity import PAIR_SETS
from tli.params import Params


def published_values(reported: Mapping[str, Any], params: Params) -> Measured:
    """Published values by the keys of measured.json: the pilot; before, after and gains at both readings of the paper.

    Under another profile than `paper` they are another model's, at the layers whose place is the same.
    """
    found: Measured = {
        f"scan.trained.cosine.{layer}.mask.nf4": value for layer, value in published.pilot(reported, params).items()
    }
    for view in published.readings(params).values():
        for set_ in PAIR_SETS:
            for key in ("before", "after", "gain", "gain_sd", "t", "d_z"):
                found[f"align.{set_}.{key}.{view}"] = reported["before_after"][set_][key]
        test = published.difference(reported, params)
        found |= {f"gains.difference.{view}": test.difference, f"gains.welch_t.{view}": test.t}
    return found


def run(
    *,
    measured: Path,
    reported: Path,
    expected: Path,
    out: Path,
    params: Params,
    strict: bool = False,
    every: bool = False,
) -> None:
    """The `verify` stage: judges measured.json, writes `out` (JSON), prints what has a published value or differs.

    Args:
        strict: raise CheckFailed (exit 1) where any verdict is `differs`; without it a verdict never fails the stage.
        every: print every value, not only those.

    Raises:
        UserError: measured.json is missing (exit 2).
    """
    values: Measured = store.read_json(measured, "measured values by key")
    source = load_yaml(reported)
    theirs, again = published_values(source, params), claims.recomputed(source)
    checks = expectations.judge(values, expectations.load(expected, params), params)
    judged = claims.study_claims(values, source, params)
    counts = Counter(check.verdict for check in checks)
    told = [check for check in checks if check.key in theirs or check.verdict == DIFFERS]
    store.write_json(
        out,
        {
            "profile": params.model,
            "verdicts": {verdict: counts[verdict] for verdict in (AGREES, DIFFERS, NONE)},
            "claims": {
                "number": len(judged),
                "verified": sum(claim.verified for claim in judged),
                "verdicts": dict(Counter(claim.verdict for claim in judged)),
            },
            "values": {check.key: check.verdict for check in checks},
            "shown": [{**check._asdict(), "published": theirs.get(check.key)} for check in told],
            "recomputed": [one._asdict() for one in again],
            "study_claims": [claim._asdict() for claim in judged],
        },
    )
    _print(checks if every else told, theirs, again, judged)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (AGREES, DIFFERS, NONE) if counts[verdict])
    click.echo(f"verify, profile {params.model}: {len(checks)} values: {said or 'none'}; all in {out}")
    wrong = [check for check in checks if check.verdict == DIFFERS]
    if wrong and strict:
        first = wrong[0]
        raise store.CheckFailed(
            f"{measured}: {first.key}: expected {_exact(first.expected)} within {_exact(first.tolerance)}, "
            f"got {_exact(first.measured)} ({len(wrong)} such); see {out}"
        )


HEADER = ("value", "published", "expected", "measured", "tolerance", "verdict")


def _print(
    checks: Sequence[Check],
    published: Mapping[str, Value],
    again: Sequence[claims.Recomputed],
    judged: Sequence[claims.Claim],
) -> None:
    """Values, published statistics recomputed, claims: rich tables on a terminal, else plain aligned lines."""
    values = []
    for check in checks:
        numbers = (published.get(check.key), check.expected, check.measured, check.tolerance)
        verdict = f"{NONE}: {check.why}" if check.verdict == NONE else check.verdict
        values.append([check.key, *map(_exact, numbers), verdict])
    statistics = [
        [
            one.statistic,
            shown(one.published, one.kind),
            shown(one.recomputed, one.kind),
            AGREES if one.agrees else DIFFERS,
        ]
        for one in again
    ]
    claimed = [[str(claim.id), str(claim.published), claim.here, claim.verdict] for claim in judged]
    lists = (
        ("published | expected | measured | verdict", HEADER, values),
        ("published statistics, recomputed", ("statistic", "published", "recomputed", "verdict"), statistics),
        ("the study's claims", ("no.", "published", "measured here", "verdict"), claimed),
    )
    for title, header, lines in lists:
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.table import Table as Grid

            grid = Grid(*header, title=title, title_justify="left")
            for line in lines:
                grid.add_row(*line)
            Console().print(grid)
        else:
            widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
            click.echo(f"# {title}")
            for line in (list(header), *lines):
                click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _exact(value: Value) -> str:
    """Six significant digits: enough to see what a tolerance decides."""
    return f"{value:.6g}" if isinstance(value, float) else shown(value, "number")
