"""The study: bases with an attention sink beside bases as they are, layer by layer, before any training."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.study import BASE, study_of
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers
from tli.stats.descriptive import mean, spread

TITLE = "Study: an attention sink, before training"
CAPTION = (
    "Mean cosine of translations and of random pairs, all pairs, by layer, on bases as they are and with an attention "
    "sink: from layer {params.sink.layer} on, BOS has {params.sink.ratio:g} times the norm of others. No adapter."
)
SOURCE = ("study",)
COLUMNS = (
    Column("base", "base", id=True),
    Column("view", "view", id=True),
    Column("bases", "bases", "count"),
    Column("ratio", "BOS ÷ content", "magnitude"),
    Column("cosine", "translation cosine", "cosine"),
    Column("random", "random cosine", "cosine"),
    Column("excess", "excess", "cosine_change"),
    Column("sd", "SD of excess", "cosine"),
    Column("p1", "P@1 sw→en", "share"),
)


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """One row per kind of base, layer and pooling; none where the run has no base with a sink."""
    study = study_of(results, params)
    first = {study.sink(name): name for name in reversed(study.bases)}  # a variant on each kind of base
    if True not in first:
        return
    for sink, variant in sorted(first.items()):
        rank = study.params[variant].sweep.ranks[0]
        for layer in layers(params.active.model):
            bos, content = (
                study.change(variant, rank, "all", f"{layer}.-.nf4", norm).before
                for norm in ("bos_norm", "content_norm")
            )
            ratio = mean([a / b for a, b in zip(bos, content, strict=True)])
            for pooling in POOLINGS:
                view = f"{layer}.{pooling}.nf4"
                pairs, random, hits = (
                    study.change(variant, rank, "all", view, measure).before
                    for measure in ("cosine_mean", "random_cosine_mean", "p_at_1.sw_en")
                )
                excess = spread([a - b for a, b in zip(pairs, random, strict=True)])
                row: dict[str, Cell] = {"base": BASE[sink], "view": view, "bases": len(pairs), "ratio": ratio}
                row |= {"cosine": mean(pairs), "random": mean(random), "excess": excess.mean, "sd": excess.sd}
                yield {**row, "p1": mean(hits), "note": excess.note}


def notes(results: Results, params: Params) -> list[str]:
    """What differs between the bases, over what means and SDs are."""
    return [
        "excess: translations − random",
        "the states of all tokens but BOS, and every weight that the base has, are as before: only BOS differs",
        "mean and SD over bases",
    ]
