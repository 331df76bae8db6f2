"""The tables' curves as plain series, for `dvc plots show` and `dvc plots diff` (dvc.yaml, section plots).

A file holds one row a point: x, which curve it belongs to, y, and an interval where the table has one. DVC's training
curves come from the stage `train` itself. Feeds no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tli.analysis.render import Cell, Table
from tli.analysis.views import trained_view
from tli.config.parameters import Params
from tli.io.files import atomic_dir
from tli.io.structured import write_tsv

Point = Sequence[Cell]
WITH = {"mask": "BOS in", "content": "BOS out"}


def write(folder: Path, tables: Sequence[Table], params: Params) -> None:
    """Writes scan.tsv, score.tsv and alignment.tsv to `folder`, replaced as a whole.

    A file without points has its header alone: DVC warns of a file of the section plots that is not there.
    """
    known = {table.name: table for table in tables}
    files: Mapping[str, tuple[tuple[str, ...], Iterator[Point]]] = {
        "scan": (("layer", "series", "cosine"), scan(known.get("scan"))),
        "transfer": (("rank", "series", "change", "low", "high"), transfer(known.get("changes"))),
        "alignment": (("rank", "series", "gain", "low", "high"), alignment(known.get("ranks"), params)),
    }
    with atomic_dir(folder) as temporary:
        for name, (columns, points) in files.items():
            write_tsv(temporary / f"{name}.tsv", columns, [*points])


def scan(table: Table | None) -> Iterator[Point]:
    """Mean cosine of translations and of random pairs at every layer that has a number, BOS in the mean or not."""
    for row in table.rows if table else ():
        layer, pooling, _ = str(row["view"]).split(".")
        if layer.isdigit():
            yield int(layer), f"translations, {WITH[pooling]}", row["cosine"]
            yield int(layer), f"random pairs, {WITH[pooling]}", row["random"]


def transfer(table: Table | None) -> Iterator[Point]:
    """Change of accuracy against rank 0, in points, by rank: task and language a curve."""
    for row in table.rows if table else ():
        if None not in (ends := (row.get("low"), row.get("high"))):
            yield row["rank"], f"{row['task']}, {row['language']}", row["change"], *ends


def alignment(table: Table | None, params: Params) -> Iterator[Point]:
    """Gain in mean cosine over rank 0 by rank, at the view that training reads, one SD over seeds to both sides."""
    for row in table.rows if table else ():
        for set_, name in (("trained", "trained pairs"), ("control", "unseen pairs")):
            gain, sd = row.get(f"gain_{set_}"), row.get(f"gain_sd_{set_}")
            if row["view"] == trained_view(params) and isinstance(gain, float) and isinstance(sd, float):
                yield row["rank"], name, gain, gain - sd, gain + sd
