"""paper/conclusions.yaml: the headlines of a run, each with a margin, and whether two runs agree on them (verify).

A conclusion is a value, or one value minus another, beside a margin m. Its state is `above` (> +m), `below` (< -m) or
`within` (from -m to +m). Two runs agree on it where both have the same state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tli.analysis.cells import Cells
from tli.analysis.results import Measured, Value, load_yaml
from tli.analysis.scores import AT_CHANCE
from tli.analysis.tolerances import Tolerances
from tli.analysis.views import points
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.structured import brief

ABOVE, BELOW, WITHIN = "above", "below", "within"
UNDEFINED, MISSING = "undefined", "not measured"
PEAK = "setup/peak_layer/here"


class Conclusion(NamedTuple):
    """One headline; `keys` holds one key or two, the second of which is subtracted. Names in braces stand in them."""

    name: str
    keys: tuple[str, ...]
    margin: float
    why: str
    borderline: bool


class Outcome(NamedTuple):
    """A conclusion in the recorded run and in this one."""

    name: str
    keys: tuple[str, ...]
    margin: float
    expected_value: Value
    expected_state: str
    measured_value: Value
    measured_state: str
    borderline: bool

    @property
    def changed(self) -> bool:
        """Whether the runs disagree on a conclusion that decides the exit status."""
        return self.expected_state != self.measured_state and not self.borderline


def load(path: Path, params: Params) -> list[Conclusion]:
    """The conclusions of this model.

    A margin is a number, or the name of a margin in `stats.margins` of params.yaml. `borderline` is true, or a list of
    models.

    Raises:
        UserError: an entry that is not of its form; a name twice; a margin that does not exist.
    """
    raw = load_yaml(path)
    conclusions = []
    for entry in raw.get("conclusions") or []:
        name = str(entry.get("name"))
        if entry.keys() - {"borderline"} != {"name", "models", "value", "margin"}:
            raise UserError(
                f"{path}: {name}: expected the keys name, models, value, margin and perhaps borderline, got "
                f"{', '.join(entry)}; correct the entry"
            )
        if params.model in entry["models"]:
            margin, why = _margin(raw.get("margins") or {}, entry["margin"], f"{path}: {name}", params)
            borderline = entry.get("borderline", False)
            marked = borderline if isinstance(borderline, bool) else params.model in borderline
            keys = tuple(part.strip() for part in str(entry["value"]).split(" minus "))
            conclusions.append(Conclusion(name, keys, margin, why, marked))
    names = [conclusion.name for conclusion in conclusions]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: expected each name once, got {twice[0]!r} twice; rename one")
    return conclusions


def _margin(margins: Mapping[str, Any], name: str, where: str, params: Params) -> tuple[float, str]:
    """The margin of that name and its reason; `value` is a number, or a key of stats.margins."""
    if name not in margins:
        raise UserError(f"{where}: margin: expected one of {', '.join(margins)}, got {brief(name)}")
    value, why = margins[name]["value"], str(margins[name]["why"])
    declared: Mapping[str, float] = params.stats.margins.model_dump()
    if isinstance(value, str) and value in declared:
        value = declared[value]
    if not isinstance(value, int | float) or value <= 0:
        raise UserError(
            f"{where}: margin: expected a number above 0 or one of {', '.join(declared)}, got {brief(value)}"
        )
    return float(value), why


def resolve(key: str, values: Measured, params: Params) -> str:
    """A key with its names in braces replaced: the named views of this model, and `peak`, the run's own peak layer."""
    names = points(params) | {"peak": str(values.get(PEAK))}
    try:
        return key.format_map(names)
    except KeyError as error:
        raise UserError(
            f"paper/conclusions.yaml: {key}: expected names of {', '.join(names)} in braces, got {error.args[0]}"
        ) from None


def value_of(conclusion: Conclusion, values: Measured, params: Params) -> tuple[Value, str]:
    """The value of a conclusion in a run, and its state; AT_CHANCE where the table says so in place of a verdict."""
    keys = [resolve(key, values, params) for key in conclusion.keys]
    if any(key not in values for key in keys):
        return None, MISSING
    if any(values.get(f"{key.rpartition('/')[0]}/verdict") == AT_CHANCE for key in keys):
        return None, AT_CHANCE
    numbers = [values[key] for key in keys]
    if not all(isinstance(number, int | float) for number in numbers):
        return None, UNDEFINED
    first, *rest = (float(str(number)) for number in numbers)
    value = first - sum(rest)
    return value, state(value, conclusion.margin)


def state(value: float, margin: float) -> str:
    """above: value > margin; below: value < -margin; within: all else."""
    return ABOVE if value > margin else BELOW if value < -margin else WITHIN


def compare(chosen: Sequence[Conclusion], expected: Measured, measured: Measured, params: Params) -> list[Outcome]:
    """Each conclusion in both runs."""
    outcomes = []
    for conclusion in chosen:
        before, now = (value_of(conclusion, values, params) for values in (expected, measured))
        keys = tuple(resolve(key, measured, params) for key in conclusion.keys)
        outcomes.append(Outcome(conclusion.name, keys, conclusion.margin, *before, *now, conclusion.borderline))
    return outcomes


def distance(conclusion: Conclusion, value: float) -> float:
    """How far a value lies from the nearer end of its margin."""
    return min(abs(value - conclusion.margin), abs(value + conclusion.margin))


def tolerance(conclusion: Conclusion, cells: Cells, tolerances: Tolerances, params: Params) -> float:
    """How far the value of a conclusion may move: the tolerances of its keys together.

    Raises:
        UserError: a key that is not measured or not judged.
    """
    total, values = 0.0, cells.values
    for pattern in conclusion.keys:
        key = resolve(pattern, values, params)
        known = key in cells.by_key
        width = tolerances.tolerance(cells.by_key[key], cells.counts, params) if known else None
        if width is None:
            raise UserError(
                f"paper/conclusions.yaml: {conclusion.name}: expected a value that is measured and judged, got {key}; "
                "correct the key or leave the model out"
            )
        total += width
    return total
