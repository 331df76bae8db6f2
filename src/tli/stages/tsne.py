"""Word pairs laid out in two dimensions, before and after: t-SNE as in the paper's figure, PCA beside it.

A layout is an impression; so the same distances are measured in the embeddings' own space and in either picture. Stage:
project; feeds the figure and the table `projection`.
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

from tli.config.parameters import Params, Project
from tli.data.words.lexicon import Pair, item_names, key, read_pairs
from tli.io.errors import UserError
from tli.io.rows import Row, write_rows
from tli.measure import similarity
from tli.measure.embeddings import embed
from tli.measure.views import BASE, POOLINGS, Cell, View, main_cell
from tli.model import checkpoint, lora


def run(pairs_path: Path, quantized: Path, adapter: Path, out: Path, params: Params) -> None:
    """The `tsne` stage: coordinates of the drawn pairs and their distances, of the base and of the paper's cell."""
    folder = quantized / "nf4"
    tokenizer = checkpoint.tokenizer(folder)
    pairs = read_pairs(pairs_path)
    chosen = draw(pairs, params.project)
    names = [item_names(pairs)[index] for index in chosen]
    drawn = [pairs[index] for index in chosen]
    base = checkpoint.load(folder)
    found = measure(BASE, drawn, names, base, tokenizer, params)
    tuned = lora.load(base, adapter)
    main = main_cell(*lora.scaling_and_rank(adapter), params.train.seed)
    found += measure(main, drawn, names, tuned, tokenizer, params)
    write_rows(out, found)


def draw(pairs: Sequence[Pair], settings: Project) -> list[int]:
    """Places of `settings.pairs` trained pairs, drawn by `settings.seed`, in the list's order.

    Only pairs of which neither form stands in another trained pair: such a word would have two partners.

    Raises:
        UserError: fewer such pairs than are asked for.
    """
    trained = [index for index, pair in enumerate(pairs) if pair.set == "trained"]
    counts = [Counter(key(pairs[index][side]) for index in trained) for side in (0, 1)]
    once = [index for index in trained if all(counts[side][key(pairs[index][side])] == 1 for side in (0, 1))]
    if len(once) < settings.pairs:
        raise UserError(
            f"params.yaml: project.pairs: expected at most {len(once)}, the trained pairs with forms of their own, "
            f"got {settings.pairs}; set fewer"
        )
    chosen = np.random.default_rng(settings.seed).choice(len(once), settings.pairs, replace=False)
    return [once[index] for index in sorted(chosen)]


def measure(
    cell: Cell,
    pairs: Sequence[Pair],
    names: Sequence[str],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
) -> list[Row]:
    """Rows of one model at the layer that the loss reads, under both poolings."""
    size = params.active.compute.batch_size
    words = [*(pair.swahili for pair in pairs), *(pair.english for pair in pairs)]
    pooled = embed(model, tokenizer, words, size).pooled
    found: list[Row] = []
    for pooling in POOLINGS:
        view = View(str(params.train.layer), pooling, "nf4")
        found += _rows(cell, str(view), names, similarity.unit(pooled[view.layer, pooling]), params.project)
    return found


def _rows(
    cell: Cell, view: str, names: Sequence[str], points: Float[ndarray, "word d_model"], settings: Project
) -> Iterator[Row]:
    spaces = {"original": points, "pca": pca(points), "tsne": tsne(points, settings)}
    for space, laid in spaces.items():
        swahili, english = np.split(laid, 2)
        for name, value in distances(swahili, english).items():
            yield Row(*cell, "trained", "-", view, f"{name}.{space}", value)
        if space != "original":
            for side, half in (("sw", swahili), ("en", english)):
                for item, (x, y) in zip(names, half, strict=True):
                    yield Row(*cell, "trained", item, view, f"{space}.x.{side}", float(x))
                    yield Row(*cell, "trained", item, view, f"{space}.y.{side}", float(y))


def pca(points: Float[ndarray, "word d_model"]) -> Float[ndarray, "word 2"]:
    """The two principal components of all words of both languages; scikit-learn fixes each axis's sign."""
    laid: Float[ndarray, "word 2"] = PCA(n_components=2, svd_solver="full").fit_transform(points)
    return laid


def tsne(points: Float[ndarray, "word d_model"], settings: Project) -> Float[ndarray, "word 2"]:
    """t-SNE of all words of both languages together (van der Maaten & Hinton 2008), exact, begun from PCA.

    Of vectors of length 1 the squared distance is 2 - 2 cos: the neighbours are those by cosine.
    """
    layout = TSNE(perplexity=settings.perplexity, init="pca", method="exact", random_state=settings.seed, n_jobs=1)
    laid: Float[ndarray, "word 2"] = layout.fit_transform(points).astype(np.float64)
    return laid


def distances(swahili: Float[ndarray, "n d"], english: Float[ndarray, "n d"]) -> dict[str, float]:
    """Mean Euclidean distance of translations, of every other Swahili-English pair, and P@1 sw→en by distance."""
    apart = np.linalg.norm(swahili[:, None] - english[None], axis=-1)
    others = ~np.eye(len(apart), dtype=bool)
    ranked = similarity.ranks(-apart, np.arange(len(apart)))
    return {
        "distance": float(apart.diagonal().mean()),
        "random_distance": float(apart[others].mean()),
        "p_at_1": similarity.precision_at(ranked, 1),
    }
