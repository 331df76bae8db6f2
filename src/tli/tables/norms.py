"""Norms of the BOS state and of the words' own states at every layer, before and after training."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.massive import NORMS, massive_activation, ratio
from tli.analysis.results import Results
from tli.analysis.table import Cell, Column
from tli.analysis.views import MOMENTS
from tli.config.parameters import Params
from tli.measure.views import layers

TITLE = "Norms before and after training"
CAPTION = (
    "Mean L2 norm of the BOS state and of the words' own token states at every layer, before and after training, and "
    "the largest magnitude in the BOS state. All pairs, both languages."
)
SOURCE = ("base-rows", "similarity")
TITLES = {
    "bos_norm": "BOS norm",
    "content_norm": "content norm",
    "ratio": "BOS ÷ content",
    "bos_peak": "BOS peak",
    "dimension": "at dimension",
    "median_magnitude": "median magnitude",
    "times": "peak ÷ median",
}
COLUMNS = (
    Column("view", "view", id=True),
    *(Column(f"{key}_{when}", f"{title} {when}", "magnitude") for key, title in TITLES.items() for when in MOMENTS),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, Cell]]:
    """One row per layer."""
    similarity = results.of("similarity")
    for layer in layers(params.active.model):
        view = f"{layer}.-.nf4"
        row: dict[str, Cell] = {"view": view}
        for when, run in MOMENTS.items():
            norms = {measure: similarity.one(run, "all", view, measure) for measure in NORMS}
            row |= {f"{key}_{when}": norms[key] for key in ("bos_norm", "content_norm", "bos_peak", "median_magnitude")}
            row[f"dimension_{when}"] = int(norms["bos_peak_dimension"])
            row[f"ratio_{when}"] = ratio(norms["bos_norm"], norms["content_norm"])
            row[f"times_{when}"] = ratio(norms["bos_peak"], norms["median_magnitude"])
        yield row


def notes(results: Results, params: Params) -> list[str]:
    """What BOS does in a mean, and whether its activation is massive."""
    similarity = results.of("similarity")
    return [
        "BOS comes first, so that its state is the same for every word: a mean over tokens that includes it makes any "
        "two words more alike.",
        *(f"{when}: {massive_activation(similarity, run, params).note}" for when, run in MOMENTS.items()),
    ]
