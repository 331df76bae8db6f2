"""XCOPA and XNLI items, asked as lm-evaluation-harness 0.4.13 asks them (stage: benchmarks).

Takes the micro-world's items or the released benchmarks', renders those of the split that is scored, audits the whole,
and scores two baselines that never see a model. Feeds the baselines table, the data audit and every transfer table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.config.parameters import HubBenchmarks, NoBenchmarks, Params
from tli.data.benchmarks import released
from tli.data.benchmarks.baselines import Question, Trigrams, choice_only
from tli.data.benchmarks.items import read_sources, write_items
from tli.data.benchmarks.prompts import Item, Source, render
from tli.io.errors import UserError
from tli.io.files import atomic_dir, read_text
from tli.io.rows import Row, write_rows
from tli.io.structured import write_json

WORLD_SPLIT = {"default": "test", "validation": "dev", "test": "test"}


class Collected(NamedTuple):
    """What a profile's benchmarks are, before anything is scored.

    `scored` and `fitted` hold the items by (task, language): those that are asked, in their released form, and those of
    the other split, which the choice-only baseline is fitted on. `corrected` are items asked a second time. `facts` are
    flat keys for the tables.
    """

    scored: dict[tuple[str, str], list[Source]]
    fitted: dict[tuple[str, str], list[Source]]
    corrected: list[Item]
    facts: dict[str, int | str]


def run(world: Path, out: Path, metrics: Path, params: Params) -> None:
    """The `benchmarks` stage: `out`/items.jsonl, the items that are scored, `out`/baselines.tsv, and `metrics`.

    `world` is the micro-world's folder; a profile that fetches its benchmarks makes no use of it. One that has none
    gets files without items.
    """
    settings, chosen = params.active.benchmarks, params.transfer.split
    if isinstance(settings, NoBenchmarks):
        with atomic_dir(out) as folder:
            write_items(folder / "items.jsonl", [])
            write_rows(folder / "baselines.tsv", [])
        return write_json(metrics, {})
    fetched = isinstance(settings, HubBenchmarks)
    if isinstance(settings, HubBenchmarks):
        found = from_hub(settings, Path(params.fetch.manifest), chosen)
    else:
        found = from_world(read_sources(world / "items.jsonl"), chosen)
    items = {key: [render(source, fetched) for source in sources] for key, sources in found.scored.items()}
    others = {key: [render(source, fetched) for source in sources] for key, sources in found.fitted.items()}
    asked = [item for own in items.values() for item in own]
    rows = _rows("choice-only", asked, without_premise(found.scored, found.fitted))
    if not fetched:
        model = Trigrams.fit(read_text(world / "corpus.txt").splitlines())
        rows += _rows("ngram", asked, by_ngrams(asked, model))
    sources = [source for part in (found.fitted, found.scored) for own in part.values() for source in own]
    counts = audit(sources, [item for part in (others, items) for own in part.values() for item in own])
    with atomic_dir(out) as folder:
        write_items(folder / "items.jsonl", [*asked, *found.corrected])
        write_rows(folder / "baselines.tsv", rows)
    write_json(metrics, counts | found.facts | _accuracies(asked, rows))


def from_world(sources: Sequence[Source], chosen: str) -> Collected:
    """The micro-world's items; its `validation` is the split dev."""
    scored, fitted = _halves(sources, {(source.task, source.language): WORLD_SPLIT[chosen] for source in sources})
    return Collected(scored, fitted, [], _said(scored))


def from_hub(settings: HubBenchmarks, manifest: Path, chosen: str) -> Collected:
    """The released benchmarks' items, the first `limit` of each scored split; English COPA is XCOPA's `en`.

    Items whose label is kept back can be asked but not scored: they are left out and counted.
    """
    groups = released.read(settings, manifest)
    facts: dict[str, int | str] = {}
    corrected: list[Item] = []
    sources: list[Source] = []
    splits = {(task, language): released.scored_split(task, language, chosen) for task, language, _ in groups}
    for (task, language, split), group in groups.items():
        key, is_scored = f"{task}.{language}.{split}", splits[task, language] == split
        kept = {idx: source for idx, source in group.items() if source.label != released.HIDDEN}
        facts |= {f"{key}.released": len(group), f"{key}.hidden_labels": len(group) - len(kept)}
        if is_scored and not kept:
            facts[f"{task}.{language}.left_out"] = f"the labels of its {split} split are not released"
        if is_scored:
            kept = dict([*kept.items()][: settings.limit])
        sources += kept.values()
        if task == "xcopa" and language != "en":
            found = released.compare(group, groups["xcopa", "en", split])
            facts |= {f"{key}.questions_compared": found.compared, f"{key}.compared_by": found.basis}
            facts[f"{key}.questions_differ"] = len(found.differing)
            corrected += released.corrections(kept, found) if is_scored else []
    scored, fitted = _halves(sources, splits)
    return Collected(scored, fitted, corrected, facts | _said(scored))


def _halves(
    sources: Sequence[Source], splits: Mapping[tuple[str, str], str]
) -> tuple[dict[tuple[str, str], list[Source]], dict[tuple[str, str], list[Source]]]:
    """The items of the split that is scored and those of the other, by task and language; empty ones are absent."""
    halves: tuple[dict[tuple[str, str], list[Source]], ...] = ({}, {})
    for source in sources:
        key = (source.task, source.language)
        halves[source.split != splits[key]].setdefault(key, []).append(source)
    return halves[0], halves[1]


def _said(scored: Mapping[tuple[str, str], Sequence[Source]]) -> dict[str, int | str]:
    """Flat: task.language.scored, the split."""
    return {f"{task}.{language}.scored": sources[0].split for (task, language), sources in scored.items()}


def audit(sources: Sequence[Source], items: Sequence[Item]) -> dict[str, int | str | float]:
    """Counts, flat: items and labels of each task.language.split, and what would make an item unfair.

    equal_options: options that are the same text. no_final_mark: XCOPA premises that end in a letter or digit, which
    the prompt drops. duplicate_prompts: items whose context and options an earlier item of the split has.
    seen_in_dev (of a released benchmark: seen_in_validation): test items whose context and options stand there.
    """
    found: Counter[str] = Counter()
    seen: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for source, item in zip(sources, items, strict=True):
        key = f"{item.task}.{item.language}.{item.split}"
        found.update({f"{key}.{name}": 0 for name in ("equal_options", "duplicate_prompts")})
        found[f"{key}.items"] += 1
        found[f"{key}.label.{item.label}"] += 1
        found[f"{key}.equal_options"] += len(set(item.options)) < len(item.options)
        if item.task == "xcopa":
            found[f"{key}.no_final_mark"] += source.texts["premise"].strip()[-1].isalnum()
        asked = (item.context, item.options)
        found[f"{key}.duplicate_prompts"] += asked in seen.setdefault(key, set())
        seen[key].add(asked)
    for key, prompts in seen.items():
        start, _, split = key.rpartition(".")
        if split == "test":
            other = "validation" if f"{start}.validation" in seen else "dev"
            found[f"{key}.seen_in_{other}"] = len(prompts & seen.get(f"{start}.{other}", set()))
    return dict(sorted(found.items()))


def without_premise(
    scored: Mapping[tuple[str, str], Sequence[Source]], fitted: Mapping[tuple[str, str], Sequence[Source]]
) -> dict[str, int]:
    """Scored item id -> what `baselines.choice_only` picks, fitted on the other split of the same task and language.

    A language whose other split has no labels has no such baseline.
    """
    chosen: dict[str, int] = {}
    for (task, language), sources in scored.items():
        if (task, language) not in fitted:
            continue
        parts = (fitted[task, language], sources)
        try:
            picks = choice_only(*([Question(s.candidates, s.label) for s in part] for part in parts))
        except ValueError as error:
            raise UserError(f"{task}.{language}: {error}; the choice-only baseline is fitted on them") from None
        chosen.update(zip((source.id for source in sources), picks, strict=True))
    return chosen


def by_ngrams(items: Iterable[Item], model: Trigrams) -> dict[str, int]:
    """Item id -> argmax over options of log p(option | context) under word trigrams, the first on a tie."""
    chosen: dict[str, int] = {}
    for item in items:
        scores = [model.score(item.context, option) for option in item.options]
        chosen[item.id] = scores.index(max(scores))
    return chosen


def _rows(cell: str, items: Iterable[Item], chosen: Mapping[str, int]) -> list[Row]:
    """Per item that `chosen` has: label, prediction, whether it is right."""
    rows: list[Row] = []
    for item in items:
        if item.id in chosen:
            values = {"label": item.label, "pred": chosen[item.id], "correct": int(chosen[item.id] == item.label)}
            where = (cell, "-", 0, "-", f"{item.task}.{item.language}", item.id, "-")
            rows += [Row(*where, measure, value) for measure, value in values.items()]
    return rows


def _accuracies(items: Iterable[Item], rows: Iterable[Row]) -> dict[str, float]:
    """Flat: task.language.split.accuracy.cell."""
    splits = {item.id: item.split for item in items}
    right: dict[str, list[float]] = {}
    for row in rows:
        if row.measure == "correct":
            right.setdefault(f"{row.set}.{splits[row.item]}.accuracy.{row.cell}", []).append(float(row.value))
    return {key: sum(values) / len(values) for key, values in right.items()}
