"""`tli audit`: recomputes published statistics from a file of results, and audits any word list.

It reads files in the format of the author's public files. A file that contains only a sample cannot reproduce the
published statistics. So the output shows which of them agree, and only --strict sets the exit status.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from tli.analysis.results import flat, load_yaml
from tli.data.words import audit, lexicon
from tli.data.words.author import read_author_list
from tli.io.errors import CheckFailed, UserError
from tli.io.files import read_text
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
ROUNDING = 1e-6  # tolerance for a cosine above 1, and for an improvement that differs from post - pre


class Result(NamedTuple):
    """A pair of a results file, with its cosine before and after training."""

    swahili: str
    english: str
    before: float
    after: float
    group: str


class Compared(NamedTuple):
    """A published statistic, the recomputed one, and whether they agree (None if the file does not contain it)."""

    statistic: str
    published: str
    recomputed: str
    agrees: bool | None


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields (file:line, cells) of every line after the header; UserError if the file is no CSV with these columns."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for number, cells in enumerate(reader):
            where = f"{path}:{reader.line_num}"
            if number == 0 and tuple(cells) != tuple(columns):
                got = ",".join(cells)
                raise lexicon.complaint(where, f"the columns {','.join(columns)}", f"{got[:80]!r}", "give such a file")
            if len(cells) != len(columns):
                raise lexicon.complaint(where, f"{len(columns)} columns", str(len(cells)), "fix that line")
            if number:
                yield where, cells
    except csv.Error as error:
        raise lexicon.complaint(f"{path}:{reader.line_num}", "CSV", str(error), "fix that line") from None
    if reader.line_num < 2:
        raise lexicon.complaint(
            f"{path}:2", "at least one line of values", "none", "check whether the file is truncated"
        )


def _number(text: str, where: str, column: str, low: float, high: float) -> float:
    """A number from low to high, within ROUNDING; UserError if the text is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low - ROUNDING <= value <= high + ROUNDING:
        raise lexicon.complaint(f"{where}: {column}", f"a number from {low:g} to {high:g}", repr(text), "correct it")
    return value


def read_results(path: Path) -> list[Result]:
    """Reads the pairs of a per-pair results file (CSV).

    Raises:
        UserError: a cosine outside [-1, 1], an unknown group, or an improvement that is not post - pre; the message
            begins with file:line.
    """
    results = []
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
        results.append(Result(swahili, english, before, after, group))
    return results


def read_pilot(path: Path) -> dict[int, float]:
    """Reads layer -> mean cosine from a file of the pilot (CSV).

    Raises:
        UserError: a bad layer or cosine, or a layer that occurs twice.
    """
    layers: dict[int, float] = {}
    for where, (layer, cosine) in _lines(path, PILOT):
        if not layer.isdecimal() or len(layer) > 4 or int(layer) in layers:
            raise lexicon.complaint(f"{where}: layer", "a whole number, each once", repr(layer), "correct the column")
        layers[int(layer)] = _number(cosine, where, PILOT[1], -1, 1)
    return layers


def _compare(statistic: str, published: float, recomputed: float | None, half_unit: float) -> Compared:
    """Compares two values, shown with the published digits. They agree if the recomputed one rounds to these."""
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
    """Compares every published statistic with the one that the pairs give.

    Statistics are by set, of the difference between sets, by number of words, and of single examples.

    Args:
        results: the pairs.
        reported: the published values (paper/reported.yaml), with half a unit of their last digit in `half_units`.
    """
    half, compared = reported["half_units"], []
    by_set = {name: [result for result in results if result.group == name] for name in lexicon.SETS}
    for name, chosen in by_set.items():
        published, rounding = reported["before_after"][name], reported["before_after"]["half_unit"]
        test = t_tests.paired([result.before for result in chosen], [result.after for result in chosen])
        compared.append(_count(f"{name}: n", published["n"], test.n))
        for key, title in MEANS.items():
            compared.append(_compare(f"{name}: {title}", published[key], getattr(test, key), rounding))
        compared.append(_compare(f"{name}: paired t", published["t"], test.t, half["t"]))
        compared.append(_compare_p(f"{name}: p", published["p"], test.p, half["p"]))
        compared.append(_compare(f"{name}: d_z", published["d_z"], test.d_z, half["d_z"]))
        compared.append(_count(f"{name}: pairs down", published["decreased"], test.decreased))
    gains = {name: [result.after - result.before for result in chosen] for name, chosen in by_set.items()}
    welch, published = t_tests.welch(gains["trained"], gains["control"]), reported["gain_difference"]
    title = "trained − control: mean gain"
    compared.append(_compare(title, published["difference"], welch.difference, half["difference"]))
    compared.append(_compare("trained − control: Welch t", published["t"], welch.t, half["welch_t"]))
    for name, published in reported["length_classes"].items():
        class_gains = [
            result.after - result.before
            for result in results
            if (" " in result.swahili + result.english) == (name == "several")
        ]
        title = "several words on a side" if name == "several" else "two single words"
        mean = spread(class_gains).mean
        compared.append(_count(f"{title}: n", published["n"], len(class_gains)))
        compared.append(_compare(f"{title}: mean gain", published["gain"], mean, half["class_gain"]))
    by_pair = {(result.swahili, result.english): result for result in results}
    for published in reported["examples"]:
        example = by_pair.get((published["swahili"], published["english"]))
        for key in ("before", "after"):
            title = f"{published['swahili']} / {published['english']}: {key}"
            value = getattr(example, key) if example else None
            compared.append(_compare(title, published[key], value, half["example"]))
    return compared


def compare_pilot(layers: Mapping[int, float], reported: Mapping[str, Any]) -> list[Compared]:
    """Compares the published mean cosine of every layer with the file's."""
    half = reported["half_units"]["pilot"]
    return [_compare(f"pilot: layer {n}", value, layers.get(n), half) for n, value in reported["pilot"].items()]


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells as text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (header, *lines))
    return "\n".join(row.rstrip() for row in rows)


def print_list(path: Path, control: Path | None, batch_size: int) -> None:
    """Prints the audit of a word list.

    Args:
        path: a TSV file of both sets, or the JSON list of the trained set.
        control: the JSON list of the control set, or None.
        batch_size: the training batch size, for the expected false negatives.
    """
    if path.suffix == ".json":
        pairs = [*read_author_list(path, "trained"), *(read_author_list(control, "control") if control else [])]
    elif control:
        raise UserError(f"{path}: --control: expected none with a list that has a column `set`, got one; leave it out")
    else:
        pairs = lexicon.read_pairs(path)
    lines: dict[str, dict[str, str]] = {}
    for key, value in flat(audit.audit(pairs, batch_size)).items():
        name, _, column = key.rpartition(".")
        if not name or column not in ("all", *lexicon.SETS):
            name, column = key, "all"
        lines.setdefault(name.replace(".", ": ").replace("_", " "), {})[column] = f"{value:.6g}"
    columns = ("all", *lexicon.SETS)
    cells = [[name, *(line.get(c, "") for c in columns)] for name, line in lines.items()]
    click.echo(aligned(("count", *columns), cells))
    for side in lexicon.SIDES:
        click.echo(f"{side} forms in both sets: {', '.join(audit.in_both_sets(pairs, side)) or 'none'}")
    click.echo(
        f"false negatives: (anchor, negative) couples that share a form, expected at {batch_size} pairs per batch"
    )


def print_compared(path: Path, compared: Sequence[Compared], strict: bool) -> None:
    """Prints a table of published and recomputed statistics. Raises CheckFailed if `strict` and one does not agree."""
    verdict = {True: "yes", False: "no", None: "not in the file"}
    lines = [(line.statistic, line.published, line.recomputed, verdict[line.agrees]) for line in compared]
    click.echo(aligned(("statistic", "published", "recomputed", "agrees"), lines))
    wrong = [line for line in compared if not line.agrees]
    click.echo(f"{path}: {len(compared) - len(wrong)} of {len(compared)} published statistics agree")
    if wrong and strict:
        first = wrong[0]
        raise CheckFailed(
            f"{path}: {first.statistic}: expected {first.published} (published), got {first.recomputed} "
            f"({len(wrong)} do not agree); a file that contains a sample cannot agree"
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
    """Audits each given file. All files are read before the command fails because of a difference.

    Args:
        results: per-pair results (CSV).
        pilot: mean cosines by layer (CSV).
        pairs: a word list (TSV, or JSON of the trained set).
        control: JSON of the control set, with `pairs`.
        reported: the published values.
        batch_size: the training batch size.
        strict: fail if a published statistic does not follow from a file.

    Raises:
        UserError: no file is given, or a file is broken (exit status 2).
        CheckFailed: `strict`, and a statistic differs (exit status 1).
    """
    if control and not pairs:
        raise UserError("audit: --control: expected --pairs too, got none; give the trained list")
    if not (results or pilot or pairs):
        raise UserError("audit: expected a file, got none; give --results, --pilot or --pairs")
    if pairs:
        print_list(pairs, control, batch_size)
    published = load_yaml(reported)
    compared = [(path, compare_pilot(read_pilot(path), published)) for path in [pilot] if path]
    compared += [(path, compare_results(read_results(path), published)) for path in [results] if path]
    for path, lines in compared:
        print_compared(path, lines, strict)
