"""The adapter of the paper's cell, block by block: how large its matrices are, and whether they do anything (adapter).

A projection whose B is exactly zero is as it was before training: it never got a gradient.
"""

from __future__ import annotations

from tli.analysis.render import Cell, Column, Made, Table
from tli.analysis.results import Measured, Rows
from tli.config.parameters import Params
from tli.paper.by_rank import factor

NORMS = ("norm_a", "norm_b", "norm_ba")


def blocks(train: Rows) -> int:
    """The number of blocks that the adapter is on."""
    return int(train.one("main", "adapter", "-", "blocks"))


def table(train: Rows, params: Params) -> Made:
    """Norms of A, B and the update of every adapted projection, and whether B is zero."""
    found = {name: train.each("main", "adapter", "-", name) for name in (*NORMS, "b_is_zero")}
    scale = factor(params.lora.rank, params)
    rows: list[dict[str, Cell]] = []
    changed: dict[str, bool] = {}
    for item, zero in found["b_is_zero"].items():
        block, projection = item.split(".")
        norms: dict[str, Cell] = {name: found[name][item] for name in NORMS}
        norms["norm_ba"] = scale * found["norm_ba"][item]
        rows.append({"block": int(block), "projection": projection, **norms, "zero": "yes" if zero else "no"})
        changed[block] = changed.get(block, False) or not zero
    nominal = int(train.one("main", "adapter", "-", "nominal_parameters"))
    measured: Measured = {
        "adapter.blocks": len(changed),
        "adapter.blocks_changed": sum(changed.values()),
        "adapter.nominal_parameters": nominal,
    }
    whose = "the author's" if params.adapter.source == "author" else "trained here"
    made = Table(
        "adapter",
        "Adapter",
        f"The adapter of the paper's cell ({whose}, rank {params.lora.rank}): Frobenius norms of A, of B and of what "
        "they add to a weight, by block (block i of the model gives layer i) and projection.",
        (
            Column("block", "block", "count"),
            Column("projection", "projection"),
            Column("norm_a", "‖A‖", "number"),
            Column("norm_b", "‖B‖", "number"),
            Column("norm_ba", "‖(α ÷ r) BA‖", "number"),
            Column("zero", "B is zero"),
        ),
        rows,
        view="none (weights, no similarity)",
        notes=[
            f"blocks whose B is not zero: {sum(changed.values())} of {len(changed)} adapted, of "
            f"{params.active.model.blocks} in the model",
            f"LoRA of this rank on these projections of every block has {nominal:,} parameters; a loss on layer "
            f"{params.train.layer} gives gradient to the first {params.train.layer} blocks only",
        ],
    )
    return Made(made, measured)
