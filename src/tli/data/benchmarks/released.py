"""Reads XCOPA, English COPA and XNLI from pinned parquet files, and compares XCOPA's `question` with English COPA's."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from tli.config.benchmarks import HubBenchmarks, Limit
from tli.config.section import HubRepo
from tli.data.benchmarks.prompts import LABELS, LANGUAGES, QUESTIONS, TEXTS, Item, Source, corrected
from tli.data.hub import fetch
from tli.io.errors import UserError

SPLITS = ("validation", "test")
HARNESS_SPLIT = {"xcopa": "test", "copa": "validation", "xnli": "validation"}  # the split that lm-eval's task scores
HIDDEN = -1  # the label of an item whose answer is not public
# If more labels than this share differ, two lists are not of the same items. Unrelated lists differ in about half.
MISALIGNED = 0.05

Group = dict[int, Source]  # by `idx`, the item's number in its split
Groups = dict[tuple[str, str, str], Group]  # by task, language, split


def read(settings: HubBenchmarks, manifest: Path) -> Groups:
    """Reads the items of the configured languages, both splits, in the files' order. English COPA is XCOPA's `en`.

    Args:
        settings: repositories, revisions and languages.
        manifest: the manifest of fetched files.

    Raises:
        UserError: the benchmark lacks a language or a file, a row is no valid item, or fetching failed.
        CheckFailed: a file has another hash than expected.
    """
    groups: Groups = {}
    for task, source, configs in _wanted(settings):
        repo = fetch.pinned(fetch.Repo("dataset", source.repo, source.revision), manifest)
        names_there = fetch.listing(repo, manifest)
        files = {
            (language, split): _files(repo, names_there, f"{config}/{split}-*.parquet")
            for language, config in configs.items()
            for split in SPLITS
        }
        paths = fetch.fetch(repo, [name for names in files.values() for name in names], manifest)
        for (language, split), names in files.items():
            rows = _rows([paths[name] for name in names])
            groups[task, language, split] = dict(_items(f"{repo.name}/{names[0]}", task, language, split, rows))
    return groups


def _wanted(settings: HubBenchmarks) -> Iterator[tuple[str, HubRepo, dict[str, str]]]:
    """Yields (task, repository, language -> config) of what to fetch."""
    yield "xcopa", settings.copa, {"en": "copa"}
    for task, source in (("xcopa", settings.xcopa), ("xnli", settings.xnli)):
        known = [language for language in LANGUAGES[task] if (task, language) != ("xcopa", "en")]
        if unknown := [language for language in source.languages if language not in known]:
            raise UserError(
                f"params.yaml: benchmarks.{task}.languages: expected some of {', '.join(known)}, got {unknown[0]}; "
                "set languages of the benchmark"
            )
        yield task, source, {language: language for language in source.languages}


def _files(repo: fetch.Repo, names_there: Sequence[str], pattern: str) -> list[str]:
    """The names that match a pattern; UserError if there are none."""
    names = sorted(name for name in names_there if fnmatchcase(name, pattern))
    if not names:
        raise UserError(
            f"{repo.name}@{repo.revision}: expected files {pattern}, got none among {len(names_there)}; "
            "set a repository and revision that contain them (offline: those of an earlier fetch, so fetch once online)"
        )
    return names


def _rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of parquet files, read with `datasets` and a temporary cache.

    A dataset is not loaded by its name, because offline that could give another revision.
    """
    import datasets
    from pyarrow import ArrowException  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            table = datasets.Dataset.from_parquet([str(path) for path in paths], cache_dir=cache, keep_in_memory=True)
            return list(table.to_list())
    except (ArrowException, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{paths[0]}: expected a parquet file of a dataset, got: {' '.join(str(error).split())}"
        ) from None


def _items(
    name: str, task: str, language: str, split: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, Source]]:
    """Yields (idx, item) of every row. XNLI has no `idx`; the row number is used."""
    seen: set[int] = set()
    for number, row in enumerate(rows):
        idx, label = row.get("idx") if task == "xcopa" else number, row.get("label")
        texts: dict[str, Any] = {key: row.get(key) for key in TEXTS[task]}
        # lm-eval accepts an empty text in XNLI; the prompt of XCOPA changes characters, so its texts need one
        least = 1 if task == "xcopa" else 0
        bad_texts = [key for key, text in texts.items() if not isinstance(text, str) or len(text.strip()) < least]
        if type(idx) is not int or idx in seen:
            field, expected = "idx", "each number once"
        elif type(label) is not int or label not in range(HIDDEN, LABELS[task]):
            field, expected = "label", f"{HIDDEN} to {LABELS[task] - 1}"
        elif bad_texts:
            field, expected = bad_texts[0], "a text"
        elif task == "xcopa" and texts["question"] not in QUESTIONS:
            field, expected = "question", " or ".join(QUESTIONS)
        else:
            seen.add(idx)
            yield idx, Source(f"{task}.{language}.{split}.{idx:04}", task, language, split, label, texts)
            continue
        raise UserError(
            f"{name}: row {number}: {field}: expected {expected}, got {row.get(field)!r}; "
            "set a repository and revision in the benchmark's format"
        )


class Compared(NamedTuple):
    """The result of `compare`.

    Attributes:
        basis: why the two lists count as the same items, or why they were not compared.
        compared: the number of items compared.
        differing: idx -> English COPA's question, for the items where the released question differs.
    """

    basis: str
    compared: int
    differing: dict[int, str]


def compare(translated: Group, english: Group) -> Compared:
    """Compares `question` of each item with that of English COPA's item of the same idx.

    Items whose label differs from English COPA's are left out. If that is a share of more than MISALIGNED, nothing is
    compared.

    Args:
        translated: XCOPA's items in one language and split.
        english: English COPA's items of that split.
    """
    shared = [idx for idx in translated if idx in english]
    known = [idx for idx in shared if HIDDEN not in (translated[idx].label, english[idx].label)]
    odd = {idx for idx in known if translated[idx].label != english[idx].label}
    if not shared:
        return Compared("not compared: no idx in common", 0, {})
    if known and len(odd) / len(known) > MISALIGNED:
        return Compared(f"not compared: {len(odd)} of {len(known)} labels differ from English COPA's", 0, {})
    basis = "idx and labels" if known else "idx alone: English COPA's labels are kept back"
    if odd:
        basis += f", of which {len(odd)} differ and are left out"
    aligned = [idx for idx in shared if idx not in odd]
    questions = {idx: english[idx].texts["question"] for idx in aligned}
    differing = {idx: text for idx, text in questions.items() if text != translated[idx].texts["question"]}
    return Compared(basis, len(aligned), differing)


def whole_premises(group: Group, limit: Limit) -> set[int]:
    """The idx of at most `limit.items` items: all items of premises that are drawn in an order given by the seed.

    The same idx are then taken in every language, so that languages are compared on the same items.
    """
    of_premise: dict[str, list[int]] = {}
    for idx, source in group.items():
        of_premise.setdefault(source.texts["premise"], []).append(idx)
    premises = [*of_premise.values()]
    random.Random(f"{limit.seed}:items").shuffle(premises)
    chosen: set[int] = set()
    for members in premises:
        if len(chosen) + len(members) > limit.items:
            break
        chosen.update(members)
    return chosen


def corrections(scored: Mapping[int, Source], compared: Compared) -> list[Item]:
    """Renders the differing items among `scored` with English COPA's question."""
    return [corrected(scored[idx], question) for idx, question in compared.differing.items() if idx in scored]


def scored_split(task: str, language: str, split: str) -> str:
    """Returns the split to score: `split`, or for `default` the one that lm-eval's task scores."""
    if split != "default":
        return split
    return HARNESS_SPLIT["copa" if (task, language) == ("xcopa", "en") else task]
