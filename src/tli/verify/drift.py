"""How far runs of the same settings differ, and the file that says so, paper/tolerances.yaml (tools/record)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tli.analysis.cells import Cells, Counts, TableCell
from tli.analysis.results import Measured, Value, load_yaml
from tli.analysis.tolerances import EXACT, SHOWN, Measure, Tolerances, kind_of, size
from tli.config.parameters import Params
from tli.io.files import write_text


def drift(value: Value, cell: TableCell, measure: Measure, counts: Counts, params: Params) -> float:
    """|value - reference| in the unit of the measure; infinite where one of the two is no number and they differ.

    Args:
        cell: the reference run's.
    """
    reference = cell.value
    if value == reference:
        return 0.0
    if isinstance(value, int | float) and isinstance(reference, int | float):
        return abs(value - reference) / size(cell, measure, counts, params)
    return math.inf


def largest(
    runs: Mapping[str, Measured], reference: Cells, chosen: Tolerances, params: Params
) -> dict[str, dict[str, float]]:
    """Kind -> run -> the largest drift of its values from the reference run; only kinds that have a unit of drift."""
    drifts: dict[str, dict[str, float]] = {}
    for key, cell in reference.by_key.items():
        measure = chosen.measure(cell)
        if measure.unit in (EXACT, SHOWN) or isinstance(cell.value, str) or cell.value is None:
            continue
        by_run = drifts.setdefault(kind_of(measure, cell, params), dict.fromkeys(runs, 0.0))
        for name, values in runs.items():
            by_run[name] = max(by_run[name], drift(values.get(key), cell, measure, reference.counts, params))
    return drifts


HEAD = """\
# How far a value may lie from paper/expected/<model>.json on another processor: max(2 x largest drift seen, floor).
# measures: edited by hand. columns: the kinds of column whose cells belong to it; keys: patterns of whole keys of cells
# that belong to it whatever their column is. unit of drift: exact (equal or not) | shown (not judged) | absolute |
# relative (share of the value) | statistic (share of the value, at least of 1) | items (of the value's set).
# kinds: written by tools/record. The largest drift of each run from the reference run, by model, in the same unit.
"""


def write(path: Path, chosen: Tolerances) -> None:
    """Writes tolerances.yaml, one line a measure and one a kind."""
    lines = ["measures:"]
    for name, entry in load_yaml(path)["measures"].items():
        parts = [f"unit: {entry['unit']}"]
        parts += [f"floor: {_yaml(entry['floor'])}"] if "floor" in entry else []
        parts += [f"columns: [{', '.join(entry['columns'])}]"] if "columns" in entry else []
        parts += [f"keys: [{', '.join(map(_quoted, entry['keys']))}]"] if "keys" in entry else []
        lines.append(f"  {name}: {{{', '.join(parts)}}}")
    lines.append("kinds:" if chosen.drifts else "kinds: {}")
    for kind, by_model in sorted(chosen.drifts.items()):
        models = ", ".join(
            f"{model}: {{{', '.join(f'{run}: {_yaml(value)}' for run, value in by_run.items())}}}"
            for model, by_run in by_model.items()
        )
        lines.append(f'  "{kind}": {{tolerance: {_yaml(chosen.drift_limit(kind))}, drift: {{{models}}}}}')
    write_text(path, HEAD + "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


def _yaml(value: Any) -> str:
    """A number with two significant digits, rounded up so that a run lies within its own drift."""
    if not value:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = math.ceil(round(value * 10**digits, 6)) / 10**digits
    text = f"{rounded:.2g}"
    return text if "e" not in text or "." in text else text.replace("e", ".0e")
