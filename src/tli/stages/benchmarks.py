"""Stage `benchmarks`: builds the benchmark items, renders their prompts, audits them and scores two baselines.

Items come from the micro-world, from local files (written for this artifact, or released), or from the hub. The prompts
are those of lm-evaluation-harness 0.4.13. The baselines use no language model:

    choice-only: logistic regression on words and word pairs, without the premise, fitted on the other split or, where
                 there is none, cross-validated over premises
    ngram:       argmax over choices of log p(choice | context) under word trigrams of the micro-world's corpus

Details of both: data/benchmarks/baselines.py.

Inputs: the micro-world's folder, local files or the hub, params.yaml.
Outputs: items.jsonl (the items to score); baselines.tsv, rows of the runs `choice-only` and `ngram` (sets
task.language, no view, measures label, pred, correct); benchmarks.json (audit, facts about the releases, accuracies).

Used by: the tables `baselines` and `items`, and through the items by every table of scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tli.config.benchmarks import FileBenchmarks, HubBenchmarks, Limit, MicroworldBenchmarks, NoBenchmarks
from tli.config.parameters import Params
from tli.data.benchmarks import files, released
from tli.data.benchmarks.baselines import Question, Trigrams, choice_only, cross_validated
from tli.data.benchmarks.items import read_sources, write_items
from tli.data.benchmarks.prompts import Item, Source, render
from tli.io.errors import UserError
from tli.io.files import atomic_dir, read_text
from tli.io.rows import Row, write_rows
from tli.io.structured import write_json

QUOTES = frozenset('"“”„«»「')  # a long text without any may have lost them when it was re-exported
WORLD_SPLIT = {"default": "test", "validation": "dev", "test": "test"}


class BenchmarkItems(NamedTuple):
    """The benchmark items of a profile, by (task, language).

    - `scored`: the items to score, in their released form.
    - `fitted`: the items of the other split, which the choice-only baseline is fitted on.
    - `corrected`: items that are scored a second time, with a corrected question.
    - `facts`: flat keys for the tables.
    """

    scored: dict[tuple[str, str], list[Source]]
    fitted: dict[tuple[str, str], list[Source]]
    corrected: list[Item]
    facts: dict[str, int | str]


def run(world: Path, out: Path, metrics: Path, params: Params) -> None:
    """Writes `out`/items.jsonl, `out`/baselines.tsv and `metrics` (JSON); without items if there are no benchmarks.

    `world` is the micro-world's folder; it is not used if the items come from files or the hub.

    Raises:
        UserError: a file is not as expected, or the choice-only baseline cannot be fitted.
    """
    settings, split = params.active.benchmarks, params.score.split
    if isinstance(settings, NoBenchmarks):
        with atomic_dir(out) as folder:
            write_items(folder / "items.jsonl", [])
            write_rows(folder / "baselines.tsv", [])
        return write_json(metrics, {})
    made_here = isinstance(settings, MicroworldBenchmarks)
    if isinstance(settings, HubBenchmarks):
        collected = from_hub(settings, Path(params.fetch.manifest), split)
    elif isinstance(settings, FileBenchmarks):
        collected = from_files(settings)
    else:
        collected = from_world(read_sources(world / "items.jsonl"), split)
    items_by_task, fitted_items = (
        {key: [render(source, released=not made_here) for source in sources] for key, sources in half.items()}
        for half in (collected.scored, collected.fitted)
    )
    scored_items = [item for group in items_by_task.values() for item in group]
    rows = _rows("choice-only", scored_items, choice_only_predictions(collected.scored, collected.fitted))
    if made_here:
        model = Trigrams.fit(read_text(world / "corpus.txt").splitlines())
        rows += _rows("ngram", scored_items, ngram_predictions(scored_items, model))
    sources = [source for half in (collected.fitted, collected.scored) for group in half.values() for source in group]
    audit_counts = audit(
        sources, [item for half in (fitted_items, items_by_task) for group in half.values() for item in group]
    )
    with atomic_dir(out) as folder:
        write_items(folder / "items.jsonl", [*scored_items, *collected.corrected])
        write_rows(folder / "baselines.tsv", rows)
    write_json(metrics, audit_counts | collected.facts | _accuracies(scored_items, rows))


def from_world(sources: Sequence[Source], split: str) -> BenchmarkItems:
    """The micro-world's items; its validation split is called dev."""
    scored, fitted = _halves(sources, {(source.task, source.language): WORLD_SPLIT[split] for source in sources})
    return BenchmarkItems(scored, fitted, [], _scored_splits(scored))


def from_hub(settings: HubBenchmarks, manifest: Path, chosen_split: str) -> BenchmarkItems:
    """The items of the hub; of each task and language the split `chosen_split`. English COPA counts as XCOPA's `en`."""
    groups = released.read(settings, manifest)
    splits = {(task, language): released.scored_split(task, language, chosen_split) for task, language, _ in groups}
    return from_released(groups, splits, settings.limit)


def from_files(settings: FileBenchmarks) -> BenchmarkItems:
    """The items of local files, with where each file is published; what is scored says `use`."""
    groups = files.read(settings)
    splits: dict[tuple[str, str], str] = {
        (file.task, file.language): file.split for file in settings.files if file.use == "score"
    }
    collected = from_released(groups, splits, settings.limit)
    facts = collected.facts
    for file in settings.files:
        key = f"{file.task}.{file.language}.{file.split}"
        facts |= {f"{key}.origin": file.origin, f"{key}.commit": file.commit or "-", f"{key}.sha256": file.sha256[:12]}
    return collected


def from_released(
    groups: released.Groups, splits: Mapping[tuple[str, str], str], limit: Limit | None
) -> BenchmarkItems:
    """The items of released benchmarks, at most `limit` of each scored split, and what is known of them.

    Items without a published label cannot be scored; they are left out and counted. XCOPA's `question` is compared with
    that of the English items of the same split.

    Args:
        groups: the items by task, language and split.
        splits: the split to score, by task and language.
    """
    english = {split: group for (task, language, split), group in groups.items() if language == "en" and task != "xnli"}
    facts: dict[str, int | str] = {}
    corrected: list[Item] = []
    sources: list[Source] = []
    chosen: dict[str, set[int]] = {}
    for (task, language, split), group in groups.items():
        key, is_scored = f"{task}.{language}.{split}", splits.get((task, language)) == split
        labelled = {idx: source for idx, source in group.items() if source.label != released.HIDDEN}
        facts |= {f"{key}.released": len(group), f"{key}.hidden_labels": len(group) - len(labelled)}
        facts[f"{key}.with_quotes"] = sum(bool(QUOTES & {*"".join(s.texts.values())}) for s in group.values())
        if is_scored and not labelled:
            facts[f"{task}.{language}.left_out"] = f"the labels of its {split} split are not released"
        if is_scored and limit is not None:
            members = chosen.setdefault(f"{task}.{split}", released.whole_premises(labelled, limit))
            labelled = {idx: source for idx, source in labelled.items() if idx in members}
        sources += labelled.values()
        if task == "xcopa" and language != "en" and split in english:
            comparison = released.compare(group, english[split])
            facts |= {f"{key}.questions_compared": comparison.compared, f"{key}.compared_by": comparison.basis}
            facts[f"{key}.questions_differ"] = len(comparison.differing)
            corrected += released.corrections(labelled, comparison) if is_scored else []
    scored, fitted = _halves(sources, splits)
    return BenchmarkItems(scored, fitted, corrected, facts | _scored_splits(scored))


def _halves(
    sources: Sequence[Source], splits: Mapping[tuple[str, str], str]
) -> tuple[dict[tuple[str, str], list[Source]], dict[tuple[str, str], list[Source]]]:
    """The items of the scored split and of the other split, by task and language; keys without items are absent."""
    halves: tuple[dict[tuple[str, str], list[Source]], ...] = ({}, {})
    for source in sources:
        key = (source.task, source.language)
        halves[source.split != splits.get(key)].setdefault(key, []).append(source)
    return halves[0], halves[1]


def _scored_splits(scored: Mapping[tuple[str, str], Sequence[Source]]) -> dict[str, int | str]:
    """`task.language.scored` -> the name of the scored split."""
    return {f"{task}.{language}.scored": sources[0].split for (task, language), sources in scored.items()}


def audit(sources: Sequence[Source], items: Sequence[Item]) -> dict[str, int | str | float]:
    """Counts, with keys task.language.split.NAME: items, labels, and problems of items.

    - equal_options: items with two choices of the same text.
    - no_final_mark: XCOPA premises that end in a letter or digit; the prompt drops their last character.
    - right_choice_longer, right_choice_shorter: XCOPA items by the number of characters of their choices.
    - duplicate_prompts: items with the same context and choices as an earlier item of the split.
    - seen_in_dev (for a released benchmark seen_in_validation): test items with the same context and choices there.
    """
    counts: Counter[str] = Counter()
    prompts_of_split: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for source, item in zip(sources, items, strict=True):
        key = f"{item.task}.{item.language}.{item.split}"
        counts.update({f"{key}.{name}": 0 for name in ("equal_options", "duplicate_prompts")})
        counts[f"{key}.items"] += 1
        counts[f"{key}.label.{item.label}"] += 1
        counts[f"{key}.equal_options"] += len(set(item.options)) < len(item.options)
        if item.task != "xnli":
            counts[f"{key}.no_final_mark"] += source.texts["premise"].strip()[-1].isalnum()
            lengths = [len(choice) for choice in source.candidates]
            right = lengths.pop(item.label)
            counts[f"{key}.right_choice_longer"] += right > lengths[0]
            counts[f"{key}.right_choice_shorter"] += right < lengths[0]
        prompt = (item.context, item.options)
        counts[f"{key}.duplicate_prompts"] += prompt in prompts_of_split.setdefault(key, set())
        prompts_of_split[key].add(prompt)
    for key, prompts in prompts_of_split.items():
        task_language, _, split = key.rpartition(".")
        if split == "test":
            other_split = "validation" if f"{task_language}.validation" in prompts_of_split else "dev"
            counts[f"{key}.seen_in_{other_split}"] = len(
                prompts & prompts_of_split.get(f"{task_language}.{other_split}", set())
            )
    return dict(sorted(counts.items()))


def choice_only_predictions(
    scored: Mapping[tuple[str, str], Sequence[Source]], fitted: Mapping[tuple[str, str], Sequence[Source]]
) -> dict[str, int]:
    """Id of each scored item -> the choice of `baselines.choice_only`, fitted on the other split of its language.

    A language without another split is cross-validated over premises (`baselines.cross_validated`).
    """
    predictions: dict[str, int] = {}
    for (task, language), sources in scored.items():
        others, questions = (
            [Question(s.candidates, s.label) for s in part] for part in (fitted.get((task, language), []), sources)
        )
        try:
            if others:
                picks = choice_only(others, questions)
            else:
                picks = cross_validated(questions, [source.texts["premise"] for source in sources])
        except ValueError as error:
            raise UserError(f"{task}.{language}: {error}; the choice-only baseline is fitted on them") from None
        predictions.update(zip((source.id for source in sources), picks, strict=True))
    return predictions


def ngram_predictions(items: Iterable[Item], model: Trigrams) -> dict[str, int]:
    """Item id -> argmax over choices of log p(choice | context) under word trigrams; the first one if tied."""
    predictions: dict[str, int] = {}
    for item in items:
        scores = [model.score(item.context, choice) for choice in item.options]
        predictions[item.id] = scores.index(max(scores))
    return predictions


def _rows(baseline: str, items: Iterable[Item], predictions: Mapping[str, int]) -> list[Row]:
    """Rows of each item in `predictions`: label, prediction, and whether it is correct."""
    rows: list[Row] = []
    for item in items:
        if item.id in predictions:
            values = {
                "label": item.label,
                "pred": predictions[item.id],
                "correct": int(predictions[item.id] == item.label),
            }
            columns = (baseline, "-", 0, "-", item.set, item.id, "-")
            rows += [Row(*columns, measure, value) for measure, value in values.items()]
    return rows


def _accuracies(items: Iterable[Item], rows: Iterable[Row]) -> dict[str, float]:
    """`task.language.split.accuracy.BASELINE` -> the share of correct predictions."""
    splits = {item.id: item.split for item in items}
    correct: dict[str, list[float]] = {}
    for row in rows:
        if row.measure == "correct":
            correct.setdefault(f"{row.set}.{splits[row.item]}.accuracy.{row.run}", []).append(float(row.value))
    return {key: sum(values) / len(values) for key, values in correct.items()}
