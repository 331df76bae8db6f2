"""What the last run found, on one screen: verdicts, claims, headline numbers, its time, and where the rest lies.

Reads what the stages wrote, computes nothing and writes no file; numbers are rounded as the paper's text rounds them.
`make repro` ends with it. Feeds no table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tli.config.parameters import Params
from tli.io import progress
from tli.io.structured import read_json
from tli.paper import render
from tli.paper.document import text
from tli.paper.judge import AGREES, DIFFERS, NONE
from tli.paper.rows import Measured
from tli.paper.scores import item_name, language_name
from tli.paper.similarity import trained_view

WIDTH = 9  # of the first column
NAMED = 3  # values that differ and are named


def page(params: Params, root: Path) -> str:
    """The screen as text, `root` the folder of the project.

    Raises:
        UserError: a file of the run is not there.
    """
    results = root / "results" / params.model
    measured: Measured = read_json(results / "measured.json")
    verdicts = read_json(results / "verify.json")
    lines = [
        ("model", _what(params)),
        *_verdicts(verdicts),
        *_alignment(measured, params),
        *_transfer(measured, params),
        *_rank(root / "paper" / "tables" / params.model),
        *_time(root / "docs" / "costs" / params.model / "costs.json"),
        *_places(root, params.model),
    ]
    return "\n".join(f"{name:{WIDTH}}{said}" for name, said in lines)


def _what(params: Params) -> str:
    lora, sweep = params.lora, params.sweep
    ranks = ", ".join(map(str, sweep.ranks))
    return (
        f"{params.model}: rank {lora.rank}, scaling {lora.scaling}, loss at layer {params.train.layer}; "
        f"sweep over ranks {ranks}, {len(sweep.seeds)} seeds"
    )


def _verdicts(verdicts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    counts, claims = verdicts["verdicts"], verdicts["claims"]
    wrong = [key for key, verdict in verdicts["values"].items() if verdict == DIFFERS]
    changed = [outcome["name"] for outcome in verdicts["conclusions"] if outcome["changed"]]
    outside = f"{len(wrong):,} of {counts[AGREES] + counts[DIFFERS]:,} values outside their tolerance"
    yield "verify", f"{outside}{_list(wrong)}; {counts[NONE]:,} without an expectation"
    yield "", f"{len(changed)} of {len(verdicts['conclusions'])} conclusions changed{_list(changed)}"
    yield "claims", f"{claims['number']}: " + ", ".join(f"{count} {said}" for said, count in claims["verdicts"].items())


def _list(names: list[str]) -> str:
    """The first few names in parentheses, red on a terminal; nothing where there are none."""
    if not names:
        return ""
    text = f"{', '.join(names[:NAMED])}{' …' if len(names) > NAMED else ''}"
    return f" ({click.style(text, fg='red') if progress.coloured(sys.stdout) else text})"


def _alignment(measured: Measured, params: Params) -> Iterator[tuple[str, str]]:
    view = trained_view(params)

    def value(key: str) -> str:
        return text(f"run.{key}", measured.get(key))

    own = f"align.trained.%s.{view}"
    said = f"trained pairs {value(own % 'before')} → {value(own % 'after')} ({value(own % 'gain')}), "
    said += f"unseen pairs {value(f'align.control.gain.{view}')}, "
    yield "cosine", f"{said}random pairs {value(f'gains.random_trained.{view}')}, at {view}"
    hits = [
        f"{name} {value(f'retrieval.all.before.p1_{way}.{view}')} → {value(f'retrieval.all.after.p1_{way}.{view}')}"
        for way, name in (("sw_en", "sw→en"), ("en_sw", "en→sw"))
    ]
    yield "P@1", f"{', '.join(hits)}, among all pairs"


def _transfer(measured: Measured, params: Params) -> Iterator[tuple[str, str]]:
    """Accuracy of the paper's cell and its change against rank 0, a line a task."""
    ending = ".main.accuracy"
    keys = [key.removesuffix(ending) for key in measured if key.startswith("transfer.") and key.endswith(ending)]
    for task in dict.fromkeys(key.split(".")[1] for key in keys):
        said = []
        for key in (one for one in keys if one.split(".")[1] == task):
            accuracy, change = (
                text(f"run.{key}.main.{what}", measured[f"{key}.main.{what}"]) for what in ("accuracy", "change")
            )
            said.append(f"{language_name(key.removeprefix('transfer.'), params)} {accuracy} ({change})")
        yield "accuracy", f"{item_name(task, params)}: {', '.join(said)}"


def _rank(tables: Path) -> Iterator[tuple[str, str]]:
    """What the tests say of the rank: the first note of the robustness tables, a part a line."""
    found = render.read(tables).tables
    for name, short in (("robustness", "transfer"), ("robustness_alignment", "alignment")):
        if name in found and found[name].notes:
            first, *rest = found[name].notes[0].rstrip(".").split("; ")
            yield "rank", f"{short}: {first[0].lower()}{first[1:]}"
            yield from (("", part) for part in rest)


def _time(costs: Path) -> Iterator[tuple[str, str]]:
    if costs.is_file():
        total = read_json(costs)["total"]
        said = f"{total['minutes']} minutes in all stages, each by its last run; {total['peak_memory_gib']} GiB at most"
        yield "time", said


def _places(root: Path, profile: str) -> Iterator[tuple[str, str]]:
    yield "tables", f"paper/tables/{profile}/README.md"
    for name, path in (("paper", "paper/artifact.pdf"), ("report", "paper/report.html")):
        yield name, path if (root / path).is_file() else f"not made yet: dvc repro {name}"
