"""`tli audit`: published statistics against those that follow from a file of results, and the audit of any word list.

Reads files in the form of the author's public ones; feeds no table. A file that is a sample cannot agree with what was
published of the whole: the print-out says which statistics do, and only --strict makes a status of it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from tli.data.words import audit, lexicon
from tli.data.words.author import read_author_list
from tli.io.errors import CheckFailed, UserError
from tli.io.files import read_text
from tli.paper.rows import flat, load_yaml
from tli.stats import t_tests
from tli.stats.descriptive import spread

RESULTS = ("swahili", "english", "sim_pre_tli", "sim_post_tli", "group", "improvement")
PILOT = ("layer", "avg_cosine_similarity")
MEANS = {
    "before": "before",
    "before_sd": "before, SD",
    "after": "after",
    "after_sd": "after, SD",
    "gain": "mean gain",
    "gain_sd": "gain, SD",
}
ROUNDING = 1e-6  # what a cosine may exceed 1 by, and an improvement differ from post - pre


class Result(NamedTuple):
    """One pair of a results file: its cosine before and after training."""

    swahili: str
    english: str
    before: float
    after: float
    group: str


class Compared(NamedTuple):
    """A published statistic, the one recomputed (None where the file does not have it), and whether they agree."""

    statistic: str
    published: str
    recomputed: str
    agrees: bool | None


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(file:line, cells) of every line after the header. UserError where the file is no CSV of these columns."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for number, cells in enumerate(reader):
            where = f"{path}:{reader.line_num}"
            if number == 0 and tuple(cells) != tuple(columns):
                got = ",".join(cells)
                raise lexicon.complaint(where, f"the columns {','.join(columns)}", f"{got[:80]!r}", "name such a file")
            if len(cells) != len(columns):
                raise lexicon.complaint(where, f"{len(columns)} columns", str(len(cells)), "mend that line")
            if number:
                yield where, cells
    except csv.Error as error:
        raise lexicon.complaint(f"{path}:{reader.line_num}", "CSV", str(error), "mend that line") from None
    if reader.line_num < 2:
        raise lexicon.complaint(f"{path}:2", "at least one line of values", "none", "see whether the file was cut")


def _number(text: str, where: str, column: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low - ROUNDING <= value <= high + ROUNDING:
        raise lexicon.complaint(f"{where}: {column}", f"a number from {low:g} to {high:g}", repr(text), "correct it")
    return value


def read_results(path: Path) -> list[Result]:
    """The pairs of a per-pair results file, checked: cosines in [-1, 1], groups known, improvement = post - pre."""
    found = []
    for where, cells in _lines(path, RESULTS):
        swahili, english, pre, post, group, improvement = cells
        before, after = (
            _number(text, where, column, -1, 1) for text, column in ((pre, RESULTS[2]), (post, RESULTS[3]))
        )
        gain = _number(improvement, where, "improvement", -2, 2)
        if abs(gain - (after - before)) > ROUNDING:
            expected = f"post - pre = {after - before:.9g}"
            raise lexicon.complaint(f"{where}: improvement", expected, improvement, "correct one of the three")
        if group not in lexicon.SETS:
            raise lexicon.complaint(f"{where}: group", " or ".join(lexicon.SETS), repr(group), "correct the column")
        found.append(Result(swahili, english, before, after, group))
    return found


def read_pilot(path: Path) -> dict[int, float]:
    """Layer -> mean cosine, of a file of the pilot; each layer once."""
    found: dict[int, float] = {}
    for where, (layer, cosine) in _lines(path, PILOT):
        if not layer.isdecimal() or len(layer) > 4 or int(layer) in found:
            raise lexicon.complaint(f"{where}: layer", "a whole number, each once", repr(layer), "correct the column")
        found[int(layer)] = _number(cosine, where, PILOT[1], -1, 1)
    return found


def _compare(statistic: str, published: float, recomputed: float | None, half_unit: float) -> Compared:
    """Agrees if the recomputed value rounds to the published digits; both are shown with these digits."""
    places = max(0, round(-math.log10(2 * half_unit)))
    if recomputed is None:
        return Compared(statistic, f"{published:.{places}f}", "-", None)
    agrees = abs(recomputed - published) <= half_unit * (1 + 1e-6)
    return Compared(statistic, f"{published:.{places}f}", f"{recomputed:.{places}f}", agrees)


def _compare_p(statistic: str, published: str, p: float | None, half_unit: float) -> Compared:
    """Agrees if p rounds to the published digits, as `1.3320e-240`; `half_unit` is of the mantissa."""
    if p is None:
        return Compared(statistic, published, "-", None)
    unit = float(f"1e{published.partition('e')[2]}")
    places = len(published.partition("e")[0]) - 2
    mantissa, exponent = f"{p:.{places}e}".split("e")
    agrees = abs(p - float(published)) <= half_unit * unit * (1 + 1e-6)
    return Compared(statistic, published, f"{mantissa}e{int(exponent)}", agrees)


def _count(statistic: str, published: int, recomputed: int) -> Compared:
    return Compared(statistic, str(published), str(recomputed), published == recomputed)


def compare_results(results: Sequence[Result], reported: Mapping[str, Any]) -> list[Compared]:
    """Every published statistic against the one that these pairs give: by set, between sets, by length, by example."""
    half, found = reported["half_units"], []
    by_set = {name: [one for one in results if one.group == name] for name in lexicon.SETS}
    for name, chosen in by_set.items():
        said, rounding = reported["before_after"][name], reported["before_after"]["half_unit"]
        test = t_tests.paired([one.before for one in chosen], [one.after for one in chosen])
        found.append(_count(f"{name}: n", said["n"], test.n))
        for key, title in MEANS.items():
            found.append(_compare(f"{name}: {title}", said[key], getattr(test, key), rounding))
        found.append(_compare(f"{name}: paired t", said["t"], test.t, half["t"]))
        found.append(_compare_p(f"{name}: p", said["p"], test.p, half["p"]))
        found.append(_compare(f"{name}: d_z", said["d_z"], test.d_z, half["d_z"]))
        found.append(_count(f"{name}: pairs down", said["decreased"], test.decreased))
    gains = {name: [one.after - one.before for one in chosen] for name, chosen in by_set.items()}
    welch, said = t_tests.welch(gains["trained"], gains["control"]), reported["gain_difference"]
    found.append(_compare("trained − control: mean gain", said["difference"], welch.difference, half["difference"]))
    found.append(_compare("trained − control: Welch t", said["t"], welch.t, half["welch_t"]))
    for name, said in reported["length_classes"].items():
        of_class = [
            one.after - one.before for one in results if (" " in one.swahili + one.english) == (name == "several")
        ]
        title = "several words on a side" if name == "several" else "two single words"
        found.append(_count(f"{title}: n", said["n"], len(of_class)))
        found.append(_compare(f"{title}: mean gain", said["gain"], spread(of_class).mean, half["class_gain"]))
    of_pair = {(one.swahili, one.english): one for one in results}
    for said in reported["examples"]:
        one = of_pair.get((said["swahili"], said["english"]))
        for key in ("before", "after"):
            title = f"{said['swahili']} / {said['english']}: {key}"
            found.append(_compare(title, said[key], getattr(one, key) if one else None, half["example"]))
    return found


def compare_pilot(layers: Mapping[int, float], reported: Mapping[str, Any]) -> list[Compared]:
    """The published mean cosine of every layer against the file's."""
    half = reported["half_units"]["pilot"]
    return [_compare(f"pilot: layer {n}", said, layers.get(n), half) for n, said in reported["pilot"].items()]


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as columns, two spaces between."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (header, *lines))
    return "\n".join(row.rstrip() for row in rows)


def print_list(path: Path, control: Path | None, batch_size: int) -> None:
    """Prints the audit of a list: a TSV file of both sets, or the trained set's JSON list with the control set's."""
    if path.suffix == ".json":
        pairs = [*read_author_list(path, "trained"), *(read_author_list(control, "control") if control else [])]
    elif control:
        raise UserError(f"{path}: a list with a column `set` needs no --control; leave it out")
    else:
        pairs = lexicon.read_pairs(path)
    lines: dict[str, dict[str, str]] = {}
    for key, value in flat(audit.audit(pairs, batch_size)).items():
        what, _, column = key.rpartition(".")
        if not what or column not in ("all", *lexicon.SETS):
            what, column = key, "all"
        lines.setdefault(what.replace(".", ": ").replace("_", " "), {})[column] = f"{value:.6g}"
    columns = ("all", *lexicon.SETS)
    click.echo(
        aligned(("what", *columns), [[what, *(line.get(c, "") for c in columns)] for what, line in lines.items()])
    )
    for side in lexicon.SIDES:
        click.echo(f"{side} forms in both sets: {', '.join(audit.in_both_sets(pairs, side)) or 'none'}")
    click.echo(f"false negatives: (anchor, negative) couples that share a form, expected at {batch_size} pairs a batch")


def print_compared(path: Path, compared: Sequence[Compared], strict: bool) -> None:
    """Prints published | recomputed | agrees. CheckFailed if `strict` and not every statistic agrees."""
    verdict = {True: "yes", False: "no", None: "not in the file"}
    lines = [(one.statistic, one.published, one.recomputed, verdict[one.agrees]) for one in compared]
    click.echo(aligned(("statistic", "published", "recomputed", "agrees"), lines))
    wrong = [one for one in compared if not one.agrees]
    click.echo(f"{path}: {len(compared) - len(wrong)} of {len(compared)} published statistics agree")
    if wrong and strict:
        first = wrong[0]
        raise CheckFailed(
            f"{path}: {first.statistic}: expected {first.published} (published), got {first.recomputed} "
            f"({len(wrong)} such); a file that holds a sample cannot agree"
        )


def run(
    *,
    results: Path | None,
    pilot: Path | None,
    pairs: Path | None,
    control: Path | None,
    reported: Path,
    batch_size: int,
    strict: bool,
) -> None:
    """Audits each file that is given; every file is read and compared before anything fails for a difference.

    Raises:
        UserError: no file, or a broken one (exit 2).
        CheckFailed: `strict`, and a published statistic does not follow from a file (exit 1).
    """
    if control and not pairs:
        raise UserError("audit: --control: expected --pairs beside it, got none; give the trained list")
    if not (results or pilot or pairs):
        raise UserError("audit: expected a file, got none; give --results, --pilot or --pairs")
    if pairs:
        print_list(pairs, control, batch_size)
    published = load_yaml(reported)
    compared = [(path, compare_pilot(read_pilot(path), published)) for path in [pilot] if path]
    compared += [(path, compare_results(read_results(path), published)) for path in [results] if path]
    for path, lines in compared:
        print_compared(path, lines, strict)
