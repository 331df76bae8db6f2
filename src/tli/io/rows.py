"""Row files: one measured value a line, with the cell, set, item, view and measure that it belongs to."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tli.io.errors import UserError
from tli.io.files import atomic_write, read_text
from tli.io.structured import brief, write_tsv


class Row(NamedTuple):
    """One measured value. `-` stands where a column does not apply; rank 0 is the base model."""

    cell: str
    arm: str
    rank: int
    seed: str
    set: str
    item: str
    view: str
    measure: str
    value: float | str


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    write_tsv(path, Row._fields, rows)


def join_rows(path: Path | str, parts: Iterable[Path]) -> None:
    """Writes the rows of several row files, one after another, byte by byte as they stand there."""
    with atomic_write(path) as file:
        for number, part in enumerate(parts):
            header, rows = read_text(part).split("\n", 1)
            file.write(rows if number else f"{header}\n{rows}")


WILD = ("", *(sign + word for sign in ("", "+", "-") for word in ("nan", "inf", "infinity")))  # floats, not finite


def read_rows(path: Path | str) -> Any:
    """The rows of `path` as a pandas data frame; `value` is numeric unless the file holds a text value."""
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(f"{path}: no such rows; run `dvc repro`, which measures them")
    again = "remove the file and run `dvc repro`, which measures them"
    try:
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8")
    except (ValueError, OSError) as error:  # of pandas' parser and of UTF-8
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: expected rows of {len(Row._fields)} columns, got: {problem}; {again}") from None
    if tuple(frame.columns) != Row._fields or not isinstance(frame.index, pd.RangeIndex):  # pandas': a column too many
        got = " ".join([*(["…"] if tuple(frame.columns) == Row._fields else []), *frame.columns])[:120]
        raise UserError(f"{path}:1: expected the columns {' '.join(Row._fields)}, got {got}; {again}")
    numeric = pd.to_numeric(frame["value"], errors="coerce")
    text = frame["value"].str.strip().str.lower()
    for column, broken, expected in (
        ("rank", ~frame["rank"].str.fullmatch("[0-9]{1,9}"), "a whole number"),
        ("value", text.isin(WILD) | numeric.abs().eq(math.inf), "a finite number or a word"),
    ):
        if broken.any():
            line = int(broken.to_numpy().argmax())
            got = brief(frame[column].tolist()[line])
            raise UserError(f"{path}:{line + 2}: {column}: expected {expected}, got {got}; {again}")
    frame["rank"] = frame["rank"].astype(int)
    if not numeric.isna().any():
        frame["value"] = numeric
    return frame
