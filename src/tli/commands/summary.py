"""`tli summary`: shows the last run on one screen: verdicts, claims, important numbers, time, and paths of the rest.

It only reads files that the stages wrote. Numbers are rounded as in the paper's text. `make repro` ends with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tli.analysis import render
from tli.analysis.results import Measured
from tli.analysis.scores import item_name, language_name
from tli.analysis.views import trained_view
from tli.config.parameters import Params
from tli.io import progress
from tli.io.structured import read_json
from tli.report.document import text
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
    measured: Measured = read_json(results / "measured.json")
    verdicts = read_json(results / "verify.json")
    lines = [
        ("model", _settings(params)),
        *_verdicts(verdicts),
        *_alignment(measured, params),
        *_transfer(measured, params),
        *_rank(root / "paper" / "tables" / params.model),
        *_time(root / "docs" / "costs" / params.model / "costs.json"),
        *_places(root, params.model),
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


def _alignment(measured: Measured, params: Params) -> Iterator[tuple[str, str]]:
    view = trained_view(params)

    def value(key: str) -> str:
        return text(f"run.{key}", measured.get(key))

    key = f"align.trained.%s.{view}"
    cosines = f"trained pairs {value(key % 'before')} → {value(key % 'after')} ({value(key % 'gain')}), "
    cosines += f"unseen pairs {value(f'align.control.gain.{view}')}, "
    yield "cosine", f"{cosines}random pairs {value(f'gains.random_trained.{view}')}, at {view}"
    hits = [
        f"{name} {value(f'retrieval.all.before.p1_{way}.{view}')} → {value(f'retrieval.all.after.p1_{way}.{view}')}"
        for way, name in (("sw_en", "sw→en"), ("en_sw", "en→sw"))
    ]
    yield "P@1", f"{', '.join(hits)}, among all pairs"


def _transfer(measured: Measured, params: Params) -> Iterator[tuple[str, str]]:
    """The main run's accuracy and its change from rank 0, a line for each task."""
    ending = ".main.accuracy"
    keys = [key.removesuffix(ending) for key in measured if key.startswith("transfer.") and key.endswith(ending)]
    for task in dict.fromkeys(key.split(".")[1] for key in keys):
        parts = []
        for key in (key for key in keys if key.split(".")[1] == task):
            accuracy, change = (
                text(f"run.{key}.main.{name}", measured[f"{key}.main.{name}"]) for name in ("accuracy", "change")
            )
            parts.append(f"{language_name(key.removeprefix('transfer.'), params)} {accuracy} ({change})")
        yield "accuracy", f"{item_name(task, params)}: {', '.join(parts)}"


def _rank(tables: Path) -> Iterator[tuple[str, str]]:
    """The results of the tests of the rank: the first note of each robustness table, a line for each part."""
    by_name = render.read(tables).tables
    for name, short in (("robustness", "transfer"), ("robustness_alignment", "alignment")):
        if name in by_name and by_name[name].notes:
            first, *rest = by_name[name].notes[0].rstrip(".").split("; ")
            yield "rank", f"{short}: {first[0].lower()}{first[1:]}"
            yield from (("", part) for part in rest)


def _time(costs: Path) -> Iterator[tuple[str, str]]:
    if costs.is_file():
        total = read_json(costs)["total"]
        minutes, memory = total["minutes"], total["peak_memory_gib"]
        yield "time", f"{minutes} minutes in all stages, each by its last run; {memory} GiB at most"


def _places(root: Path, model: str) -> Iterator[tuple[str, str]]:
    yield "tables", f"paper/tables/{model}/README.md"
    for name, path in (("paper", "paper/artifact.pdf"), ("report", "paper/report.html")):
        yield name, path if (root / path).is_file() else f"not made yet: dvc repro {name}"
