"""Before and after, pair by pair: what training does to the similarity of translations (stage: align).

Feeds the before/after table with its tests, the retrieval table, and the figure of every pair. The sweep measures its
adapters with the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import nn
from transformers import PreTrainedTokenizerBase

from tli import store
from tli.data.lexicon import Pair, item_names, read_pairs
from tli.model import backbone, lora
from tli.params import Params
from tli.store import Row
from tli.study import metrics
from tli.study.embed import Embedded, embed
from tli.study.scan import SETS, members, norm_rows
from tli.study.views import BASE, POOLINGS, Cell, View, layers, main_cell, per_pair


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """The `align` stage: rows of the base and of the paper's cell, under NF4 and, merged, under FP4."""
    pairs = read_pairs(pairs_path)
    found: list[Row] = []
    for quantization in ("nf4", "fp4"):
        folder = quantized / quantization
        tokenizer = backbone.tokenizer(folder)
        found += measure(BASE, pairs, backbone.load(folder), tokenizer, params, quantization)
        tuned = lora.load(backbone.load(folder), adapter, merge=quantization == "fp4")
        found += measure(main_cell(params), pairs, tuned, tokenizer, params, quantization)
    store.write_rows(out, found)


def measure(
    cell: Cell,
    pairs: Sequence[Pair],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
    quantization: str,
) -> list[Row]:
    """Every alignment row of one model: per pair at the named views and their neighbours, and aggregated.

    Aggregates and norms stand at every layer under NF4; under FP4 aggregates stand where every pair does.
    """
    size = params.active.compute.batch_size
    swahili = embed(model, tokenizer, [pair.swahili for pair in pairs], size)
    english = embed(model, tokenizer, [pair.english for pair in pairs], size)
    shape = params.active.model
    views = per_pair(shape, params.train.layer, quantization)
    found = [*_pair_rows(cell, pairs, swahili, english, views)]
    if quantization == "nf4":
        views = [View(layer, pooling, quantization) for layer in layers(shape) for pooling in POOLINGS]
        found += norm_rows(cell, swahili, english, layers(shape))
    return [*found, *_aggregate_rows(cell, pairs, swahili, english, views, params.measure.random_seeds)]


def _pair_rows(
    cell: Cell, pairs: Sequence[Pair], swahili: Embedded, english: Embedded, views: Sequence[View]
) -> Iterator[Row]:
    """cosine of each pair, and of its Swahili form with a random English form of the same set."""
    items = item_names(pairs)
    for view in views:
        x, y = swahili.pooled[view.layer, view.pooling], english.pooled[view.layer, view.pooling]
        for set_ in SETS[:2]:
            chosen = members(pairs, set_)
            other = y[chosen][metrics.derangement(len(chosen), 0)]
            for name, values in (
                ("cosine", metrics.cosine(x[chosen], y[chosen])),
                ("random_cosine", metrics.cosine(x[chosen], other)),
            ):
                for index, value in zip(chosen, values, strict=True):
                    yield Row(*cell, set_, items[index], str(view), name, float(value))


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
    for view in views:
        x, y = swahili.pooled[view.layer, view.pooling], english.pooled[view.layer, view.pooling]
        similarity = metrics.similarities(x, y)
        local = metrics.csls(similarity)
        true = np.arange(len(pairs))
        ranked = {
            way: (metrics.ranks(plain, true), metrics.ranks(scaled, true))
            for way, plain, scaled in (("sw_en", similarity, local), ("en_sw", similarity.T, local.T))
        }
        moved = {
            "centred": (metrics.unit(metrics.centred(x)), metrics.unit(metrics.centred(y))),
            "standardised": (metrics.unit(metrics.standardised(x)), metrics.unit(metrics.standardised(y))),
        }
        for set_ in SETS:
            chosen = members(pairs, set_)
            values = {"cosine_mean": float(metrics.cosine(x[chosen], y[chosen]).mean())}
            pairings = [metrics.derangement(len(chosen), seed) for seed in seeds]
            random = [metrics.cosine(x[chosen], y[chosen][pairing]).mean() for pairing in pairings]
            values["random_cosine_mean"] = float(np.mean(random))
            for way, (plain, scaled) in ranked.items():
                values[f"p_at_1.{way}"] = metrics.precision_at(plain[chosen], 1)
                values[f"p_at_5.{way}"] = metrics.precision_at(plain[chosen], 5)
                values[f"mrr.{way}"] = metrics.reciprocal_rank(plain[chosen])
                values[f"csls_at_1.{way}"] = metrics.precision_at(scaled[chosen], 1)
            for name, (a, b) in moved.items():
                values[f"{name}_cosine_mean"] = float(metrics.cosine(a[chosen], b[chosen]).mean())
                values[f"{name}_random_cosine_mean"] = float(metrics.cosine(a[chosen], b[chosen][pairings[0]]).mean())
            values["cka"] = metrics.cka(x[chosen], y[chosen])
            values["random_cka"] = metrics.cka(x[chosen], y[chosen][pairings[0]])
            for side, z in (("sw", x), ("en", y)):
                values[f"participation_ratio.{side}"] = metrics.participation_ratio(z[chosen])
            if set_ != "all":
                values |= _own_pool(similarity[np.ix_(chosen, chosen)])
            for name, value in values.items():
                yield Row(*cell, set_, "-", str(view), name, value)


def _own_pool(similarity: Float[ndarray, "n n"]) -> dict[str, float]:
    """Retrieval in both directions among the pairs of one set."""
    true, local, values = np.arange(len(similarity)), metrics.csls(similarity), {}
    for way, plain, scaled in (("sw_en", similarity, local), ("en_sw", similarity.T, local.T)):
        ranked = metrics.ranks(plain, true)
        values[f"own_p_at_1.{way}"] = metrics.precision_at(ranked, 1)
        values[f"own_p_at_5.{way}"] = metrics.precision_at(ranked, 5)
        values[f"own_mrr.{way}"] = metrics.reciprocal_rank(ranked)
        values[f"own_csls_at_1.{way}"] = metrics.precision_at(metrics.ranks(scaled, true), 1)
    return values
