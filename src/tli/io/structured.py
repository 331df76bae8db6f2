"""JSON, YAML and TSV: floats with nine significant digits; bad input is refused in one line that names the place."""

from __future__ import annotations

import csv
import json
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tli.io.errors import UserError
from tli.io.files import atomic_write, read_text


def nine_digits(value: float | str) -> str:
    """A value as every row, JSON and table file holds it: nine significant digits, integers without a point."""
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError(f"a row's value must be finite, got {value}")
    return f"{float(value):.9g}"


def write_json(path: Path | str, value: object) -> None:
    """JSON with floats at nine significant digits and keys in the order given."""
    with atomic_write(path) as file:
        json.dump(rounded(value), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def rounded(value: object) -> object:
    """`value` with every float at nine significant digits, and mappings and sequences as JSON has them."""
    if isinstance(value, float):
        return float(nine_digits(value))
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def read_json(path: Path | str, what: str = "") -> Any:
    """What a JSON file holds; an object, named `what` in the message, where that is given.

    Raises:
        UserError: no such file, no JSON, or no object where one is expected.
    """
    value = parse_json(read_text(path), path)
    if what and not isinstance(value, dict):
        raise UserError(f"{path}: expected {what}, got {brief(value)}; run `dvc repro`, or name another file")
    return value


def parse_json(text: str, where: Path | str) -> Any:
    """The value that `text`, which stands at `where`, holds. UserError where it is no JSON, or has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}" if "\n" in text else f"{where}"
        raise UserError(f"{at}: column {error.colno}: not JSON: {error.msg}; mend the line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise UserError(f"{where}: not JSON: {' '.join(str(error).split())[:120]}; mend the file") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise ValueError(f"the key {next(key for key, _ in pairs if key in seen or seen.add(key))!r} twice")  # type: ignore[func-returns-value]
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"the number {name}")


def read_yaml(path: Path | str, *, made: bool = False) -> Any:
    """What a YAML file holds. UserError, with the line, where it is missing or no YAML."""
    return parse_yaml(read_text(path), path, made=made)


def parse_yaml(text: str, where: Path | str, *, made: bool = False) -> Any:
    """The value that `text`, which stands at `where`, holds, as plain Python. UserError where it is no YAML.

    What a program `made`, or the repository holds, libyaml reads where it is installed, in a fraction of the time.
    It is not for what anyone may hand in: a value nested too deep ends its process.
    """
    try:
        return YAML(typ="safe", pure=not made).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        line = mark.line + 1 if mark else 1
        raise UserError(f"{where}:{line}: not valid YAML: {problem}; mend that line") from None
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:  # what a tag makes of its value
        problem = " ".join(str(error).split())[:120]
        raise UserError(f"{where}: not valid YAML: {problem}; write plain values") from None


def brief(value: object) -> str:
    """A value as a message shows it: on one line, and no longer than a line."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()


_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 3, 4, 6, 80, 80


def write_tsv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A TSV file with a header. A cell may hold neither tab nor line break."""
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([nine_digits(cell) if isinstance(cell, float) else cell for cell in row])
