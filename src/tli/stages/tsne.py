"""Stage `tsne`: two-dimensional layouts of word pairs before and after training, by t-SNE (as in the paper) and PCA.

A layout can mislead, so the same measures are computed in the embedding space and in both layouts:

    distance        = mean_i ||x_i - y_i||              x_i, y_i the points of a Swahili form and its translation
    random_distance = mean over i != j of ||x_i - y_j||
    p_at_1          = share of i with ||x_i - y_i|| < ||x_i - y_j|| for all j != i

Inputs: word pairs, the NF4 checkpoint, the adapter.
Output: rows of the runs `base` and `main`; set trained; the layer that the loss reads, both poolings, NF4; measures
distance.SPACE, random_distance.SPACE and p_at_1.SPACE (spaces original, pca, tsne), and per pair the coordinates
pca.x.sw, pca.y.sw, tsne.x.en and so on.

Used by: the table and the figure `projection`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import nn
from transformers import PreTrainedTokenizerBase

from tli.config.parameters import Params, Tsne
from tli.data.words.lexicon import Pair, item_names, key, read_pairs
from tli.io.errors import UserError
from tli.io.rows import Row, write_rows
from tli.measure import similarity
from tli.measure.embeddings import embed
from tli.measure.views import BASE, POOLINGS, RunId, View, main_run
from tli.model import checkpoint, lora


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """Writes coordinates and distances of the drawn pairs, for the base and for the paper's adapter."""
    folder = quantized / "nf4"
    tokenizer = checkpoint.tokenizer(folder)
    pairs = read_pairs(pairs_path)
    indices = draw(pairs, params.tsne)
    names = [item_names(pairs)[index] for index in indices]
    drawn = [pairs[index] for index in indices]
    base = checkpoint.load(folder)
    rows = measure(BASE, drawn, names, base, tokenizer, params)
    adapted = lora.load(base, adapter)
    run_id = main_run(*lora.scaling_and_rank(adapter), params.train.seed)
    rows += measure(run_id, drawn, names, adapted, tokenizer, params)
    write_rows(out, rows)


def draw(pairs: Sequence[Pair], settings: Tsne) -> list[int]:
    """Indices of `settings.pairs` trained pairs, drawn by `settings.seed`, in ascending order.

    Only pairs whose forms are in no other trained pair: such a form would have two partners.

    Raises:
        UserError: there are fewer such pairs than `settings.pairs`.
    """
    trained = [index for index, pair in enumerate(pairs) if pair.set == "trained"]
    counts = [Counter(key(pairs[index][side]) for index in trained) for side in (0, 1)]
    unambiguous = [index for index in trained if all(counts[side][key(pairs[index][side])] == 1 for side in (0, 1))]
    if len(unambiguous) < settings.pairs:
        raise UserError(
            f"params.yaml: tsne.pairs: expected at most {len(unambiguous)}, the trained pairs whose forms occur "
            f"once, got {settings.pairs}; set fewer"
        )
    drawn = np.random.default_rng(settings.seed).choice(len(unambiguous), settings.pairs, replace=False)
    return [unambiguous[index] for index in sorted(drawn)]


def measure(
    run_id: RunId,
    pairs: Sequence[Pair],
    names: Sequence[str],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
) -> list[Row]:
    """The rows of one model at the layer that the loss reads, under both poolings."""
    size = params.active.compute.batch_size
    words = [*(pair.swahili for pair in pairs), *(pair.english for pair in pairs)]
    pooled = embed(model, tokenizer, words, size).pooled
    rows: list[Row] = []
    for pooling in POOLINGS:
        view = View(str(params.train.layer), pooling, "nf4")
        rows += _rows(run_id, str(view), names, similarity.unit(pooled[view.layer, pooling]), params.tsne)
    return rows


def _rows(
    run_id: RunId, view: str, names: Sequence[str], points: Float[ndarray, "word d_model"], settings: Tsne
) -> Iterator[Row]:
    spaces = {"original": points, "pca": pca(points), "tsne": tsne(points, settings)}
    for space, layout in spaces.items():
        swahili, english = np.split(layout, 2)
        for name, value in distances(swahili, english).items():
            yield Row(*run_id, "trained", "-", view, f"{name}.{space}", value)
        if space != "original":
            for side, coordinates in (("sw", swahili), ("en", english)):
                for item, (x, y) in zip(names, coordinates, strict=True):
                    yield Row(*run_id, "trained", item, view, f"{space}.x.{side}", float(x))
                    yield Row(*run_id, "trained", item, view, f"{space}.y.{side}", float(y))


def pca(points: Float[ndarray, "word d_model"]) -> Float[ndarray, "word 2"]:
    """The first two principal components of all words of both languages; scikit-learn fixes each axis's sign."""
    layout: Float[ndarray, "word 2"] = PCA(n_components=2, svd_solver="full").fit_transform(points)
    return layout


def tsne(points: Float[ndarray, "word d_model"], settings: Tsne) -> Float[ndarray, "word 2"]:
    """t-SNE of all words of both languages together (van der Maaten & Hinton 2008), exact, initialised by PCA.

    The vectors have length 1, so the squared distance is 2 - 2 cos and the neighbours are those by cosine.
    """
    model = TSNE(perplexity=settings.perplexity, init="pca", method="exact", random_state=settings.seed, n_jobs=1)
    layout: Float[ndarray, "word 2"] = model.fit_transform(points).astype(np.float64)
    return layout


def distances(swahili: Float[ndarray, "n d"], english: Float[ndarray, "n d"]) -> dict[str, float]:
    """Mean Euclidean distance of translations and of all other Swahili-English pairs, and P@1 sw→en by distance."""
    distance = np.linalg.norm(swahili[:, None] - english[None], axis=-1)
    others = ~np.eye(len(distance), dtype=bool)
    ranked = similarity.ranks(-distance, np.arange(len(distance)))
    return {
        "distance": float(distance.diagonal().mean()),
        "random_distance": float(distance[others].mean()),
        "p_at_1": similarity.precision_at(ranked, 1),
    }
