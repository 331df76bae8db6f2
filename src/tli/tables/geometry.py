"""What the mean cosine hides at every layer: anisotropy, similarity at a common scale, CKA, participation ratio.

Definitions and sources: measure/similarity.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tli.analysis.results import Results
from tli.analysis.table import Cell, Column, Kind
from tli.analysis.views import MOMENTS, VIEW_COLUMNS, at
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers

TITLE = "Geometry of the embeddings"
CAPTION = (
    "At every layer, before and after training, over all pairs: anisotropy (mean cosine of random pairs), cosine of "
    "translations minus that of random pairs under three scalings, linear CKA between the languages, and the "
    "participation ratio of each language."
)
SOURCE = ("base-rows", "similarity")
SHOWN: Mapping[str, tuple[str, Kind]] = {
    "random": ("anisotropy", "cosine"),
    "excess": ("translations − random", "cosine_change"),
    "centred": ("centred", "cosine_change"),
    "standardised": ("standardised", "cosine_change"),
    "cka": ("CKA", "cosine"),  # linear CKA is the cosine of two centred Gram matrices
    "random_cka": ("CKA, random", "cosine"),
    "participation_sw": ("participation, sw", "magnitude"),
    "participation_en": ("participation, en", "magnitude"),
}
MEASURES = (
    *(f"{scaling}{pairs}cosine_mean" for scaling in ("", "centred_", "standardised_") for pairs in ("", "random_")),
    *("cka", "random_cka", "participation_ratio.sw", "participation_ratio.en"),
)
COLUMNS = (
    *VIEW_COLUMNS,
    *(Column(f"{key}_{when}", f"{title}, {when}", kind) for key, (title, kind) in SHOWN.items() for when in MOMENTS),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per layer and pooling."""
    similarity = results.of("similarity")
    for view in (f"{layer}.{pooling}.nf4" for layer in layers(params.active.model) for pooling in POOLINGS):
        row = at(view, params)
        for when, run in MOMENTS.items():
            value = {measure: similarity.one(run, "all", view, measure) for measure in MEASURES}
            row |= {
                f"random_{when}": value["random_cosine_mean"],
                f"excess_{when}": value["cosine_mean"] - value["random_cosine_mean"],
                **{
                    f"{scaling}_{when}": value[f"{scaling}_cosine_mean"] - value[f"{scaling}_random_cosine_mean"]
                    for scaling in ("centred", "standardised")
                },
                f"cka_{when}": value["cka"],
                f"random_cka_{when}": value["random_cka"],
                f"participation_sw_{when}": value["participation_ratio.sw"],
                f"participation_en_{when}": value["participation_ratio.en"],
            }
        yield row


def notes(results: Results, params: Params) -> list[str]:
    """Definitions."""
    return [
        "centred: after the mean of each language is subtracted; standardised: after each dimension is also scaled to "
        "unit variance",
        "CKA: between the Swahili and the English embeddings of the same pairs; random: of permuted pairs",
        "participation ratio: squared sum of the eigenvalues of a language's covariance over the sum of their squares, "
        "the number of directions in which the embeddings vary",
    ]
