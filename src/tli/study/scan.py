"""The pilot: how similar translations look at every layer, beside what random pairs look like (stage: scan).

Feeds the layer-scan table and figure. The paper's pilot (2506.15415, section 3.1) gives the first of these columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tli import store
from tli.data.lexicon import Pair, read_pairs
from tli.model import backbone
from tli.params import Params
from tli.store import Row
from tli.study import metrics
from tli.study.embed import Embedded, embed
from tli.study.views import POOLINGS, View, layers

SETS = ("trained", "control", "all")


def run(pairs_path: Path, quantized: Path, out: Path, params: Params) -> None:
    """The `scan` stage: rows of cell `base` for every layer, 0 to L and norm, under both poolings, on the NF4 cache."""
    pairs = read_pairs(pairs_path)
    model, tokenizer = backbone.load(quantized / "nf4"), backbone.tokenizer(quantized / "nf4")
    size = params.active.compute.batch_size
    swahili = embed(model, tokenizer, [pair.swahili for pair in pairs], size)
    english = embed(model, tokenizer, [pair.english for pair in pairs], size)
    names = layers(params.active.model.blocks)
    store.write_rows(out, [*rows(pairs, swahili, english, names, params.measure.random_seeds)])


def rows(
    pairs: Sequence[Pair], swahili: Embedded, english: Embedded, names: Sequence[str], seeds: Sequence[int]
) -> Iterator[Row]:
    """Per layer and pooling: mean cosine of translations and of random pairs, P@1 both ways; per layer: state norms."""

    def row(set_: str, item: str, view: View, measure: str, value: float) -> Row:
        return Row("base", "-", 0, "-", set_, item, str(view), measure, value)

    for layer in names:
        for pooling in POOLINGS:
            view = View(layer, pooling, "nf4")
            x, y = swahili.pooled[layer, pooling], english.pooled[layer, pooling]
            for set_ in SETS:
                chosen = members(pairs, set_)
                yield row(set_, "-", view, "cosine_mean", float(metrics.cosine(x[chosen], y[chosen]).mean()))
                for seed in seeds:
                    random = metrics.cosine(x[chosen], y[chosen][metrics.derangement(len(chosen), seed)])
                    yield row(set_, f"random{seed}", view, "random_cosine_mean", float(random.mean()))
            similarity = metrics.similarities(x, y)
            true = np.arange(len(pairs))
            for way, table in (("sw_en", similarity), ("en_sw", similarity.T)):
                yield row("all", "-", view, f"p_at_1.{way}", metrics.precision_at(metrics.ranks(table, true), 1))
        norm_view = View(layer, "-", "nf4")
        for measure, a, b in (
            ("bos_norm", swahili.bos_norm, english.bos_norm),
            ("content_norm", swahili.content_norm, english.content_norm),
        ):
            yield row("all", "-", norm_view, measure, (a[layer] + b[layer]) / 2)


def members(pairs: Sequence[Pair], set_: str) -> np.ndarray:
    """Indices of the pairs of a set: `trained`, `control`, or `all`.

    Raises:
        UserError: fewer than two pairs, of which no random pairing can be made.
    """
    chosen = np.array([index for index, pair in enumerate(pairs) if set_ in ("all", pair.set)], dtype=np.int64)
    if len(chosen) < 2:
        raise store.UserError(f"word pairs: expected 2 or more in the set {set_}, got {len(chosen)}; add pairs to it")
    return chosen
