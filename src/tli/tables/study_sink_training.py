"""The study: training on bases with an attention sink, layer by layer, beside the same training without it."""

from __future__ import annotations

from collections.abc import Iterator

from tli.analysis.results import Results
from tli.analysis.study import BASE, VARIANT, Study, over_bases, study_of
from tli.analysis.table import Cell, Column
from tli.analysis.views import INTERVAL
from tli.config.parameters import Params
from tli.measure.views import POOLINGS, layers
from tli.stats.descriptive import mean

TITLE = "Study: an attention sink, after training"
CAPTION = (
    "All pairs, by layer, before and after training: variants on bases with an attention sink, and the same training "
    "on bases as they are. Excess = gain − gain of random pairs, with its {params.stats.confidence:.0%} interval, "
    "uncorrected."
)
SOURCE = ("study",)
COLUMNS = (
    VARIANT,
    Column("view", "view", id=True),
    Column("base", "base"),
    Column("bases", "bases", "count"),
    Column("ratio_before", "BOS ÷ content before", "magnitude"),
    Column("ratio_after", "after", "magnitude"),
    Column("cosine_before", "translation cosine before", "cosine"),
    Column("cosine_after", "after", "cosine"),
    Column("random_before", "random cosine before", "cosine"),
    Column("random_after", "after", "cosine"),
    Column("p1_before", "P@1 sw→en before", "share"),
    Column("p1_after", "after", "share"),
    Column("excess", "excess", "cosine_change"),
    *INTERVAL,
)
MEASURED = {"cosine": "cosine_mean", "random": "random_cosine_mean", "p1": "p_at_1.sw_en"}  # column -> measure
MOMENTS = ("before", "after")


def variants(study: Study) -> list[str]:
    """The variants on bases with a sink, and those on bases as they are that train in the same way."""
    training = {name: (params.lora, params.train) for name, params in study.params.items()}
    with_sink = [training[name] for name in study.bases if study.sink(name)]
    return [name for name in study.bases if training[name] in with_sink]


def rows(results: Results, params: Params) -> Iterator[dict[str, object]]:
    """One row per variant, layer and pooling, at the rank that the variants share."""
    study = study_of(results, params)
    if (rank := study.common_rank) is None:
        return
    for variant in variants(study):
        for layer in layers(params.active.model):
            norms = [study.change(variant, rank, "all", f"{layer}.-.nf4", f"{key}_norm") for key in ("bos", "content")]
            for pooling in POOLINGS:
                view = f"{layer}.{pooling}.nf4"
                excess = over_bases(study.excess(variant, rank, "all", view), params)
                row: dict[str, Cell] = {"variant": variant, "view": view, "base": BASE[study.sink(variant)]}
                row |= {"bases": excess.n, "excess": excess.gain, "low": excess.low, "high": excess.high}
                for moment in MOMENTS:
                    bos, content = (getattr(norm, moment) for norm in norms)
                    row[f"ratio_{moment}"] = mean([a / b for a, b in zip(bos, content, strict=True)])
                    for key, measure in MEASURED.items():
                        values = getattr(study.change(variant, rank, "all", view, measure), moment)
                        row[f"{key}_{moment}"] = mean(values)
                yield {**row, "note": excess.note}


def notes(results: Results, params: Params) -> list[str]:
    """The rank, and how to read the two poolings."""
    return [
        f"rank {study_of(results, params).common_rank}; mean over bases of the mean over seeds; Student's interval "
        "over bases",
        "an effect that mask pooling shows and content pooling does not is one of BOS",
    ]
