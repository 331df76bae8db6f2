"""Rows of one model on the word pairs: a cosine for each pair, and aggregates at every view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import nn
from transformers import PreTrainedTokenizerBase

from tli.config.parameters import Params
from tli.data.words.lexicon import Pair, item_names
from tli.io.errors import UserError
from tli.io.rows import Row
from tli.measure import similarity
from tli.measure.embeddings import Embedded, embed
from tli.measure.views import POOLINGS, Cell, View, layers, per_pair

FILE = "similarity.tsv"  # where a folder holds these rows
SETS = ("trained", "control", "all")


def norm_rows(cell: Cell, swahili: Embedded, english: Embedded, names: Sequence[str]) -> Iterator[Row]:
    """Per layer, over both languages' words: mean norms of the BOS state and of content states, the BOS state's peak.

    bos_peak is the largest |activation| of the BOS state, bos_peak_dimension where it stands, median_magnitude the
    median |activation| of the layer (`embed.Massive`).
    """
    for layer in names:
        both = (swahili.massive[layer], english.massive[layer])
        peak = max(both, key=lambda found: found.magnitude)
        for measure, value in {
            "bos_norm": (swahili.bos_norm[layer] + english.bos_norm[layer]) / 2,
            "content_norm": (swahili.content_norm[layer] + english.content_norm[layer]) / 2,
            "bos_peak": peak.magnitude,
            "bos_peak_dimension": peak.dimension,
            "median_magnitude": (both[0].median + both[1].median) / 2,
        }.items():
            yield Row(*cell, "all", "-", str(View(layer, "-", "nf4")), measure, value)


def members(pairs: Sequence[Pair], set_: str) -> np.ndarray:
    """Indices of the pairs of a set: `trained`, `control`, or `all`.

    Raises:
        UserError: fewer than two pairs, of which no random pairing can be made.
    """
    chosen = np.array([index for index, pair in enumerate(pairs) if set_ in ("all", pair.set)], dtype=np.int64)
    if len(chosen) < 2:
        raise UserError(f"word pairs: expected 2 or more in the set {set_}, got {len(chosen)}; add pairs to it")
    return chosen


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
    found = [*each_pair(cell, pairs, swahili, english, views)]
    if quantization == "nf4" and every_layer:
        views = [View(layer, pooling, quantization) for layer in layers(shape) for pooling in POOLINGS]
        found += norm_rows(cell, swahili, english, layers(shape))
    return [*found, *aggregates(cell, pairs, swahili, english, views, params.measure.random_seeds)]


def each_pair(
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


def aggregates(
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
