"""The views: what "similarity" means, always said. No table cell stands without one. And the cells: whose it is.

A view is layer x pooling x quantisation, written `2.content.fp4`. Layer 0 is the embeddings, i the raw output of block
i, L that of the last block, `norm` what follows the final norm (transformers' hidden_states[L]).
"""

from __future__ import annotations

from typing import NamedTuple

from tli.config.parameters import Params, Shape

POOLINGS = ("mask", "content")


class View(NamedTuple):
    """Where a similarity is read: layer (`0` … `L` or `norm`), pooling (`mask` or `content`), `nf4` or `fp4`."""

    layer: str
    pooling: str
    quantization: str

    def __str__(self) -> str:
        return ".".join(self)


def layers(model: Shape) -> list[str]:
    """Every layer that this run has of a model, in order: 0, 1 … L, norm; 0 to its last block where that is cut."""
    return [*map(str, range(model.held + 1)), *(["norm"] if model.whole else [])]


def names(blocks: int) -> dict[str, View]:
    """The views that have a name, for a model of L = `blocks` blocks.

    as_described: the paper's text (2506.15415, section 4: "Layer 31" of 32, mean over the attention mask);
    as_scripted: the public evaluation script (hidden_states[2], BOS left out, FP4); final: after the final norm.
    """
    return {
        "as_described": View(str(blocks - 1), "mask", "nf4"),
        "as_scripted": View("2", "content", "fp4"),
        "final": View("norm", "content", "nf4"),
    }


def named(model: Shape) -> dict[str, View]:
    """Those of `names` that stand at layers that this run has of the model."""
    return {name: view for name, view in names(model.blocks).items() if view.layer in layers(model)}


def per_pair(model: Shape, trained_layer: int, quantization: str) -> list[View]:
    """The views at which every pair keeps a row of its own: the named ones and their neighbours.

    Layers 2, L - 1 and norm under both poolings; under NF4 the layer that the loss read as well.
    """
    chosen = dict.fromkeys(["2", str(model.blocks - 1), "norm"])
    if quantization == "nf4":
        chosen[str(trained_layer)] = None
    return [View(layer, pooling, quantization) for layer in layers(model) if layer in chosen for pooling in POOLINGS]


class Cell(NamedTuple):
    """Whose rows these are: the base, the paper's cell, or a cell of the sweep."""

    cell: str
    arm: str
    rank: int
    seed: str


BASE = Cell("base", "-", 0, "-")


def main_cell(scaling: str, rank: int, seed: int) -> Cell:
    """The paper's own cell; scaling and rank are the adapter's (`lora.scaling_and_rank`)."""
    return Cell("main", scaling, rank, str(seed))


def sweep_cell(params: Params, rank: int, seed: int, arm: str | None = None) -> Cell:
    """The name under which a rank and a seed stand in every row: `r8-s3`; without an arm, the arm is the scaling."""
    return Cell(f"r{rank}-s{seed}", arm or params.lora.scaling, rank, str(seed))
