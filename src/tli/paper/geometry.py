"""What cosine alone does not show, layer by layer before and after training: geometry, and pools of candidates.

Anisotropy (any two words look alike), what is left of it when the common mean is taken out, how alike the two
languages' spaces are, in how many directions they spread; and retrieval where a set's own words are the candidates.
Definitions and sources: measure/similarity.py. Feeds the tables `geometry` and `pools`.
"""

from __future__ import annotations

from tli.analysis.render import Cell, Column, Kind, Made, Table
from tli.analysis.results import Measured, Rows
from tli.analysis.views import MOMENTS, PAIR_SETS, VIEW, WAYS, at
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers

SCORES = {"p1": ("P@1", "p_at_1"), "p5": ("P@5", "p_at_5"), "mrr": ("MRR", "mrr"), "csls": ("CSLS", "csls_at_1")}
SHOWN: dict[str, tuple[str, Kind]] = {
    "random": ("anisotropy", "similarity"),
    "left": ("translations − random", "change"),
    "centred": ("centred", "change"),
    "standardised": ("standardised", "change"),
    "cka": ("CKA", "score"),
    "random_cka": ("CKA, random", "score"),
    "participation_sw": ("participation, sw", "percent"),
    "participation_en": ("participation, en", "percent"),
}


def geometry(align: Rows, params: Params) -> Made:
    """Every layer and pooling: random cosine, translations less random under three scalings, CKA, participation."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for layer in layers(params.active.model):
        for pooling in POOLINGS:
            view = f"{layer}.{pooling}.nf4"
            row = at(view, params)
            for when, which in MOMENTS.items():
                found = _one(align, which, view)
                row |= {f"{key}_{when}": value for key, value in found.items()}
                measured |= {f"geometry.{key}.{when}.{view}": value for key, value in found.items()}
            rows.append(row)
    table = Table(
        "geometry",
        "Geometry of the embeddings",
        "All pairs, at every layer, in the base and in the paper's cell. Anisotropy: mean cosine of random pairs. "
        "Translations − random: of the cosine, of the cosine after each language's mean is taken out (centred), and "
        "after each dimension is brought to unit variance as well (standardised). CKA: linear, between the Swahili and "
        "the English embeddings of the same pairs, and of permuted ones. Participation ratio: the squared sum of the "
        "eigenvalues of a language's covariance over the sum of their squares, the number of directions that it fills.",
        (
            *VIEW,
            *(
                Column(f"{key}_{when}", f"{title}, {when}", kind)
                for key, (title, kind) in SHOWN.items()
                for when in MOMENTS
            ),
        ),
        rows,
    )
    return Made(table, measured)


def _one(align: Rows, which: str, view: str) -> dict[str, float]:
    def value(measure: str) -> float:
        return align.one(which, "all", view, measure)

    return {
        "random": value("random_cosine_mean"),
        "left": value("cosine_mean") - value("random_cosine_mean"),
        "centred": value("centred_cosine_mean") - value("centred_random_cosine_mean"),
        "standardised": value("standardised_cosine_mean") - value("standardised_random_cosine_mean"),
        "cka": value("cka"),
        "random_cka": value("random_cka"),
        "participation_sw": value("participation_ratio.sw"),
        "participation_en": value("participation_ratio.en"),
    }


def pools(align: Rows, params: Params) -> Made:
    """Every layer: retrieval of each set among all pairs' words and its own, both directions, before and after."""
    rows: list[dict[str, Cell]] = []
    measured: Measured = {}
    for view in (f"{layer}.{pooling}.nf4" for layer in layers(params.active.model) for pooling in POOLINGS):
        for set_ in PAIR_SETS:
            for pool, prefix in (("all", ""), ("own", "own_")):
                for way, arrow in WAYS.items():
                    row = at(view, params) | {"set": set_, "pool": pool, "direction": arrow}
                    for short, (_, measure) in SCORES.items():
                        for when, which in MOMENTS.items():
                            value = align.one(which, set_, view, f"{prefix}{measure}.{way}")
                            row[f"{short}_{when}"] = value
                            if pool == "own":
                                measured[f"pools.{set_}.{when}.{short}_{way}.{view}"] = value
                    rows.append(row)
    table = Table(
        "pools",
        "Retrieval by pool of candidates",
        "At every layer, finding the translation of each set's words among the forms of all pairs, or of the set's own "
        "alone: a small pool makes every score higher, so that only scores over one pool can be compared.",
        (
            *VIEW,
            Column("set", "queries"),
            Column("pool", "candidates"),
            Column("direction", "direction"),
            *(
                Column(f"{short}_{when}", f"{title} {when}", "score")
                for short, (title, _) in SCORES.items()
                for when in MOMENTS
            ),
        ),
        rows,
    )
    return Made(table, measured)
