"""The gain in cosine under each control, one control per row.

A control removes one reason for which cosines could grow although no word comes closer to its translation: that the
pair was trained on, that any two words come closer, that BOS is pooled, that all vectors share a mean or a few large
dimensions. Whether other pairs would do as well needs adapters of its own: the variant `shuffled` of the full study.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tli.analysis.results import Results, Rows
from tli.analysis.table import Cell, Column
from tli.analysis.views import INTERVAL, PAIR_SETS, WAYS, left_out, points
from tli.config.parameters import Params
from tli.measure.views import View
from tli.stats import t_tests
from tli.stats.descriptive import mean

TITLE = "Controls"
CAPTION = (
    "The gain in cosine of the paper's configuration (rank {params.lora.rank}, seed {params.train.seed}) under each "
    "control; excess = gain − gain of random pairs, pair by pair, with its {params.stats.confidence:.0%} interval and "
    "the p of a paired t-test, uncorrected."
)
SOURCE = ("base-rows", "similarity")
SCALED = {  # measures with one value per set -> their rows, for translations and for random pairs
    "centred": ("centred_cosine_mean", "centred_random_cosine_mean"),
    "standardised": ("standardised_cosine_mean", "standardised_random_cosine_mean"),
    "linear CKA": ("cka", "random_cka"),
}
COLUMNS = (
    Column("control", "control"),
    Column("view", "view", id=True),
    Column("set", "pairs", id=True),
    Column("measure", "measure", id=True),
    Column("gain", "gain", "cosine_change"),
    Column("random", "random", "cosine_change"),
    Column("excess", "excess", "cosine_change"),
    *INTERVAL,
    Column("p", "p", "p"),
    Column("p1_sw_en", "P@1 sw→en, base", "share"),
    Column("p1_sw_en_change", "change", "share_change"),
    Column("p1_en_sw", "P@1 en→sw, base", "share"),
    Column("p1_en_sw_change", "change", "share_change"),
)


class Control(NamedTuple):
    """What differs from the row `as trained`."""

    name: str
    set: str
    view: str


def controls(params: Params) -> list[Control]:
    """As trained, BOS the other way, and the named views; each of trained and of unseen (control) pairs.

    A view that stands in an earlier row is not repeated.
    """
    trained = View(str(params.train.layer), params.train.pooling, "nf4")
    other = trained._replace(pooling="content" if trained.pooling == "mask" else "mask")
    names = {str(trained): "as trained", str(other): "BOS out" if other.pooling == "content" else "BOS in"}
    for name in ("as_scripted", "as_described", "final"):
        if name in points(params):
            names.setdefault(points(params)[name], f"at `{name}`")
    return [
        Control(name if set_ == "trained" else f"{name}, unseen pairs", set_, view)
        for view, name in names.items()
        for set_ in PAIR_SETS
    ]


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """The cosine under each control; then the scaled measures at the layer that the loss reads, BOS in and out."""
    similarity = results.of("similarity")
    for control in controls(params):
        cosine, random = (
            similarity.matched(("base", "main"), control.set, control.view, measure)
            for measure in ("cosine", "random_cosine")
        )
        before, after = (np.subtract(x, y) for x, y in zip(cosine, random, strict=True))
        excess = t_tests.paired(before, after, params.stats.confidence)
        row: dict[str, Cell] = {"control": control.name, "view": control.view, "set": control.set, "measure": "cosine"}
        row |= {"gain": _mean_gain(cosine), "random": _mean_gain(random), "excess": excess.gain}
        row |= {"low": excess.low, "high": excess.high, "p": excess.p}
        for way in WAYS:
            precision, change = _base_and_change(similarity, control, f"p_at_1.{way}")
            row |= {f"p1_{way}": precision, f"p1_{way}_change": change}
        yield {**row, "note": excess.note}
    for control in controls(params)[: 2 * len(PAIR_SETS)]:
        for measure, keys in SCALED.items():
            (_, gain), (_, random_gain) = (_base_and_change(similarity, control, key) for key in keys)
            as_trained = "as trained" in control.name
            name = control.name.replace("as trained", measure) if as_trained else f"{measure}, {control.name}"
            row = {"control": name, "view": control.view, "set": control.set, "measure": measure}
            yield {**row, "gain": gain, "random": random_gain, "excess": gain - random_gain}


def _mean_gain(values: tuple[list[float], list[float]]) -> float:
    before, after = values
    return mean(np.subtract(after, before))


def _base_and_change(similarity: Rows, control: Control, measure: str) -> tuple[float, float]:
    """A measure with one value per set: of the base, and the paper's configuration minus the base."""
    base, main = (similarity.one(run, control.set, control.view, measure) for run in ("base", "main"))
    return base, main - base


def notes(results: Results, params: Params) -> list[str]:
    """What the columns and measures are, what is not shown here."""
    return [
        "random: the gain of the same Swahili words with another pair's English word",
        "unseen pairs: the control pairs, which were not trained on",
        "P@1: of the set's words among the words of all pairs",
        "centred: cosine after the mean of each language is subtracted; standardised: after each dimension is also "
        "scaled to unit variance; linear CKA: between the embeddings of the two languages, random with permuted rows. "
        "They have one value per set, so that they have no interval",
        "none of these controls is published",
        "an adapter trained on the same words with permuted translations is the variant `shuffled` of the full study",
        left_out(params),
    ]
