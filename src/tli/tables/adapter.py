"""The adapter of the paper's configuration: the size of its matrices, block by block.

A projection whose B is exactly zero is as before training: it received no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.lora_factor import factor
from tli.analysis.results import Results
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params

TITLE = "Adapter"
CAPTION = (
    "The adapter of the paper's configuration (rank {params.lora.rank}): Frobenius norms of A, of B and of the update "
    "of the weight, by block (block i of the model gives layer i) and projection."
)
SOURCE = ("train",)
VIEW = "none (weights, no similarity)"
COLUMNS = (
    Column("block", "block", "count", id=True),
    Column("projection", "projection", id=True),
    Column("norm_a", "‖A‖", "magnitude"),
    Column("norm_b", "‖B‖", "magnitude"),
    Column("norm_ba", "‖(α ÷ r) BA‖", "magnitude"),
    Column("zero", "B is zero"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per adapted projection."""
    train = results.of("train")
    norm_a, norm_b, norm_ba, b_is_zero = (
        train.each("main", "adapter", "-", measure) for measure in ("norm_a", "norm_b", "norm_ba", "b_is_zero")
    )
    for item in b_is_zero:
        block, projection = item.split(".")
        yield {
            "block": int(block),
            "projection": projection,
            "norm_a": norm_a[item],
            "norm_b": norm_b[item],
            "norm_ba": factor(params.lora.rank, params) * norm_ba[item],
            "zero": "yes" if b_is_zero[item] else "no",
        }


def notes(results: Results, params: Params) -> list[str]:
    """Whose adapter it is, how many blocks it changes, and how many parameters LoRA on every block would have."""
    train = results.of("train")
    b_is_zero = train.each("main", "adapter", "-", "b_is_zero")
    adapted = {item.split(".")[0] for item in b_is_zero}
    changed = {item.split(".")[0] for item, zero in b_is_zero.items() if not zero}
    nominal = int(train.one("main", "adapter", "-", "nominal_parameters"))
    return [
        "the author's adapter" if params.adapter.source == "author" else "the adapter was trained in this run",
        f"blocks with a B that is not zero: {len(changed)} of {len(adapted)} adapted, of {params.active.model.blocks} "
        "in the model",
        f"LoRA of this rank on these projections of every block has {nominal:,} parameters; a loss on layer "
        f"{params.train.layer} has a gradient in the first {params.train.layer} blocks only",
    ]
