"""Views (where a similarity is read) and run identifiers (whose rows they are).

A view is layer x pooling x quantisation, written `2.content.fp4`; every similarity in every table states its view.

- layer: `0` is the embeddings, `i` the output of block i, `L` the output of the last block before the final norm,
  `norm` the output of the final norm (which transformers returns as hidden_states[L]).
- pooling: `mask` averages all tokens including BOS; `content` leaves out BOS, EOS and padding.
- quantisation: `nf4` or `fp4`.
"""

from __future__ import annotations

from typing import NamedTuple

from tli.config.parameters import Params, Shape

POOLINGS = ("mask", "content")


class View(NamedTuple):
    """A view: layer (`0` … `L` or `norm`), pooling (`mask` or `content`) and quantisation (`nf4` or `fp4`)."""

    layer: str
    pooling: str
    quantization: str

    def __str__(self) -> str:
        return ".".join(self)


def layers(model: Shape) -> list[str]:
    """The layers of a model in order: 0, 1 … L, norm. A model cut to its first s blocks has 0 … s and no norm."""
    return [*map(str, range(model.held + 1)), *(["norm"] if model.whole else [])]


def names(blocks: int) -> dict[str, View]:
    """The named views of a model with L = `blocks` blocks.

    - as_described: the paper's text (2506.15415, section 4: "Layer 31" of 32, mean over the attention mask).
    - as_scripted: the public evaluation script (hidden_states[2], without BOS, FP4).
    - final: after the final norm, without BOS, NF4.
    """
    return {
        "as_described": View(str(blocks - 1), "mask", "nf4"),
        "as_scripted": View("2", "content", "fp4"),
        "final": View("norm", "content", "nf4"),
    }


def named(model: Shape) -> dict[str, View]:
    """The named views (`names`) whose layer this run's model has; a cut model lacks its upper layers."""
    return {name: view for name, view in names(model.blocks).items() if view.layer in layers(model)}


def per_pair(model: Shape, trained_layer: int, quantization: str) -> list[View]:
    """The views at which each word pair has its own row: the named views and their neighbours.

    Layers 2, L - 1 and norm under both poolings; under NF4 also the layer that the training loss reads.
    """
    chosen = dict.fromkeys(["2", str(model.blocks - 1), "norm"])
    if quantization == "nf4":
        chosen[str(trained_layer)] = None
    return [View(layer, pooling, quantization) for layer in layers(model) if layer in chosen for pooling in POOLINGS]


class RunId(NamedTuple):
    """Whose rows these are: the base, the paper's configuration, or one run of the sweep.

    The fields are the first four columns of a row.
    """

    run: str
    variant: str
    rank: int
    seed: str


BASE = RunId("base", "-", 0, "-")


def main_run(scaling: str, rank: int, seed: int) -> RunId:
    """The run of the paper's configuration; scaling and rank come from its adapter (`lora.scaling_and_rank`)."""
    return RunId("main", scaling, rank, str(seed))


def sweep_run(params: Params, rank: int, seed: int, variant: str | None = None) -> RunId:
    """The run of one rank and seed of the sweep, for example `r8-s3`. Without `variant` it is the scaling."""
    return RunId(f"r{rank}-s{seed}", variant or params.lora.scaling, rank, str(seed))
