"""Forgetting of English, change of the target languages and transfer gap of every task by rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tli.analysis.changes import released, set_notes
from tli.analysis.outcomes import Bases, Values, by_item, tidy
from tli.analysis.scores import SCORING, TASKS, item_name, language_name
from tli.analysis.table import Cell, Column
from tli.config.parameters import Params
from tli.stats.descriptive import spread
from tli.stats.transfer_change import TransferChange, transfer_change
from tli.stats.trend import Key

TITLE = "Forgetting and transfer gap by rank"
CAPTION = (
    "Change of accuracy against rank 0 in points, mean and SD over the models of a rank: English (below 0: "
    "forgetting), the mean target language, the worst one; and the transfer gap, English − mean of the targets."
)
SOURCE = ("base-rows", "sweep-score")
VIEW = SCORING
COLUMNS = (
    Column("task", "task", id=True),
    Column("items", "items"),
    Column("rank", "rank", "count", id=True),
    Column("models", "models", "count"),
    Column("english", "English", "points"),
    Column("english_sd", "SD", "percent"),
    Column("targets", "targets", "points"),
    Column("targets_sd", "SD", "percent"),
    Column("worst", "worst target", "points"),
    Column("worst_sd", "SD", "percent"),
    Column("language", "worst language"),
    Column("gap_before", "gap, rank 0", "points"),
    Column("gap", "gap", "points"),
    Column("gap_sd", "SD", "percent"),
    Column("margin", "margin change", "nats"),
    Column("margin_sd", "SD", "nats"),
)
PIECES = {"english": "source_change", "targets": "target_change", "worst": "worst_change", "gap": "gap_after"}
Languages = Mapping[str, Values]  # language -> values


def rows(results: Bases, params: Params) -> Iterator[dict[str, object]]:
    """Per task and rank above 0."""
    sets = [scored.set for scored in released(results, params)]
    for task in TASKS:
        codes = [set_.removeprefix(f"{task}.") for set_ in sets if set_.startswith(f"{task}.")]
        right, margins = (
            {code: by_item(results, f"{task}.{code}", measure, params) for code in codes}
            for measure in ("correct", "margin")
        )
        runs = next(iter(right.values())).tuned if codes else {}
        for rank in sorted({key[2] for key in runs}):
            changes = [_against_base(right, margins, key) for key in runs if key[2] == rank]
            worst = Counter(change.worst_language for change in changes if change.worst_language is not None)
            most = min(worst, key=lambda code: (-worst[code], code)) if worst else None
            yield {
                "task": task,
                "items": item_name(task, params),
                "rank": rank,
                "models": len(changes),
                **_over_models(changes),
                "language": None if most is None else language_name(f"{task}.{most}", params),
                "note": [
                    *(change.note for change in changes),
                    "one target language: the worst is the mean" if len(codes) == 2 else "",
                ],
            }


def _against_base(right: Languages, margins: Languages, key: Key) -> TransferChange:
    """One adapter against its own base over the languages of a task."""
    base = key[0]
    return transfer_change(
        {code: values.start[base] == 1 for code, values in right.items()},
        {code: values.tuned[key] == 1 for code, values in right.items()},
        {code: values.start[base] for code, values in margins.items()},
        {code: values.tuned[key] for code, values in margins.items()},
    )


def _over_models(changes: Sequence[TransferChange]) -> dict[str, Cell]:
    """Mean and SD of what is defined; shares in percent."""
    cells: dict[str, Cell] = {}
    for name, attribute in PIECES.items():
        shares = [getattr(change, attribute) for change in changes]
        over = spread([100 * share for share in shares if share is not None])
        cells |= {name: tidy(over.mean), f"{name}_sd": over.sd}
    before = spread([100 * change.gap_before for change in changes if change.gap_before is not None])
    margin = spread([change.margin_change for change in changes if change.margin_change is not None])
    return {**cells, "gap_before": tidy(before.mean), "margin": margin.mean, "margin_sd": margin.sd}


def notes(results: Bases, params: Params) -> list[str]:
    """What the worst language and the margin are."""
    return [
        "worst target: the lowest change among the target languages of each model; worst language: the one that has it "
        "most often",
        "margin: log p(right choice) − highest log p of the others, the mean change of the target languages in nats",
        *set_notes(results, params),
    ]
