"""Curves of the tables as plain series, for `dvc plots show` and `dvc plots diff` (dvc.yaml, section plots).

A file has one row per point: x, the name of the curve, y, and an interval where the table has one. The training curves
come from the stage `train`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tli.analysis.table import Cell, Table
from tli.analysis.views import trained_view
from tli.config.parameters import Params
from tli.io.files import atomic_dir
from tli.io.structured import write_tsv

Point = Sequence[Cell]
POOLING = {"mask": "BOS in", "content": "BOS out"}


def write(folder: Path, tables: Mapping[str, Table], params: Params) -> None:
    """Writes scan.tsv, score.tsv and alignment.tsv to `folder`, which is replaced as a whole.

    A file without points has only its header: DVC warns if a file of the section plots is missing.
    """
    files: Mapping[str, tuple[tuple[str, ...], Iterator[Point]]] = {
        "scan": (("layer", "series", "cosine"), scan(tables.get("scan"))),
        "score": (("rank", "series", "change", "low", "high"), score(tables.get("changes"))),
        "alignment": (("rank", "series", "gain", "low", "high"), alignment(tables.get("ranks"), params)),
    }
    with atomic_dir(folder) as temporary:
        for name, (columns, curve) in files.items():
            write_tsv(temporary / f"{name}.tsv", columns, [*curve])


def scan(table: Table | None) -> Iterator[Point]:
    """Mean cosine of translations and of random pairs at every numbered layer, with BOS in the mean and without."""
    for row in table.rows if table else ():
        layer, pooling, _ = str(row["view"]).split(".")
        if layer.isdigit():
            yield int(layer), f"translations, {POOLING[pooling]}", row["cosine"]
            yield int(layer), f"random pairs, {POOLING[pooling]}", row["random"]


def score(table: Table | None) -> Iterator[Point]:
    """Change of accuracy against rank 0 in points, by rank: one curve per task and language."""
    for row in table.rows if table else ():
        low, high = row.get("low"), row.get("high")
        if low is not None and high is not None:
            yield row["rank"], f"{row['task']}, {row['language']}", row["change"], low, high


def alignment(table: Table | None, params: Params) -> Iterator[Point]:
    """Gain in mean cosine over rank 0 by rank, where the loss reads; from one SD over seeds below to one above."""
    for row in table.matching(view=trained_view(params)) if table else ():
        for set_, name in (("trained", "trained pairs"), ("control", "unseen pairs")):
            gain, sd = row.get(f"gain_{set_}"), row.get(f"gain_sd_{set_}")
            if isinstance(gain, float) and isinstance(sd, float):
                yield row["rank"], name, gain, gain - sd, gain + sd
