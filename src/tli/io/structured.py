"""Reads and writes JSON, YAML and TSV files.

Floats are written with nine significant digits. Bad input raises UserError with the file and, where known, the line.
"""

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
    """Formats a number with nine significant digits, and an integer without a decimal point; a text stays as it is.

    Raises:
        ValueError: the number is not finite.
    """
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError(f"a row's value must be finite, got {value}")
    return f"{float(value):.9g}"


def write_json(path: Path | str, value: object) -> None:
    """Writes `value` as JSON, atomically, with floats at nine significant digits and keys in the order given."""
    with atomic_write(path) as file:
        json.dump(rounded(value), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def rounded(value: object) -> object:
    """The value with every float in it rounded to nine significant digits; mappings and sequences as JSON has them."""
    if isinstance(value, float):
        return float(nine_digits(value))
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def read_json(path: Path | str, what: str = "") -> Any:
    """Returns the value in a JSON file.

    Args:
        path: the file.
        what: if given, the value must be an object, and the error message calls it `what`.

    Raises:
        UserError: no such file, no valid JSON, or no object where one is expected.
    """
    value = parse_json(read_text(path), path)
    if what and not isinstance(value, dict):
        raise UserError(f"{path}: expected {what}, got {brief(value)}; run `dvc repro`, or name another file")
    return value


def parse_json(text: str, where: Path | str) -> Any:
    """Returns the value of a JSON text.

    Args:
        text: the JSON.
        where: the place that an error message names, such as a path or `path:line`.

    Raises:
        UserError: no valid JSON, a key that occurs twice in an object, or a number that is not finite.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}" if "\n" in text else f"{where}"
        raise UserError(f"{at}: column {error.colno}: not JSON: {error.msg}; fix the line") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or brackets nested too deep
        raise UserError(f"{where}: not JSON: {' '.join(str(error).split())[:120]}; fix the file") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        raise ValueError(f"the key {next(key for key, _ in pairs if key in seen or seen.add(key))!r} twice")  # type: ignore[func-returns-value]
    return unique


def _refuse(name: str) -> float:
    raise ValueError(f"the number {name}")


def read_yaml(path: Path | str, *, trusted: bool = False) -> Any:
    """Returns the value in a YAML file; arguments and errors as of `parse_yaml`."""
    return parse_yaml(read_text(path), path, trusted=trusted)


def parse_yaml(text: str, where: Path | str, *, trusted: bool = False) -> Any:
    """Returns the value of a YAML text as plain Python objects.

    Args:
        text: the YAML.
        where: the place that an error message names.
        trusted: read with libyaml where it is installed, which is much faster. Only for files that a program wrote or
            the repository contains: libyaml crashes the process on a value that is nested too deep.

    Raises:
        UserError: no valid YAML; the message names the line where it is known.
    """
    try:
        return YAML(typ="safe", pure=not trusted).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        line = mark.line + 1 if mark else 1
        raise UserError(f"{where}:{line}: not valid YAML: {problem}; fix that line") from None
    except (
        ValueError,
        RecursionError,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # from a tag that does not fit its value
        problem = " ".join(str(error).split())[:120]
        raise UserError(f"{where}: not valid YAML: {problem}; write plain values") from None


def brief(value: object) -> str:
    """Shortens a value to one line for a message."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()


_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 3, 4, 6, 80, 80


def write_tsv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a TSV file atomically, with a header and floats at nine significant digits.

    Raises:
        csv.Error: a cell contains a tab or a line break.
    """
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([nine_digits(cell) if isinstance(cell, float) else cell for cell in row])
