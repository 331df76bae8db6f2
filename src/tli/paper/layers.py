"""The tables by layer: the scan of the base model, and norms before and after training.

They tell how far a similarity under mask pooling is that of the BOS state, which all words share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tli.analysis import published
from tli.analysis.render import Cell, Column, Made, Table, shown
from tli.analysis.results import Measured, Rows
from tli.analysis.views import MOMENTS, PAIR_SETS, VIEW, WAYS, left_out, points
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers
from tli.stats.descriptive import mean


def scan_table(scan: Rows, reported: Mapping[str, Any], params: Params) -> Made:
    """Every layer under both poolings: translation and random cosine, their difference, P@1; the pilot as published."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    given = published.pilot(reported, params)
    for layer in layers(params.active.model):
        norms = {key: scan.one("base", "all", f"{layer}.-.nf4", key) for key in NORMS}
        measured |= {f"scan.all.{key}.{layer}": norm for key, norm in norms.items()}
        for pooling in POOLINGS:
            view = f"{layer}.{pooling}.nf4"
            cosine = {set_: scan.one("base", set_, view, "cosine_mean") for set_ in ("all", *PAIR_SETS)}
            random = mean([*scan.each("base", "all", view, "random_cosine_mean").values()])
            hits = {f"p1_{way}": scan.one("base", "all", view, f"p_at_1.{way}") for way in WAYS}
            measured |= {f"scan.{set_}.cosine.{view}": value for set_, value in cosine.items()}
            measured |= {f"scan.all.random.{view}": random}
            measured |= {f"scan.all.{key}.{view}": hit for key, hit in hits.items()}
            names = ["pilot"] if pooling == "mask" and layer != "norm" else []
            names += [name for name, value in points(params).items() if value == view]
            both: dict[str, Cell] = {"cosine": cosine["all"], "random": random, "difference": cosine["all"] - random}
            row: dict[str, Cell] = {"view": view, "name": ", ".join(names), **both, **hits}
            row |= {"trained": cosine["trained"], "published": given.get(layer) if pooling == "mask" else None}
            rows.append(row | {"norm_ratio": _ratio(norms["bos_norm"], norms["content_norm"])})
    peak = None  # which only a scan of all layers shows
    if params.active.model.whole:
        read = range(params.active.model.blocks)  # the pilot reads 0 to L - 1
        peak = max(read, key=lambda layer: scan.one("base", "trained", f"{layer}.mask.nf4", "cosine_mean"))
    said, first = massive(scan, "base", params)
    measured |= {"scan.trained.peak_layer.mask.nf4": peak, "scan.massive.first_layer": first, **_loaded(scan)}
    seeds = len(params.measure.random_seeds)
    table = Table(
        "scan",
        "Layer scan",
        "Mean cosine of the word pairs and of random pairs at every layer of the base model, P@1 of retrieval among "
        f"them. All pairs; random pairs: mean over {seeds} seeded derangements of the English side. The pilot is "
        "published for the trained pairs, whose own mean stands beside it. BOS ÷ content: mean L2 norm of the BOS "
        "state over that of content-token states at that layer, whichever the pooling. "
        f"{published.whose(params)}".rstrip(),
        (
            *VIEW,
            Column("cosine", "translation cosine", "similarity"),
            Column("random", "random cosine", "similarity"),
            Column("difference", "difference", "change"),
            *(Column(f"p1_{way}", f"P@1 {arrow}", "score") for way, arrow in WAYS.items()),
            Column("trained", "trained pairs", "similarity"),
            Column("published", "published", "similarity"),
            Column("norm_ratio", "BOS ÷ content", "number"),
        ),
        rows,
        notes=[said, left_out(params)],
    )
    return Made(table, measured)


NORMS = ("bos_norm", "content_norm", "bos_peak", "bos_peak_dimension", "median_magnitude")


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _loaded(scan: Rows) -> Measured:
    """What the scan found on the loaded model (scan.evidence) and in its own rows, for the claims on configuration."""
    views = scan.views("base", "all", "cosine_mean")
    numbers = [int(layer) for layer, *_ in (view.split(".") for view in views) if layer.isdigit()]
    poolings = dict.fromkeys(view.split(".")[1] for view in views)
    found: Measured = {
        f"setup.{key}": scan.text("base", "model", "-", key)
        for key in ("architecture", "layer_0", "mask_pooling", "content_pooling", "cosine")
    }
    for key in ("hidden_states", "final_hidden_state"):
        text = scan.text("base", "model", "-", key)
        found[f"setup.{key}"] = int(text) if text.isdigit() else text
    norm = ", norm" if any(view.startswith("norm.") for view in views) else ""
    found["setup.scanned"] = f"{min(numbers)} to {max(numbers)}{norm}"
    return found | {"setup.pooling": ", ".join(poolings), "setup.measure": "cosine"}


LEAST, TIMES = 100, 1000  # of a massive activation: its magnitude, and how often the layer's median


def massive(rows: Rows, cell: str, params: Params) -> tuple[str, int | None]:
    """The line on massive activations of the BOS state by the criterion of 2402.17762, and the first block with one."""
    found = {}
    for layer in range(1, params.active.model.held + 1):
        _, _, peak, dimension, median = (rows.one(cell, "all", f"{layer}.-.nf4", key) for key in NORMS)
        found[layer] = (peak, int(dimension), _ratio(peak, median) or 0.0)
    meet = [layer for layer, (peak, _, times) in found.items() if peak > LEAST and times >= TIMES]
    which = meet[0] if meet else max(found, key=lambda layer: found[layer][2])
    peak, dimension, times = found[which]
    where = f"layer {which}, dimension {dimension}, magnitude {shown(peak, 'number')}, "
    where += f"{shown(times, 'number')} times the median"
    start = (
        f"massive activation of the BOS state (Sun et al. 2024, 2402.17762: magnitude above {LEAST} and about "
        f"{TIMES:,} times the layer's median or more)"
    )
    if not meet:
        return f"{start}: none by this criterion; relative to the median the largest is at {where}", None
    return f"{start}: first at {where}; met at {len(meet)} of the layers 1 to {params.active.model.held}", which


def norms(align: Rows, params: Params) -> Made:
    """Per layer, before and after training: norm of the BOS state and of content states, and the BOS state's peak."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for layer in layers(params.active.model):
        row: dict[str, Cell] = {"view": f"{layer}.-.nf4"}
        for when, which in MOMENTS.items():
            found = {key: align.one(which, "all", f"{layer}.-.nf4", key) for key in NORMS}
            row |= {f"{key}_{when}": found[key] for key in ("bos_norm", "content_norm", "bos_peak")}
            row[f"dimension_{when}"] = int(found["bos_peak_dimension"])
            row[f"ratio_{when}"] = _ratio(found["bos_norm"], found["content_norm"])
            row[f"times_{when}"] = _ratio(found["bos_peak"], found["median_magnitude"])
            if when == "after":
                measured |= {f"align.all.after.{key}.{layer}": value for key, value in found.items()}
        rows.append(row)
    titles = {
        "bos_norm": "BOS norm",
        "content_norm": "content norm",
        "ratio": "BOS ÷ content",
        "bos_peak": "BOS peak",
        "dimension": "at dimension",
        "times": "peak ÷ median",
    }
    table = Table(
        "norms",
        "Norms before and after training",
        "Mean L2 norm of the BOS state and of the words' own states at every layer, before and after training (the "
        "paper's cell), and the largest magnitude in the BOS state: its dimension, and how often the layer's median "
        "magnitude it is. All pairs, both languages. BOS follows from nothing before it, so that its state is one and "
        "the same for every word; a mean that includes it moves every two words together.",
        (
            Column("view", "view"),
            *(
                Column(f"{key}_{when}", f"{title} {when}", "number")
                for key, title in titles.items()
                for when in MOMENTS
            ),
        ),
        rows,
        notes=[f"{when}: {massive(align, which, params)[0]}" for when, which in MOMENTS.items()],
    )
    return Made(table, measured)
