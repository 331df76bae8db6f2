"""paper/tolerances.yaml: how far a value may lie from the recorded one on another processor (stage: verify).

Every key of measured.json belongs to one measure, by the first part of the file: what it is, the unit of its drift and
a floor. A kind is a measure before or after training, at early layers (up to the one after `train.layer`) or deep ones:

    tolerance = max(2 x largest drift seen, floor) x unit of the value

where drift is |value of a run - value of the reference run| / unit. tools/record writes the second part, the drifts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tli.analysis.results import Measured, Value, load_yaml
from tli.config.parameters import Params
from tli.io.errors import UserError
from tli.io.files import write_text
from tli.io.structured import brief

EXACT, SHOWN = "exact", "shown"
UNITS = (EXACT, SHOWN, "absolute", "relative", "statistic", "items")

Drifts = dict[str, dict[str, dict[str, float]]]  # kind -> model -> run -> largest drift


class Measure(NamedTuple):
    """Keys that drift alike: the pattern of the whole key, the unit of their drift, the floor in that unit."""

    name: str
    keys: re.Pattern[str]
    unit: str
    floor: float


class Tolerances:
    """The measures and the drifts of one tolerances.yaml."""

    def __init__(self, measures: Mapping[str, Measure], drifts: Drifts) -> None:
        self.measures = dict(measures)
        self.drifts = drifts

    def measure(self, key: str) -> Measure:
        """The measure of a key.

        Raises:
            UserError: none or several measures match.
        """
        matches = [measure for measure in self.measures.values() if measure.keys.fullmatch(key)]
        if len(matches) != 1:
            names = ", ".join(measure.name for measure in matches) or "none"
            raise UserError(
                f"paper/tolerances.yaml: measures: expected one measure for the key {key}, got {names}; "
                "correct the patterns"
            )
        return matches[0]

    def kind(self, key: str, params: Params) -> str:
        """The kind of a key: `cosines, after training, deep`; of exact and shown values the measure alone."""
        measure = self.measure(key)
        if measure.unit in (EXACT, SHOWN):
            return measure.name
        return f"{measure.name}, {moment(key)} training, {depth(key, params)}"

    def drift_limit(self, kind: str) -> float:
        """max(2 x largest drift, floor) of a kind, in its unit."""
        floor = self.measures[kind.partition(",")[0]].floor
        by_model = self.drifts.get(kind, {})
        return max([floor, *(2 * drift for by_run in by_model.values() for drift in by_run.values())])

    def tolerance(self, key: str, value: Value, values: Measured, params: Params) -> float | None:
        """How far from the recorded `value` another run may lie; 0 where it must be equal, None where it is not judged.

        Args:
            values: the recorded run, which says how many items a score is a mean of.
        """
        unit = self.measure(key).unit
        if unit == SHOWN:
            return None
        if unit == EXACT or isinstance(value, str) or value is None:
            return 0.0
        return self.drift_limit(self.kind(key, params)) * size(key, value, unit, values, params)

    def without(self, run: str) -> Tolerances:
        """The same without the drifts of one run."""
        drifts = {
            kind: {
                model: {name: drift for name, drift in by_run.items() if name != run}
                for model, by_run in by_model.items()
            }
            for kind, by_model in self.drifts.items()
        }
        return Tolerances(self.measures, drifts)


def load(path: Path) -> Tolerances:
    """Reads tolerances.yaml.

    Raises:
        UserError: a pattern or a unit that does not exist, or a drift of a measure that the file does not have.
    """
    raw = load_yaml(path)
    measures = {}
    for name, entry in (raw.get("measures") or {}).items():
        unit, floor = entry.get("unit"), entry.get("floor", 0)
        if unit not in UNITS or not isinstance(floor, int | float):
            raise UserError(
                f"{path}: measures.{name}: expected a unit of {', '.join(UNITS)} and a number as floor, "
                f"got {brief(unit)} and {brief(floor)}; correct the entry"
            )
        try:
            measures[name] = Measure(name, re.compile(str(entry.get("keys"))), unit, float(floor))
        except re.error as error:
            raise UserError(f"{path}: measures.{name}.keys: no regular expression: {error}; correct it") from None
    drifts: Drifts = {kind: entry.get("drift") or {} for kind, entry in (raw.get("kinds") or {}).items()}
    for kind in drifts:
        if kind.partition(",")[0] not in measures:
            raise UserError(f"{path}: kinds.{kind}: expected a kind of the measures above; run tools/record")
    return Tolerances(measures, drifts)


def moment(key: str) -> str:
    """Whether a value is of the base model (`before` training) or depends on an adapter (`after`)."""
    return "before" if re.match(r"(scan|baseline)\.|.*(\.|_)before\.|.*\.base\.", key) else "after"


def depth(key: str, params: Params) -> str:
    """`early` up to the layer after the one that the loss reads; `deep` beyond, and for what every block changes."""
    if key.startswith("setup.train."):
        return "early"
    layer = re.search(r"\.(\d+|norm)(\.(mask|content)\.(nf4|fp4))?$", key)
    if layer is None or layer[1] == "norm" or re.match(r"class\.|sweep\.r\d+\.class_change\.", key):
        return "deep"
    return "early" if int(layer[1]) <= params.train.layer + 1 else "deep"


def size(key: str, value: float, unit: str, values: Measured, params: Params) -> float:
    """What a drift of 1 is in the value of a key.

    absolute: 1. relative: |value|. statistic: |value|, at least 1: a t near 0 moves as far as one of 1. items: what one
    item is worth.
    """
    if unit == "relative":
        return max(abs(value), 1e-12)
    if unit == "statistic":
        return max(abs(value), 1.0)
    return item_value(key, values, params) if unit == "items" else 1.0


def item_value(key: str, values: Measured, params: Params) -> float:
    """What one item is worth: 1 / n of a share, 100 / n points of an accuracy, 1 of a count.

    Raises:
        UserError: the run does not say how many items there are.
    """
    task = re.search(r"\.(xcopa|xnli)(?:\.([a-z]{2}))?(?:\.|$)", key)
    if task is None:
        return 1 / _words(key, values, params)
    if key.endswith((".won", ".lost")):
        return 1.0
    label = re.search(r"^class\..*\.(\d+)$|^sweep\.r\d+\.class_change\..*\.(\d+)$", key)
    ending = f"label.{label[1] or label[2]}" if label else "items"
    return 100 / _items(task[1], task[2], ending, values, params)


def _words(key: str, values: Measured, params: Params) -> int:
    """The number of words that a retrieval score is a mean over."""
    if key.startswith("projection."):
        return params.project.pairs
    sets = ("control",) if re.search(r"\.control\.|^probe\.", key) else ("trained", "control")
    sets = ("trained",) if ".trained." in key else sets
    return sum(_count(f"setup.pairs.{name}", values) for name in sets)


def _items(task: str, language: str | None, ending: str, values: Measured, params: Params) -> int:
    """The number of scored items of a task in a language, of its smallest set without one."""
    splits = ("validation", "dev", "test") if params.transfer.split == "validation" else ("test", "validation", "dev")
    start = f"items.{task}." if language is None else f"items.{task}.{language}."
    for split in splits:
        keys = [key for key in values if key.startswith(start) and key.endswith(f".{split}.{ending}")]
        if keys:
            return min(_count(key, values) for key in keys)
    return _count(f"{start}{splits[0]}.{ending}", values)


def _count(key: str, values: Measured) -> int:
    count = values.get(key)
    if not isinstance(count, int | float) or count < 1:
        raise UserError(f"tolerances: expected a count under {key}, got {brief(count)}; run `dvc repro`")
    return int(count)


def drift(key: str, value: Value, reference: Value, measure: Measure, values: Measured, params: Params) -> float:
    """|value - reference| in the unit of the measure; infinite where one of the two is no number and they differ."""
    if value == reference:
        return 0.0
    if isinstance(value, int | float) and isinstance(reference, int | float):
        return abs(value - reference) / size(key, reference, measure.unit, values, params)
    return math.inf


def largest(
    runs: Mapping[str, Measured], reference: Measured, chosen: Tolerances, params: Params
) -> dict[str, dict[str, float]]:
    """Kind -> run -> the largest drift of its values from the reference run; only kinds that have a unit of drift."""
    drifts: dict[str, dict[str, float]] = {}
    for key, value in reference.items():
        measure = chosen.measure(key)
        if measure.unit in (EXACT, SHOWN):
            continue
        by_run = drifts.setdefault(chosen.kind(key, params), dict.fromkeys(runs, 0.0))
        for name, values in runs.items():
            by_run[name] = max(by_run[name], drift(key, values.get(key), value, measure, reference, params))
    return drifts


HEAD = """\
# How far a value may lie from paper/expected/<model>.json on another processor: max(2 x largest drift seen, floor).
# measures: edited by hand. keys: pattern of the whole key. unit of drift: exact (equal or not) | shown (not judged) |
# absolute | relative (share of the value) | statistic (share of the value, at least of 1) | items (of the value's set).
# kinds: written by tools/record. The largest drift of each run from the reference run, by model, in the same unit.
"""


def write(path: Path, chosen: Tolerances) -> None:
    """Writes tolerances.yaml, one line a measure and one a kind."""
    raw = load_yaml(path)
    lines = ["measures:"]
    for name, entry in raw["measures"].items():
        floor = f", floor: {_yaml(entry['floor'])}" if "floor" in entry else ""
        keys = str(entry["keys"]).replace("'", "''")
        lines.append(f"  {name}: {{unit: {entry['unit']}{floor}, keys: '{keys}'}}")
    lines.append("kinds:" if chosen.drifts else "kinds: {}")
    for kind, by_model in sorted(chosen.drifts.items()):
        models = ", ".join(
            f"{model}: {{{', '.join(f'{run}: {_yaml(value)}' for run, value in by_run.items())}}}"
            for model, by_run in by_model.items()
        )
        lines.append(f'  "{kind}": {{tolerance: {_yaml(chosen.drift_limit(kind))}, drift: {{{models}}}}}')
    write_text(path, HEAD + "\n".join(lines) + "\n")


def _yaml(value: Any) -> str:
    """A number with two significant digits, rounded up so that a run lies within its own drift."""
    if not value:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = math.ceil(round(value * 10**digits, 6)) / 10**digits
    text = f"{rounded:.2g}"
    return text if "e" not in text or "." in text else text.replace("e", ".0e")
