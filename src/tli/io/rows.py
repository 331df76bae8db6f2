"""Row files: TSV files with one measured value per line.

The other columns say what was measured: the run, its variant, rank and seed, the set, the item, the
view and the measure.
"""

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
    """One measured value. A column that does not apply holds `-`.

    Attributes:
        run: the run: `base`, `main`, or `r8-s0` for rank 8 and seed 0 of the sweep.
        variant: the variant of the training settings.
        rank: LoRA rank; 0 is the base model.
        seed: the training seed.
        set: the set of word pairs, or the benchmark and its language.
        item: the word pair or benchmark item.
        view: layer, pooling and quantisation at which a similarity is read (measure/views.py).
        measure: the name of the measure.
        value: a finite number or a word.
    """

    run: str
    variant: str
    rank: int
    seed: str
    set: str
    item: str
    view: str
    measure: str
    value: float | str


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    """Writes a row file atomically, with a header."""
    write_tsv(path, Row._fields, rows)


def join_rows(path: Path | str, parts: Iterable[Path]) -> None:
    """Concatenates row files into `path`, under one header; the bytes of the rows do not change."""
    with atomic_write(path) as file:
        for number, part in enumerate(parts):
            header, rows = read_text(part).split("\n", 1)
            file.write(rows if number else f"{header}\n{rows}")


# values that pandas would read as a float that is not finite
NON_FINITE = ("", *(sign + word for sign in ("", "+", "-") for word in ("nan", "inf", "infinity")))


def read_rows(path: Path | str) -> Any:
    """Reads a row file as a pandas DataFrame with the columns of `Row`.

    `rank` is an integer column. `value` is numeric if every value is a number, else it holds text.

    Raises:
        UserError: no such file, other columns, a rank that is no whole number, or a number that is not finite.
    """
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(f"{path}: no such row file; run `dvc repro`, which writes it")
    advice = "remove the file and run `dvc repro`, which writes it again"
    try:
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8")
    except (ValueError, OSError) as error:  # from pandas' parser, or because the file is not UTF-8
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: expected rows of {len(Row._fields)} columns, got: {problem}; {advice}") from None
    if tuple(frame.columns) != Row._fields or not isinstance(
        frame.index, pd.RangeIndex
    ):  # pandas takes an extra column as the index
        got = " ".join([*(["…"] if tuple(frame.columns) == Row._fields else []), *frame.columns])[:120]
        raise UserError(f"{path}:1: expected the columns {' '.join(Row._fields)}, got {got}; {advice}")
    numeric = pd.to_numeric(frame["value"], errors="coerce")
    text = frame["value"].str.strip().str.lower()
    for column, bad, expected in (
        ("rank", ~frame["rank"].str.fullmatch("[0-9]{1,9}"), "a whole number"),
        ("value", text.isin(NON_FINITE) | numeric.abs().eq(math.inf), "a finite number or a word"),
    ):
        if bad.any():
            line = int(bad.to_numpy().argmax())
            got = brief(frame[column].tolist()[line])
            raise UserError(f"{path}:{line + 2}: {column}: expected {expected}, got {got}; {advice}")
    frame["rank"] = frame["rank"].astype(int)
    if not numeric.isna().any():
        frame["value"] = numeric
    return frame
