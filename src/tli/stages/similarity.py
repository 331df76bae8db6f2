"""Before and after, pair by pair: what training does to the similarity of translations (stage: align).

Feeds the before/after table with its tests, the retrieval table, and the figure of every pair. The sweep measures its
adapters with the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import nn
from transformers import PreTrainedTokenizerBase

from tli.config.parameters import Params
from tli.data.words.lexicon import Pair, item_names, read_pairs
from tli.io import progress, resume
from tli.io.rows import Row, join_rows, write_rows
from tli.measure import similarity
from tli.measure.embeddings import Embedded, embed
from tli.measure.views import POOLINGS, Cell, View, layers, main_cell, per_pair
from tli.model import checkpoint, lora
from tli.stages.scan import SETS, members, norm_rows


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """The `align` stage: rows of the paper's cell, under NF4 and, merged, under FP4; base-rows has the base's."""
    pairs, main = read_pairs(pairs_path), main_cell(params)
    for quantization in ("nf4", "fp4"):  # refused before anything is measured
        checkpoint.tokenizer(quantized / quantization)
        lora.hold(adapter, checkpoint.laid_out(quantized / quantization))

    def write(quantization: str, path: Path) -> None:
        folder = quantized / quantization
        adapted = lora.load(checkpoint.load(folder, head=False), adapter, merge=quantization == "fp4")
        write_rows(path, measure(main, pairs, adapted, checkpoint.tokenizer(folder), params, quantization))

    settings = {"cell": main, "measure": params.measure, "layer": params.train.layer, "compute": params.active.compute}
    with resume.pieces(out, (pairs_path, quantized, adapter), **settings) as finished:
        made = [
            finished.piece(quantization, partial(write, quantization))
            for quantization in progress.progress(("nf4", "fp4"), "align")
        ]
        join_rows(out, made)


def measure(
    cell: Cell,
    pairs: Sequence[Pair],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
    quantization: str,
    *,
    every_layer: bool = True,
) -> list[Row]:
    """Every alignment row of one model: per pair at the named views and their neighbours, and aggregated.

    Aggregates and norms stand at every layer under NF4; under FP4, or without `every_layer`, aggregates stand only
    where every pair does. A deep model spends two thirds of the time on them, and the rank sweep reads no others.
    """
    size = params.active.compute.batch_size
    swahili = embed(model, tokenizer, [pair.swahili for pair in pairs], size)
    english = embed(model, tokenizer, [pair.english for pair in pairs], size)
    shape = params.active.model
    views = per_pair(shape, params.train.layer, quantization)
    found = [*pair_rows(cell, pairs, swahili, english, views)]
    if quantization == "nf4" and every_layer:
        views = [View(layer, pooling, quantization) for layer in layers(shape) for pooling in POOLINGS]
        found += norm_rows(cell, swahili, english, layers(shape))
    return [*found, *_aggregate_rows(cell, pairs, swahili, english, views, params.measure.random_seeds)]


def pair_rows(
    cell: Cell, pairs: Sequence[Pair], swahili: Embedded, english: Embedded, views: Sequence[View]
) -> Iterator[Row]:
    """cosine of each pair, and of its Swahili form with a random English form of the same set."""
    items = item_names(pairs)
    for view in views:
        u, v = (similarity.unit(side.pooled[view.layer, view.pooling]) for side in (swahili, english))
        at = str(view)
        for set_ in SETS[:2]:
            chosen = members(pairs, set_)
            for name, others in (("cosine", chosen), ("random_cosine", chosen[similarity.derangement(len(chosen), 0)])):
                for index, value in zip(chosen, similarity.dots(u, v, (chosen, others)).tolist(), strict=True):
                    yield Row(*cell, set_, items[index], at, name, value)


def _aggregate_rows(
    cell: Cell,
    pairs: Sequence[Pair],
    swahili: Embedded,
    english: Embedded,
    views: Sequence[View],
    seeds: Sequence[int],
) -> Iterator[Row]:
    """Means per view, and retrieval over the pool of all pairs, queried by set in both directions.

    `own_…`: retrieval where the pool holds the set's own pairs only. `centred_…`, `standardised_…`: cosines of vectors
    less the mean of their side over all pairs, and over its SD too; they and CKA have the first random pairing only.
    """
    true = np.arange(len(pairs))
    sets = {set_: members(pairs, set_) for set_ in SETS}
    pairings = {
        set_: [chosen[similarity.derangement(len(chosen), seed)] for seed in seeds] for set_, chosen in sets.items()
    }
    for view in views:
        x, y = swahili.pooled[view.layer, view.pooling], english.pooled[view.layer, view.pooling]
        cosines = similarity.similarities(x, y)
        local = similarity.csls(cosines)
        ranked = {
            way: (similarity.ranks(plain, true), similarity.ranks(scaled, true))
            for way, plain, scaled in (("sw_en", cosines, local), ("en_sw", cosines.T, local.T))
        }
        plain_x, plain_y = similarity.unit(x), similarity.unit(y)
        moved = {
            "centred": (similarity.unit(similarity.centred(x)), similarity.unit(similarity.centred(y))),
            "standardised": (similarity.unit(similarity.standardised(x)), similarity.unit(similarity.standardised(y))),
        }
        for set_, chosen in sets.items():
            first = pairings[set_][0]
            values = {"cosine_mean": float(similarity.dots(plain_x, plain_y, (chosen, chosen)).mean())}
            random = [similarity.dots(plain_x, plain_y, (chosen, others)).mean() for others in pairings[set_]]
            values["random_cosine_mean"] = float(np.mean(random))
            for way, (plain, scaled) in ranked.items():
                values[f"p_at_1.{way}"] = similarity.precision_at(plain[chosen], 1)
                values[f"p_at_5.{way}"] = similarity.precision_at(plain[chosen], 5)
                values[f"mrr.{way}"] = similarity.reciprocal_rank(plain[chosen])
                values[f"csls_at_1.{way}"] = similarity.precision_at(scaled[chosen], 1)
            for name, (a, b) in moved.items():
                values[f"{name}_cosine_mean"] = float(similarity.dots(a, b, (chosen, chosen)).mean())
                values[f"{name}_random_cosine_mean"] = float(similarity.dots(a, b, (chosen, first)).mean())
            values |= _shape(similarity.centred(x[chosen]), similarity.centred(y[chosen]), similarity.centred(y[first]))
            if set_ != "all":
                values |= _own_pool(cosines[np.ix_(chosen, chosen)])
            for name, value in values.items():
                yield Row(*cell, set_, "-", str(view), name, value)


def _shape(a: Float[ndarray, "n d"], b: Float[ndarray, "n d"], paired: Float[ndarray, "n d"]) -> dict[str, float]:
    """CKA of centred rows with those of their translations and of a random pairing of these; spread of each side."""
    own_a, own_b = a.T @ a, b.T @ b
    return {
        "cka": similarity.alignment(own_a, own_b, b.T @ a),
        "random_cka": similarity.alignment(own_a, own_b, paired.T @ a),
        "participation_ratio.sw": similarity.spread(own_a),
        "participation_ratio.en": similarity.spread(own_b),
    }


def _own_pool(cosines: Float[ndarray, "n n"]) -> dict[str, float]:
    """Retrieval in both directions among the pairs of one set."""
    true, local, values = np.arange(len(cosines)), similarity.csls(cosines), {}
    for way, plain, scaled in (("sw_en", cosines, local), ("en_sw", cosines.T, local.T)):
        ranked = similarity.ranks(plain, true)
        values[f"own_p_at_1.{way}"] = similarity.precision_at(ranked, 1)
        values[f"own_p_at_5.{way}"] = similarity.precision_at(ranked, 5)
        values[f"own_mrr.{way}"] = similarity.reciprocal_rank(ranked)
        values[f"own_csls_at_1.{way}"] = similarity.precision_at(similarity.ranks(scaled, true), 1)
    return values
