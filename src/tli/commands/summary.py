"""`tli summary`: shows the last run on one screen: verdicts, claims, important numbers, time, and paths of the rest.

It only reads files that the stages wrote, and shows numbers as the tables do. `make repro` ends with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tli.analysis.render import read_model
from tli.analysis.table import Table
from tli.analysis.views import WAYS, trained_view
from tli.config.parameters import Params
from tli.io import progress
from tli.io.structured import read_json
from tli.report.cells import shown_row, shown_rows
from tli.verify.judge import AGREES, DIFFERS, NONE

WIDTH = 9  # of the first column
NAMED = 3  # at most so many differing values are named


def page(params: Params, root: Path) -> str:
    """Returns the screen as text.

    Args:
        params: the parameters.
        root: the folder of the project.

    Raises:
        UserError: a file of the run is missing.
    """
    results = root / "results" / params.model
    tables = read_model(results / "tables.json").tables
    verdicts = read_json(results / "verify.json")
    lines = [
        ("model", _settings(params)),
        *_verdicts(verdicts),
        *_similarity(tables, params),
        *_scores(tables),
        *_rank(tables),
        *_time(root / "docs" / "costs" / params.model / "costs.json"),
        *_places(root),
    ]
    return "\n".join(f"{name:{WIDTH}}{content}" for name, content in lines)


def _settings(params: Params) -> str:
    lora, sweep = params.lora, params.sweep
    ranks = ", ".join(map(str, sweep.ranks))
    return (
        f"{params.model}: rank {lora.rank}, scaling {lora.scaling}, loss at layer {params.train.layer}; "
        f"sweep over ranks {ranks}, {len(sweep.seeds)} seeds"
    )


def _verdicts(verdicts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    counts, claims = verdicts["verdicts"], verdicts["claims"]
    wrong = [key for key, verdict in verdicts["values"].items() if verdict == DIFFERS]
    decisive = [outcome for outcome in verdicts["conclusions"] if not outcome["borderline"]]
    changed = [outcome["name"] for outcome in decisive if outcome["changed"]]
    outside = f"{len(wrong):,} of {counts[AGREES] + counts[DIFFERS]:,} values outside their tolerance"
    yield "verify", f"{outside}{_list(wrong)}; {counts[NONE]:,} without an expectation"
    borderline = len(verdicts["conclusions"]) - len(decisive)
    yield "", f"{len(changed)} of {len(decisive)} conclusions changed{_list(changed)}; {borderline} borderline"
    yield (
        "claims",
        f"{claims['number']}: " + ", ".join(f"{count} {verdict}" for verdict, count in claims["verdicts"].items()),
    )


def _list(names: list[str]) -> str:
    """The first few names in parentheses, red on a terminal; empty if there are none."""
    if not names:
        return ""
    text = f"{', '.join(names[:NAMED])}{' …' if len(names) > NAMED else ''}"
    return f" ({click.style(text, fg='red') if progress.coloured(sys.stdout) else text})"


def _similarity(tables: Mapping[str, Table], params: Params) -> Iterator[tuple[str, str]]:
    """Cosine and retrieval before and after training, where the loss reads."""
    view = trained_view(params)
    trained, unseen = (
        shown_row(tables["before_after"], values="run", view=view, set=set_).texts for set_ in ("trained", "control")
    )
    random = shown_row(tables["gains"], values="run", view=view).texts["random_trained"]
    cosines = f"trained pairs {trained['before']} → {trained['after']} ({trained['gain']})"
    yield "cosine", f"{cosines}, unseen pairs {unseen['gain']}, random pairs {random}, at {view}"
    hits = []
    for arrow in WAYS.values():
        texts = shown_row(tables["retrieval"], view=view, set="all", direction=arrow).texts
        hits.append(f"{arrow} {texts['p1_before']} → {texts['p1_after']}")
    yield "P@1", f"{', '.join(hits)}, among all pairs"


def _scores(tables: Mapping[str, Table]) -> Iterator[tuple[str, str]]:
    """Accuracy in the paper's configuration and its change from rank 0, a line for each task."""
    by_task: dict[str, list[str]] = {}
    for row in shown_rows(tables["accuracy_by_rank"], run="main") if "accuracy_by_rank" in tables else ():
        question = row.texts.get("version", "released")
        name = row.texts["language"] + ("" if question == "released" else f", {question}")
        by_task.setdefault(row.texts["task"], []).append(f"{name} {row.texts['accuracy']} ({row.texts['change']})")
    for task, languages in by_task.items():
        yield "accuracy", f"{task}: {', '.join(languages)}"


def _rank(tables: Mapping[str, Table]) -> Iterator[tuple[str, str]]:
    """The results of the tests of the rank: the first note of each robustness table, a line for each part."""
    for name, short in (("robustness", "scores"), ("robustness_alignment", "cosine")):
        if name in tables and tables[name].notes:
            first, *rest = tables[name].notes[0].rstrip(".").split("; ")
            yield "rank", f"{short}: {first[0].lower()}{first[1:]}"
            yield from (("", part) for part in rest)


def _time(costs: Path) -> Iterator[tuple[str, str]]:
    if costs.is_file():
        total = read_json(costs)["total"]
        minutes, memory = total["minutes"], total["peak_memory_gib"]
        yield "time", f"{minutes} minutes in all stages, each by its last run; {memory} GiB at most"


def _places(root: Path) -> Iterator[tuple[str, str]]:
    for name, path, stage in (
        ("tables", "paper/tables/README.md", "pages"),
        ("paper", "paper/artifact.pdf", "paper"),
        ("report", "paper/report.html", "report"),
    ):
        yield name, path if (root / path).is_file() else f"not made yet: dvc repro {stage}"
