"""The transfer rows of a cell as lm-evaluation-harness's own results JSON, for tools that read those files.

Names are the harness's where the items, the split and the prompts are: `xcopa_sw`, `xnli_sw`, `copa`. Whatever differs
has a name that the harness does not know: the micro-world's items, corrected questions, another split than its own.
"""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

from tli.config.parameters import HubBenchmarks, HubModel, HubRepo, Params
from tli.data.benchmarks.released import scored_split
from tli.io.errors import UserError
from tli.io.rows import read_rows
from tli.io.structured import read_json, write_json
from tli.paper.rows import Measured, Rows
from tli.paper.scores import CORRECTED, Shown, each, shown

VERSION = 1.0  # of the tasks in lm-evaluation-harness 0.4.13


def task_name(one: Shown, params: Params) -> str:
    """What the harness calls the task, or a name that says what is different."""
    language = one.set.partition(".")[2]
    if params.active.benchmarks.source == "microworld":
        return f"micro_world_{one.task}_form_{language}"
    name = "copa" if (one.task, language) == ("xcopa", "en") else f"{one.task}_{language}"
    corrected = "_question_corrected" if CORRECTED in one.set else ""
    other = "" if one.split == scored_split(one.task, language, "default") else f"_{one.split}"
    return f"{name}{corrected}{other}"


def results(rows: Rows, cell: str, counts: Measured, params: Params) -> dict[str, Any]:
    """The sections that `lm_eval.simple_evaluate` returns, less what describes a machine and a moment.

    acc is the share of right predictions, acc_stderr = sqrt(sum (x - acc)^2 / (n - 1)) / sqrt(n) over the items.
    """
    if params.active.benchmarks.source == "none":
        raise UserError(f"export: expected scores, got none: {params.model} has no benchmarks")
    if cell not in rows.cells:
        raise UserError(f"{rows.path}: expected one of {', '.join(rows.cells)}, got {cell!r}; name such a cell")
    sections: dict[str, dict[str, Any]] = {"results": {}, "group_subtasks": {}}
    by_task = ("configs", "versions", "n-shot", "higher_is_better", "n-samples")
    sections |= {name: {} for name in by_task}
    for one in shown(rows, counts, params, "xcopa", "xnli"):
        name = task_name(one, params)
        right = [*each(rows, cell, one.set, "correct").values()]
        released = counts.get(f"{one.task}.{one.set.partition('.')[2]}.{one.split}.released", len(right))
        version = VERSION if params.active.benchmarks.source == "hub" and CORRECTED not in one.set else None
        sections["results"][name] = {
            "name": name,
            "alias": name,
            "sample_len": len(right),
            "acc,none": statistics.fmean(right),
            "acc_stderr,none": statistics.stdev(right) / math.sqrt(len(right)),
        }
        values = (_config(name, one, version, params), version, 0, {"acc": True})
        for section, value in zip(by_task, values, strict=False):
            sections[section][name] = value
        sections["n-samples"][name] = {"original": released, "effective": len(right)}
    for section in by_task[:-1]:
        sections[section] = dict(sorted(sections[section].items()))
    return {**sections, "config": _model(rows.path, cell, params)}


def _config(name: str, one: Shown, version: float | None, params: Params) -> dict[str, Any]:
    """The task's data set, split and metric."""
    settings, language = params.active.benchmarks, one.set.partition(".")[2]
    dataset: dict[str, Any] = {"dataset_path": "micro-world", "dataset_name": language}
    if isinstance(settings, HubBenchmarks):
        copa = (one.task, language) == ("xcopa", "en")
        repo: HubRepo = settings.copa if copa else getattr(settings, one.task)
        dataset = {"dataset_path": repo.repo, "dataset_name": "copa" if copa else language}
        if re.fullmatch(r"[0-9a-f]{40}", repo.revision):
            dataset["dataset_kwargs"] = {"revision": repo.revision}
    return {
        "task": name,
        **dataset,
        "validation_split" if one.split == "validation" else "test_split": one.split,
        "output_type": "multiple_choice",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": version},
    }


def _model(path: Path, cell: str, params: Params) -> dict[str, Any]:
    """Whose scores these are: the model, and the adapter of the cell."""
    frame = read_rows(path)
    first = frame[frame["cell"] == cell].iloc[0]
    model, settings = params.active.model, params.active.benchmarks
    name = model.repo if isinstance(model, HubModel) else model.title
    arguments: dict[str, str | int] = {"model": params.model, "cell": cell, "rank": int(first["rank"])}
    arguments |= {"scaling": str(first["arm"]), "seed": str(first["seed"])}
    limit = settings.limit if isinstance(settings, HubBenchmarks) else None
    return {"model": name, "model_args": arguments, "limit": limit}


def rows_of(cell: str, build: Path) -> Path:
    """Where the pipeline writes the transfer rows of a cell: the base's, a rank and seed of the sweep, or `main`."""
    if swept := re.fullmatch(r"r(\d+)-s\d+", cell):
        return build / "sweep" / "rows" / f"r{swept[1]}" / "score.tsv"
    folder = build / "base-rows" if cell in ("base", "untrained") else build
    return folder / "score.tsv"


def run(rows: Path, benchmarks: Path, cell: str, out: Path, params: Params) -> None:
    """Writes `out` from a row file of `score` or `sweep-score` and the metrics of the stage `benchmarks`."""
    write_json(out, results(Rows(rows), cell, read_json(benchmarks), params))
