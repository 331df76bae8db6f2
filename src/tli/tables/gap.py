"""Forgetting of English, change of the target languages and transfer gap of every task by rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from tli.analysis.changes import set_notes, swept_sets
from tli.analysis.outcomes import Values, by_item, tidy
from tli.analysis.scores import AT_CHANCE, SCORING, TASKS, Bases, item_name, language_name, marked
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
SOURCE_LANGUAGE = "en"  # the others are targets
UNEVEN = "models: those scored in any language of the task; a cell is over the models that were scored in its languages"


def rows(results: Bases, params: Params) -> Iterator[dict[str, object]]:
    """Per task and rank above 0, over the languages that were scored at that rank."""
    sets = swept_sets(results, params)
    for task in TASKS:
        chance = {scored.set.partition(".")[2]: scored.at_chance for scored in sets if scored.task == task}
        right, margins = (
            {code: by_item(results, f"{task}.{code}", measure, params) for code in chance}
            for measure in ("correct", "margin")
        )
        runs = dict.fromkeys(key for values in right.values() for key in values.tuned)
        for rank in sorted({key[2] for key in runs}):
            models = [key for key in runs if key[2] == rank]
            codes = {code: chance[code] for code, values in right.items() if rank in values.ranks}
            able = [code for code, is_at_chance in codes.items() if code != SOURCE_LANGUAGE and not is_at_chance]
            never_worst = [code for code in codes if chance[code]] if able else []
            changes = [_against_base(right, margins, key, never_worst) for key in models]
            worst = Counter(change.worst_language for change in changes if change.worst_language is not None)
            most = min(worst, key=lambda code: (-worst[code], code)) if worst else None
            language = None if most is None else marked(language_name(f"{task}.{most}", params), chance[most])
            yield {
                "task": task,
                "items": item_name(task, params),
                "rank": rank,
                "models": len(changes),
                **_over_models(changes),
                "language": language,
                "note": [
                    *(change.note for change in changes),
                    *_row_notes(task, codes, params),
                    UNEVEN if any(key not in right[code].tuned for code in codes for key in models) else "",
                ],
            }


def _row_notes(task: str, codes: Mapping[str, bool], params: Params) -> Iterator[str]:
    """A single target language; which languages of a row are at chance.

    Args:
        codes: language -> whether it is at chance.
    """
    targets = [code for code in codes if code != SOURCE_LANGUAGE]
    if len(targets) == 1:
        yield "one target language: the worst is the mean"
    if any(codes.values()):
        names = [language_name(f"{task}.{code}", params) for code in targets if codes[code]]
        which = [language_name(f"{task}.{SOURCE_LANGUAGE}", params)] if codes.get(SOURCE_LANGUAGE) else []
        which += [f"{len(names)} of {len(targets)} target languages ({', '.join(names)})"] if names else []
        yield f"{item_name(task, params)}, {AT_CHANCE}: {' and '.join(which)}"


def _against_base(right: Languages, margins: Languages, key: Key, never_worst: Collection[str]) -> TransferChange:
    """One adapter against its own base over the languages of a task in which it was scored."""
    base = key[0]
    codes = [code for code, values in right.items() if key in values.tuned]
    return transfer_change(
        {code: right[code].start[base] == 1 for code in codes},
        {code: right[code].tuned[key] == 1 for code in codes},
        {code: margins[code].start[base] for code in codes},
        {code: margins[code].tuned[key] for code in codes},
        SOURCE_LANGUAGE,
        never_worst,
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
