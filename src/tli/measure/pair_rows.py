"""Similarity rows of one model: the cosine of each word pair, and means, retrieval and geometry at every view.

The equations are in measure/similarity.py. Used by the stages base-rows, similarity, sweep-score, scan and bfloat16.
"""

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
from tli.measure.views import POOLINGS, RunId, View, layers, per_pair

FILE = "similarity.tsv"  # the name of these rows in a folder of rows
SETS = ("trained", "control", "all")


def norm_rows(run_id: RunId, swahili: Embedded, english: Embedded, layer_names: Sequence[str]) -> Iterator[Row]:
    """Per layer, over the words of both languages: mean norms of BOS and content states, and the massive activation.

    bos_norm and content_norm are mean L2 norms. bos_peak is the largest |activation| of the BOS state,
    bos_peak_dimension its dimension, and median_magnitude the median |activation| (`embeddings.MassiveActivation`).
    """
    for layer in layer_names:
        both = (swahili.massive[layer], english.massive[layer])
        peak = max(both, key=lambda massive: massive.magnitude)
        for measure, value in {
            "bos_norm": (swahili.bos_norm[layer] + english.bos_norm[layer]) / 2,
            "content_norm": (swahili.content_norm[layer] + english.content_norm[layer]) / 2,
            "bos_peak": peak.magnitude,
            "bos_peak_dimension": peak.dimension,
            "median_magnitude": (both[0].median + both[1].median) / 2,
        }.items():
            yield Row(*run_id, "all", "-", str(View(layer, "-", "nf4")), measure, value)


def members(pairs: Sequence[Pair], set_: str) -> np.ndarray:
    """Indices of the pairs of a set: `trained`, `control` or `all`.

    Raises:
        UserError: the set has fewer than two pairs, too few for a random pairing.
    """
    indices = np.array([index for index, pair in enumerate(pairs) if set_ in ("all", pair.set)], dtype=np.int64)
    if len(indices) < 2:
        raise UserError(f"word pairs: expected 2 or more in the set {set_}, got {len(indices)}; add pairs to it")
    return indices


def measure(
    run_id: RunId,
    pairs: Sequence[Pair],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
    quantization: str,
    *,
    every_layer: bool = True,
) -> list[Row]:
    """All similarity rows of one model: rows of each pair at the named views and their neighbours, and aggregates.

    Under NF4 aggregates and norms are at every layer. Under FP4, or without `every_layer`, aggregates are only at the
    views that have rows of each pair: a deep model spends two thirds of its time on the others, and the tables of the
    rank sweep do not use them.
    """
    size = params.active.compute.batch_size
    swahili = embed(model, tokenizer, [pair.swahili for pair in pairs], size)
    english = embed(model, tokenizer, [pair.english for pair in pairs], size)
    model_shape = params.active.model
    views = per_pair(model_shape, params.train.layer, quantization)
    rows = [*pair_cosine_rows(run_id, pairs, swahili, english, views)]
    if quantization == "nf4" and every_layer:
        views = [View(layer, pooling, quantization) for layer in layers(model_shape) for pooling in POOLINGS]
        rows += norm_rows(run_id, swahili, english, layers(model_shape))
    return [*rows, *aggregate_rows(run_id, pairs, swahili, english, views, params.measure.random_seeds)]


def pair_cosine_rows(
    run_id: RunId, pairs: Sequence[Pair], swahili: Embedded, english: Embedded, views: Sequence[View]
) -> Iterator[Row]:
    """`cosine` of each pair, and `random_cosine` of its Swahili form with a random English form of the same set."""
    items = item_names(pairs)
    for view in views:
        u, v = (similarity.unit(side.pooled[view.layer, view.pooling]) for side in (swahili, english))
        view_name = str(view)
        for set_ in SETS[:2]:
            indices = members(pairs, set_)
            for name, partners in (
                ("cosine", indices),
                ("random_cosine", indices[similarity.derangement(len(indices), 0)]),
            ):
                for index, value in zip(indices, similarity.dots(u, v, (indices, partners)).tolist(), strict=True):
                    yield Row(*run_id, set_, items[index], view_name, name, value)


def aggregate_rows(
    run_id: RunId,
    pairs: Sequence[Pair],
    swahili: Embedded,
    english: Embedded,
    views: Sequence[View],
    seeds: Sequence[int],
) -> Iterator[Row]:
    """Per view and set: mean cosines, retrieval in both directions, CKA and participation ratios.

    Retrieval ranks all pairs' forms as candidates (P@1, P@5, MRR, P@1 by CSLS); `own_…` ranks only the forms of the
    set. `centred_…` and `standardised_…` are mean cosines after centring or standardising each language over all pairs.
    random_cosine_mean averages over the random pairings of all `seeds`; the other random baselines use the first.
    """
    targets = np.arange(len(pairs))
    sets = {set_: members(pairs, set_) for set_ in SETS}
    pairings = {
        set_: [indices[similarity.derangement(len(indices), seed)] for seed in seeds] for set_, indices in sets.items()
    }
    for view in views:
        x, y = swahili.pooled[view.layer, view.pooling], english.pooled[view.layer, view.pooling]
        cosines = similarity.similarities(x, y)
        csls = similarity.csls(cosines)
        ranks = {
            direction: (similarity.ranks(by_cosine, targets), similarity.ranks(by_csls, targets))
            for direction, by_cosine, by_csls in (("sw_en", cosines, csls), ("en_sw", cosines.T, csls.T))
        }
        unit_x, unit_y = similarity.unit(x), similarity.unit(y)
        transformed = {
            "centred": (similarity.unit(similarity.centred(x)), similarity.unit(similarity.centred(y))),
            "standardised": (similarity.unit(similarity.standardised(x)), similarity.unit(similarity.standardised(y))),
        }
        for set_, indices in sets.items():
            random_partners = pairings[set_][0]
            values = {"cosine_mean": float(similarity.dots(unit_x, unit_y, (indices, indices)).mean())}
            random_means = [similarity.dots(unit_x, unit_y, (indices, partners)).mean() for partners in pairings[set_]]
            values["random_cosine_mean"] = float(np.mean(random_means))
            for direction, (by_cosine, by_csls) in ranks.items():
                values[f"p_at_1.{direction}"] = similarity.precision_at(by_cosine[indices], 1)
                values[f"p_at_5.{direction}"] = similarity.precision_at(by_cosine[indices], 5)
                values[f"mrr.{direction}"] = similarity.reciprocal_rank(by_cosine[indices])
                values[f"csls_at_1.{direction}"] = similarity.precision_at(by_csls[indices], 1)
            for name, (a, b) in transformed.items():
                values[f"{name}_cosine_mean"] = float(similarity.dots(a, b, (indices, indices)).mean())
                values[f"{name}_random_cosine_mean"] = float(similarity.dots(a, b, (indices, random_partners)).mean())
            values |= _geometry(
                similarity.centred(x[indices]), similarity.centred(y[indices]), similarity.centred(y[random_partners])
            )
            if set_ != "all":
                values |= _retrieval_within_set(cosines[np.ix_(indices, indices)])
            for name, value in values.items():
                yield Row(*run_id, set_, "-", str(view), name, value)


def _geometry(a: Float[ndarray, "n d"], b: Float[ndarray, "n d"], random_b: Float[ndarray, "n d"]) -> dict[str, float]:
    """CKA of centred rows with their translations and with a random pairing, and participation ratios of both sides."""
    gram_a, gram_b = a.T @ a, b.T @ b
    return {
        "cka": similarity.cka_from_products(gram_a, gram_b, b.T @ a),
        "random_cka": similarity.cka_from_products(gram_a, gram_b, random_b.T @ a),
        "participation_ratio.sw": similarity.participation_ratio_from_product(gram_a),
        "participation_ratio.en": similarity.participation_ratio_from_product(gram_b),
    }


def _retrieval_within_set(cosines: Float[ndarray, "n n"]) -> dict[str, float]:
    """Retrieval in both directions with only the pairs of one set as candidates."""
    targets, csls, values = np.arange(len(cosines)), similarity.csls(cosines), {}
    for direction, by_cosine, by_csls in (("sw_en", cosines, csls), ("en_sw", cosines.T, csls.T)):
        ranks = similarity.ranks(by_cosine, targets)
        values[f"own_p_at_1.{direction}"] = similarity.precision_at(ranks, 1)
        values[f"own_p_at_5.{direction}"] = similarity.precision_at(ranks, 5)
        values[f"own_mrr.{direction}"] = similarity.reciprocal_rank(ranks)
        values[f"own_csls_at_1.{direction}"] = similarity.precision_at(similarity.ranks(by_csls, targets), 1)
    return values
