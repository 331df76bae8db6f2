"""XCOPA, English COPA and XNLI as released: pinned parquet files become items; `question` is held against English COPA.

Feeds the items table and, through the stage `benchmarks`, every transfer table of the profiles that fetch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from tli.config.parameters import HubBenchmarks, HubRepo
from tli.data.benchmarks.prompts import LABELS, LANGUAGES, QUESTIONS, TEXTS, Item, Source, corrected
from tli.data.hub import fetch
from tli.io.errors import UserError

SPLITS = ("validation", "test")
HARNESS_SPLIT = {"xcopa": "test", "copa": "validation", "xnli": "validation"}  # the one that its task scores
HIDDEN = -1  # the label of an item whose answer is kept back
MISALIGNED = 0.05  # share of differing labels from which two lists count as other items; unrelated ones differ by half

Group = dict[int, Source]  # by `idx`, the item's number in its split
Groups = dict[tuple[str, str, str], Group]  # by task, language, split


def read(settings: HubBenchmarks, manifest: Path) -> Groups:
    """Every item of the configured languages, validation and test, in the files' order; English COPA as XCOPA's `en`.

    Raises:
        UserError: a language that the benchmark does not have, no file of a config, or a row that is no item.
        What `fetch` raises.
    """
    groups: Groups = {}
    for task, source, configs in _wanted(settings):
        repo = fetch.pinned(fetch.Repo("dataset", source.repo, source.revision), manifest)
        listed = fetch.listing(repo, manifest)
        files = {
            (language, split): _files(repo, listed, f"{config}/{split}-*.parquet")
            for language, config in configs.items()
            for split in SPLITS
        }
        paths = fetch.fetch(repo, [name for names in files.values() for name in names], manifest)
        for (language, split), names in files.items():
            rows = _rows([paths[name] for name in names])
            groups[task, language, split] = dict(_items(f"{repo.name}/{names[0]}", task, language, split, rows))
    return groups


def _wanted(settings: HubBenchmarks) -> Iterator[tuple[str, HubRepo, dict[str, str]]]:
    """(task, repository, language -> config) of what is fetched."""
    yield "xcopa", settings.copa, {"en": "copa"}
    for task, source in (("xcopa", settings.xcopa), ("xnli", settings.xnli)):
        known = [language for language in LANGUAGES[task] if (task, language) != ("xcopa", "en")]
        if unknown := [language for language in source.languages if language not in known]:
            raise UserError(
                f"params.yaml: benchmarks.{task}.languages: expected some of {', '.join(known)}, got {unknown[0]}; "
                "set languages that the benchmark has"
            )
        yield task, source, {language: language for language in source.languages}


def _files(repo: fetch.Repo, listed: Sequence[str], pattern: str) -> list[str]:
    names = sorted(name for name in listed if fnmatchcase(name, pattern))
    if not names:
        raise UserError(
            f"{repo.name}@{repo.revision}: expected files {pattern}, found none of that name among {len(listed)}; "
            "set a repository and revision that hold them (offline: those of an earlier fetch, so fetch once online)"
        )
    return names


def _rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of parquet files, through the `datasets` builder; its own cache does not outlive the call.

    A dataset is never loaded by name: offline that may give another revision than the one asked for.
    """
    import datasets
    from pyarrow import ArrowException  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            table = datasets.Dataset.from_parquet([str(path) for path in paths], cache_dir=cache, keep_in_memory=True)
            return list(table.to_list())
    except (ArrowException, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{paths[0]}: no parquet file of a dataset: {' '.join(str(error).split())}") from None


def _items(
    name: str, task: str, language: str, split: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, Source]]:
    """(idx, item) of every row. XNLI has no `idx`: the row's number is it."""
    seen: set[int] = set()
    for number, row in enumerate(rows):
        idx, label = row.get("idx") if task == "xcopa" else number, row.get("label")
        texts: dict[str, Any] = {key: row.get(key) for key in TEXTS[task]}
        # an XNLI text may be empty, as the harness asks it; XCOPA's must hold the characters that the prompt changes
        least = 1 if task == "xcopa" else 0
        broken = [key for key, text in texts.items() if not isinstance(text, str) or len(text.strip()) < least]
        if type(idx) is not int or idx in seen:
            wrong, wanted = "idx", "each number once"
        elif type(label) is not int or label not in range(HIDDEN, LABELS[task]):
            wrong, wanted = "label", f"{HIDDEN} to {LABELS[task] - 1}"
        elif broken:
            wrong, wanted = broken[0], "a text"
        elif task == "xcopa" and texts["question"] not in QUESTIONS:
            wrong, wanted = "question", " or ".join(QUESTIONS)
        else:
            seen.add(idx)
            yield idx, Source(f"{task}.{language}.{split}.{idx:04}", task, language, split, label, texts)
            continue
        raise UserError(
            f"{name}: row {number}: {wrong}: expected {wanted}, got {row.get(wrong)!r}; "
            "set a repository and revision of the benchmark's own form"
        )


class Compared(NamedTuple):
    """XCOPA's `question` in one language and split against English COPA's.

    `basis` says what shows that the two lists hold the same items; where the labels say that they do not, nothing is
    compared. `differing` maps idx to English COPA's question where the released one differs.
    """

    basis: str
    compared: int
    differing: dict[int, str]


def compare(own: Group, english: Group) -> Compared:
    """Holds `question` of each item against English COPA's item of the same idx and split.

    Items whose label differs from English COPA's are not compared; from a share of MISALIGNED on, no item is.
    """
    shared = [idx for idx in own if idx in english]
    known = [idx for idx in shared if HIDDEN not in (own[idx].label, english[idx].label)]
    odd = {idx for idx in known if own[idx].label != english[idx].label}
    if not shared:
        return Compared("not compared: no idx in common", 0, {})
    if known and len(odd) / len(known) > MISALIGNED:
        return Compared(f"not compared: {len(odd)} of {len(known)} labels differ from English COPA's", 0, {})
    basis = "idx and labels" if known else "idx alone: English COPA's labels are kept back"
    if odd:
        basis += f", of which {len(odd)} differ and are left out"
    aligned = [idx for idx in shared if idx not in odd]
    questions = {idx: english[idx].texts["question"] for idx in aligned}
    differing = {idx: asked for idx, asked in questions.items() if asked != own[idx].texts["question"]}
    return Compared(basis, len(aligned), differing)


def corrections(kept: Mapping[int, Source], compared: Compared) -> list[Item]:
    """The differing items among `kept`, asked with English COPA's question."""
    return [corrected(kept[idx], asked) for idx, asked in compared.differing.items() if idx in kept]


def scored_split(task: str, language: str, chosen: str) -> str:
    """The split that is scored: the one `chosen`, or the harness's own by `default`."""
    if chosen != "default":
        return chosen
    return HARNESS_SPLIT["copa" if (task, language) == ("xcopa", "en") else task]
