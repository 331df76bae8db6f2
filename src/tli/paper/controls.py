"""The controls table: what of the gain in cosine survives each control, one row a control.

The gain is the paper's cell against the base. A control takes away one thing that could make cosines grow without any
word meeting its translation: that a pair was trained on, that any two words draw nearer, that BOS is in the pool, that
all vectors share a mean or a few large dimensions. That other pairs would do as well (shuffled pairs) needs adapters of
its own: an arm of the full grid.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from tli.analysis.render import Cell, Column, Made, Table, shown
from tli.analysis.results import Measured, Rows
from tli.analysis.views import PAIR_SETS, WAYS, interval, left_out, points
from tli.config.parameters import Params
from tli.measure.views import View
from tli.stats import t_tests
from tli.stats.descriptive import mean

# how a measure that has one value a set is called, for translations and for random pairs, in the rows
SCALED = {
    "centred": ("centred_cosine_mean", "centred_random_cosine_mean"),
    "standardised": ("standardised_cosine_mean", "standardised_random_cosine_mean"),
    "linear CKA": ("cka", "random_cka"),
}
AGAINST = ("more", "less", "not told apart", "undefined")


class Control(NamedTuple):
    """What is changed against the row `as trained`."""

    name: str
    set: str
    view: str


def controls(params: Params) -> list[Control]:
    """As trained; unseen pairs; BOS out or in, then both; further up. A view that is another row's is named once."""
    trained = View(str(params.train.layer), params.train.pooling, "nf4")
    bare = trained._replace(pooling="content" if trained.pooling == "mask" else "mask")
    names = {str(trained): "as trained", str(bare): "BOS out" if bare.pooling == "content" else "BOS in"}
    for name in ("as_scripted", "as_described", "final"):
        if name in points(params):
            names.setdefault(points(params)[name], f"at `{name}`")
    return [
        Control(name if set_ == "trained" else f"{name}, unseen pairs", set_, view)
        for view, name in names.items()
        for set_ in PAIR_SETS
    ]


def table(align: Rows, params: Params) -> Made:
    """Gain, gain of random pairs, what is left with its paired interval, and P@1 before and after."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    notes: list[str] = []
    for one in controls(params):
        pairs, random = (
            align.matched(("base", "main"), one.set, one.view, measure) for measure in ("cosine", "random_cosine")
        )
        before, after = (_minus(x, y) for x, y in zip(pairs, random, strict=True))
        left = t_tests.paired(before, after, params.stats.confidence)
        gains = [mean(_minus(end, start)) for start, end in (pairs, random)]
        row: dict[str, Cell] = {"control": one.name, "set": one.set, "view": one.view, "measure": "cosine"}
        row["gain"] = gains[0]
        row |= {"random": gains[1], "left": left.gain, "low": left.low, "high": left.high, "p": left.p}
        for way in WAYS:
            start, end = (align.one(which, one.set, one.view, f"p_at_1.{way}") for which in ("base", "main"))
            row |= {f"p1_{way}": start, f"p1_{way}_change": end - start}
            measured[f"controls.{one.set}.p1_change_{way}.{one.view}"] = end - start
        measured[f"controls.{one.set}.left.{one.view}"] = left.gain
        rows.append(row)
        notes.append(left.note)
    tested = len(rows)
    for one in controls(params)[: 2 * len(PAIR_SETS)]:
        for measure, names in SCALED.items():
            whole, others = (_change(align, one, name) for name in names)
            name = one.name.replace("as trained", measure) if "as trained" in one.name else f"{measure}, {one.name}"
            row = {"control": name, "set": one.set, "view": one.view, "measure": measure, "gain": whole}
            rows.append(row | {"random": others, "left": whole - others})
            measured[f"controls.{one.set}.left_{measure.rpartition(' ')[2]}.{one.view}"] = whole - others
    made = Table(
        "controls",
        "Controls",
        f"What of the gain in cosine of the paper's cell (rank {params.lora.rank}, seed {params.train.seed}) survives "
        "each control. Random: the gain of the same Swahili words with another pair's English word; left: gain − "
        "random, pair by pair, with its interval and the p of a paired t-test, uncorrected. P@1 of the set's words "
        "among the words of all pairs, base and change. Centred: cosines once each language's mean is taken out; "
        "standardised: and each dimension brought to unit variance; CKA: between the two languages' embeddings, random "
        "of permuted rows; they have one value a set, and so no interval. Nothing of this was published.",
        (
            Column("control", "control"),
            Column("set", "pairs"),
            Column("view", "view"),
            Column("measure", "measure"),
            Column("gain", "gain", "change"),
            Column("random", "random", "change"),
            Column("left", "left", "change"),
            *interval(params),
            Column("p", "p", "p"),
            *(
                column
                for way, arrow in WAYS.items()
                for column in (
                    Column(f"p1_{way}", f"P@1 {arrow}, base", "score"),
                    Column(f"p1_{way}_change", "change", "change"),
                )
            ),
        ),
        rows,
        notes=[
            said(rows[:tested], params),
            said_of_scaled(rows[tested:]),
            "shuffled pairs: what an adapter gains that is trained on the same words with their translations permuted "
            "is the arm `shuffled` of the full grid (full/dvc.yaml), in the table `controls` there",
            *notes,
            left_out(params),
        ],
    )
    return Made(made, measured)


def said(rows: list[dict[str, Cell]], params: Params) -> str:
    """What the rows say of the row `as trained`, filled with their numbers."""
    first = rows[0]
    gain, left = (float(str(first[key])) for key in ("gain", "left"))
    alpha = 1 - params.stats.confidence
    found = Counter(_against_random(row, alpha) for row in rows)
    counts = ", ".join(f"{word} in {found[word]}" for word in AGAINST if found[word])
    text = (
        f"as trained the cosine of translations {'rises' if gain > 0 else 'falls'} by "
        f"{shown(abs(gain), 'similarity')}, and against random pairs {'rises' if left > 0 else 'falls'} by "
        f"{shown(abs(left), 'similarity')}; beside random pairs translations gain {counts} of {len(rows)} rows"
    )
    if _against_random(first, alpha) not in ("more", "less"):
        return text
    shares = (f"{row['control']} {float(str(row['left'])) / left:.0%}" for row in rows[1:4])
    return f"{text}; left, as a share of the first row's: {', '.join(shares).replace('%', ' %')}"


def said_of_scaled(rows: list[dict[str, Cell]]) -> str:
    """What is left of the trained pairs' gain under each scaling, BOS in the pool and out."""
    parts = [
        f"{row['control']} {shown(row['left'], 'change')}".replace("-", "−") for row in rows if row["set"] == "trained"
    ]
    return f"left of trained pairs where the scale of the space is taken out: {', '.join(parts)}"


def _change(align: Rows, one: Control, measure: str) -> float:
    """The paper's cell less the base."""
    return align.one("main", one.set, one.view, measure) - align.one("base", one.set, one.view, measure)


def _against_random(row: dict[str, Cell], alpha: float) -> str:
    p, left = row["p"], row["left"]
    if not isinstance(p, float) or not isinstance(left, float):
        return "undefined"
    return "not told apart" if p >= alpha else "more" if left > 0 else "less"


def _minus(x: list[float], y: list[float]) -> list[float]:
    return [a - b for a, b in zip(x, y, strict=True)]
