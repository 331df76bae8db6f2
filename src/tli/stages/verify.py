"""Stage `verify`: compare a run's tables.json with the recorded run and with the published values.

For every cell: published | expected | measured | tolerance | verdict; then the conclusions and the study's claims. The
stage writes its verdicts and never fails for one. The command without `--out`, with which `make repro` ends, fails by
the rule of tli.verify.judge.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from tli.analysis import claims, published
from tli.analysis.cells import Cells
from tli.analysis.render import read_model
from tli.analysis.results import Measured
from tli.analysis.views import PAIR_SETS
from tli.config import parameters
from tli.config.parameters import Params
from tli.io.errors import CheckFailed, UserError
from tli.io.files import sha256_of
from tli.io.structured import write_json
from tli.verify import expected, judge
from tli.verify.expected import Expected
from tli.verify.judge import DIFFERS, Judged
from tli.verify.show import print_claims, print_conclusions, print_counts, print_values

LISTED = 20  # reasons to fail that are printed


class Files(NamedTuple):
    """What the verdicts depend on, beside the run itself."""

    reported: Path = Path("paper/reported.yaml")
    expected: Path = Path("paper/expected")
    conclusions: Path = Path("paper/conclusions.yaml")
    tolerances: Path = Path("paper/tolerances.yaml")


def published_values(reported: Mapping[str, Any], params: Params) -> Measured:
    """Published values by the keys of tables.json: the pilot; before, after and gains at both readings of the paper.

    For another model than the published one they are that model's, at the layers whose place is the same.
    """
    values: Measured = {f"scan/{layer}.mask.nf4/trained": x for layer, x in published.pilot(reported, params).items()}
    for view in published.readings(params).values():
        for set_ in PAIR_SETS:
            for key in ("before", "after", "gain", "gain_sd", "t", "d_z"):
                values[f"before_after/run,{view},{set_}/{key}"] = reported["before_after"][set_][key]
        test = published.difference(reported, params)
        values |= {f"gains/run,{view}/difference": test.difference, f"gains/run,{view}/t": test.t}
    return values


def run(
    *, tables: Path, files: Files, params: Params, out: Path | None = None, strict: bool = False, every: bool = False
) -> list[str]:
    """Judges a run against the recorded one; prints the published and the differing values, conclusions and claims.

    Args:
        tables: tables.json of the run.
        out: write the verdicts there, as the stage does.
        strict: count every value outside its tolerance as a failure.
        every: print every value.

    Returns:
        One line for each reason to fail.

    Raises:
        UserError: a file is missing or not of its form (exit 2).
    """
    values, settings = _read(tables, params)
    rules = judge.rules(files.tolerances, files.conclusions, files.reported, params)
    recorded = expected.load(expected.file_of(files.expected, params))
    judged = judge.judge(values, settings, recorded, rules, params, strict)
    published_here = published_values(rules.reported, params)
    recomputed = claims.recomputed(rules.reported)
    study = claims.study_claims(values, rules.reported, params)
    listed = [check for check in judged.checks if check.key in published_here or check.verdict == DIFFERS]
    if out is not None:
        write_json(out, _json(judged, listed, published_here, recomputed, study, params))
    print_values(judged.checks if every else listed, published_here)
    print_conclusions(judged)
    print_claims(recomputed, study)
    print_counts(judged, params.model)
    return [f"{params.model}: {failure}" for failure in judged.failures]


def _read(tables: Path, params: Params) -> tuple[Measured, Measured]:
    """The cells of a run by key, and its settings."""
    written = read_model(tables)
    return Cells(written.tables).values, expected.settings(params, written.pairs_sha256)


def base_weights(build: Path, files: Files, params: Params) -> list[str]:
    """One line if the base model's weights are not the recorded ones though all settings are the same."""
    recorded = expected.load(expected.file_of(files.expected, params))
    base = build / "base"
    if recorded is None or not any(base.glob("*.safetensors")):
        return []
    now = expected.settings(params, str(recorded.settings.get(expected.PAIRS)))
    recorded_digest, digest = str(recorded.digests.get(expected.BASE)), expected.weights(base)
    if recorded_digest == digest or expected.difference(recorded.settings, now):
        return []
    return [f"{params.model}: {base}: expected weights with the digest {recorded_digest[:12]}…, got {digest[:12]}…"]


def against(folder: Path, files: Files, params: Params, strict: bool = False, every: bool = False) -> list[str]:
    """Judges this checkout's run against the run in the checkout `folder`, by the same rules.

    Returns:
        One line for each reason to fail.

    Raises:
        UserError: the other run has other settings; the line names the first that differs.
    """
    tables = Path("results") / params.model / "tables.json"
    values, settings = _read(tables, params)
    other = read_model(folder / tables)
    other_params = parameters.load(folder / "params.yaml", model=params.model)
    other_settings = expected.settings(other_params, other.pairs_sha256)
    if setting := expected.difference(other_settings, settings):
        raise UserError(f"verify --against {folder}: {params.model}: {setting}; compare runs of the same settings")
    rules = judge.rules(files.tolerances, files.conclusions, files.reported, params)
    judged = judge.judge(
        values, settings, Expected(params.model, other_settings, {}, other.tables), rules, params, strict
    )
    print_values(judged.checks if every else [check for check in judged.checks if check.verdict == DIFFERS], {})
    print_conclusions(judged)
    print_counts(judged, params.model)
    equal, number = equal_bytes(Path(), folder, params)
    click.echo(f"verify, {params.model}: equal bytes in {equal} of {number} row files")
    return [f"{params.model}: {failure}" for failure in judged.failures]


def row_files(folder: Path, params: Params) -> dict[str, Path]:
    """Path inside the build folder -> file, for every file of measured rows."""
    build = folder / "build" / params.model
    patterns = ("*.tsv", "base-rows/*.tsv", "benchmarks/*.tsv", "sweep/rows/**/*.tsv", "sweep/train/**/*.tsv")
    files = sorted({path for pattern in patterns for path in build.glob(pattern) if path.name != "pairs.tsv"})
    return {path.relative_to(build).as_posix(): path for path in files}


def equal_bytes(folder: Path, other: Path, params: Params) -> tuple[int, int]:
    """How many row files are the same in two checkouts, of how many that at least one of them has."""
    here, there = row_files(folder, params), row_files(other, params)
    equal = [name for name in here.keys() & there.keys() if sha256_of(here[name]) == sha256_of(there[name])]
    return len(equal), len(here.keys() | there.keys())


def finish(failures: Sequence[str], where: str) -> None:
    """Raises CheckFailed (exit 1) with the first failure, if there is one."""
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
        "values": {check.key: check.verdict for check in listed},
        "shown": [
            {**check._asdict(), "times": _finite(check.times), "published": published_here.get(check.key)}
            for check in listed
        ],
        "recomputed": [statistic._asdict() for statistic in recomputed],
        "study_claims": [claim._asdict() for claim in study],
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
