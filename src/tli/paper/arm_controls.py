"""What of the gain in cosine survives each control, over bases (table controls of the full grid).

A control takes away one thing that could make cosines grow without any word meeting its translation: that a pair was
trained on, that any two words draw nearer, that BOS is in the pool, that the pairs are translations at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tli.analysis.render import Cell, Column, Made, Table, shown
from tli.analysis.results import Measured
from tli.analysis.views import WAYS, interval
from tli.config.parameters import Params
from tli.measure.views import View
from tli.paper.arms import Arm, common_rank, correct, over_bases
from tli.stats.descriptive import mean


class Control(NamedTuple):
    """One row: what is changed against `as trained`, and where to read it."""

    name: str
    arm: Arm
    set: str
    view: str
    measure: str = "cosine"


def _controls(found: Sequence[Arm], rank: int, layer: str) -> list[Control]:
    """The controls that the arms at hand allow, the arm `found[0]` as trained."""
    by_name = {one.name: one for one in found if rank in one.ranks}
    trained = found[0]
    bare = str(View(layer, "content", "nf4"))
    rows = [
        Control("as trained", trained, "trained", trained.view),
        Control("unseen pairs", trained, "control", trained.view),
        Control("centred", trained, "trained", trained.view, "centred"),
        Control("standardised", trained, "trained", trained.view, "standardised"),
        Control("linear CKA", trained, "trained", trained.view, "cka"),
        Control("BOS out of the pool", trained, "trained", bare),
        Control("BOS out of the pool, unseen pairs", trained, "control", bare),
    ]
    for name, one in by_name.items():
        if one is not trained and (name in ("shuffled", "content") or one.regime == "bos"):
            what = f"arm {name}" if one.regime == "plain" else f"arm {name}, BOS state massive"
            rows += [Control(what, one, "trained", view) for view in dict.fromkeys([trained.view, bare])]
    return rows


def controls(found: Sequence[Arm], params: Params) -> Made:
    """What of the gain survives each control, over bases."""
    rank = common_rank(params)
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes: list[str] = []
    whole = mean(found[0].left(rank, "trained", found[0].view, "cosine"))
    for one in _controls(found, rank, found[0].view.partition(".")[0]):
        gain, random = (one.arm.gain(rank, one.set, one.view, key) for key in (one.measure, f"{one.measure}.random"))
        left = over_bases(one.arm.left(rank, one.set, one.view, one.measure), params)
        row: dict[str, Cell] = {"control": one.name, "set": one.set, "view": one.view, "measure": one.measure}
        row |= {"gain": mean(gain), "random": mean(random), "left": left.gain}
        row |= {"low": left.low, "high": left.high, "p_holm": left.p}
        if one.measure == "cosine" and left.gain is not None and whole:
            row["share"] = 100 * left.gain / whole
        for way in WAYS:
            row[f"p1_{way}"] = mean(one.arm.gain(rank, "all", one.view, way))
        rows.append(row)
        notes.append(left.note)
        where = f"{one.arm.name}.{one.set}.{one.measure}.{one.view}"
        measured |= {f"controls.left.{where}": left.gain, f"controls.p.{where}": left.p}
    correct(rows, ("p_holm",), params)
    table = Table(
        "controls",
        "Controls, over bases",
        f"What of the gain of translations survives each control, at rank {rank}: gain against rank 0, the gain of "
        "random pairs, and what is left of the one less the other, with Student's interval and p over "
        f"{len(params.sweep.base_seeds)} bases (p corrected by Holm over the table), and as a share of the first "
        "row's. P@1: its change among all pairs at that view. CKA has no pairs: its random value is that of permuted "
        "rows. Nothing of this was published.",
        (
            Column("control", "control"),
            Column("set", "pairs"),
            Column("view", "view"),
            Column("measure", "measure"),
            Column("gain", "gain", "change"),
            Column("random", "random", "change"),
            Column("left", "left", "change"),
            *interval(params),
            Column("p_holm", "p, Holm", "p"),
            Column("share", "share, %", "percent"),
            *(Column(f"p1_{way}", f"P@1 {arrow}", "change") for way, arrow in WAYS.items()),
        ),
        rows,
        notes=[_said(rows, params), *notes],
    )
    return Made(table, measured)


def _said(rows: Sequence[Mapping[str, Cell]], params: Params) -> str:
    """Which controls leave a gain above 0, in one sentence with the numbers."""
    alpha = params.stats.alpha
    parts = []
    for row in rows[1:]:
        left, p = row["left"], row["p_holm"]
        if isinstance(left, float):
            apart = isinstance(p, float) and p < alpha
            name = f"{row['control']} at {row['view']}"
            parts.append(f"{name} {shown(left, 'change')}" + ("" if apart else " (not told apart from 0)"))
    first = rows[0]["left"]
    return f"left as trained {shown(first, 'change')}; " + ", ".join(parts).replace("-", "−")
