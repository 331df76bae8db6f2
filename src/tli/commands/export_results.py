"""`tli export-results`: writes a run's benchmark scores like the results JSON of lm-evaluation-harness.

A task has the harness's name (`xcopa_sw`, `xnli_sw`, `copa`) only if items, split and prompts are the same. The
micro-world's items, corrected questions and other splits have names that the harness does not use.
"""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

from tli.analysis.results import Measured, Rows
from tli.analysis.row_file import read_files
from tli.analysis.scores import CORRECTED, Shown, each, shown
from tli.config.parameters import HubBenchmarks, HubModel, HubRepo, Params
from tli.data.benchmarks.released import scored_split
from tli.io.errors import UserError
from tli.io.structured import read_json, write_json

VERSION = 1.0  # of the tasks in lm-evaluation-harness 0.4.13


def task_name(task: Shown, params: Params) -> str:
    """Returns the harness's name of the task, or a name that shows the difference."""
    language = task.set.partition(".")[2]
    if params.active.benchmarks.source == "microworld":
        return f"micro_world_{task.task}_form_{language}"
    name = "copa" if (task.task, language) == ("xcopa", "en") else f"{task.task}_{language}"
    corrected = "_question_corrected" if CORRECTED in task.set else ""
    split = "" if task.split == scored_split(task.task, language, "default") else f"_{task.split}"
    return f"{name}{corrected}{split}"


def results(rows: Rows, run: str, counts: Measured, params: Params) -> dict[str, Any]:
    """Returns the sections of `lm_eval.simple_evaluate`'s result, without those that describe machine and time.

    Over the items, with x = 1 for a right prediction and 0 for a wrong one, acc is the mean of x, and acc_stderr =
    sqrt(sum (x - acc)^2 / (n - 1)) / sqrt(n).

    Args:
        rows: the rows of `score` or `sweep-score`.
        run: the run.
        counts: metrics of the stage `benchmarks`.
        params: the parameters.

    Raises:
        UserError: the model has no benchmarks, or the rows do not contain the run.
    """
    if params.active.benchmarks.source == "none":
        raise UserError(f"export: expected scores, got none: {params.model} has no benchmarks")
    if run not in rows.runs:
        raise UserError(f"{rows.path}: expected one of {', '.join(rows.runs)}, got {run!r}; give one of these runs")
    sections: dict[str, dict[str, Any]] = {"results": {}, "group_subtasks": {}}
    by_task = ("configs", "versions", "n-shot", "higher_is_better", "n-samples")
    sections |= {name: {} for name in by_task}
    for task in shown(rows, counts, params, "xcopa", "xnli"):
        if not rows.has(run, task.set, "-", "correct"):
            continue  # the sweep may be scored on some sets only
        name = task_name(task, params)
        correct = [*each(rows, run, task.set, "correct").values()]
        released = counts.get(f"{task.task}.{task.set.partition('.')[2]}.{task.split}.released", len(correct))
        version = VERSION if params.active.benchmarks.source == "hub" and CORRECTED not in task.set else None
        sections["results"][name] = {
            "name": name,
            "alias": name,
            "sample_len": len(correct),
            "acc,none": statistics.fmean(correct),
            "acc_stderr,none": statistics.stdev(correct) / math.sqrt(len(correct)),
        }
        values = (_config(name, task, version, params), version, 0, {"acc": True})
        for section, value in zip(by_task, values, strict=False):
            sections[section][name] = value
        sections["n-samples"][name] = {"original": released, "effective": len(correct)}
    for section in by_task[:-1]:
        sections[section] = dict(sorted(sections[section].items()))
    return {**sections, "config": _model(rows, run, params)}


def _config(name: str, task: Shown, version: float | None, params: Params) -> dict[str, Any]:
    """The task's data set, split and metric."""
    settings, language = params.active.benchmarks, task.set.partition(".")[2]
    dataset: dict[str, Any] = {"dataset_path": "micro-world", "dataset_name": language}
    if isinstance(settings, HubBenchmarks):
        copa = (task.task, language) == ("xcopa", "en")
        repo: HubRepo = settings.copa if copa else getattr(settings, task.task)
        dataset = {"dataset_path": repo.repo, "dataset_name": "copa" if copa else language}
        if re.fullmatch(r"[0-9a-f]{40}", repo.revision):
            dataset["dataset_kwargs"] = {"revision": repo.revision}
    return {
        "task": name,
        **dataset,
        "validation_split" if task.split == "validation" else "test_split": task.split,
        "output_type": "multiple_choice",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": version},
    }


def _model(rows: Rows, run: str, params: Params) -> dict[str, Any]:
    """The model, and the run's adapter."""
    first = rows.frame[rows.frame["run"] == run].iloc[0]
    model, settings = params.active.model, params.active.benchmarks
    name = model.repo if isinstance(model, HubModel) else model.title
    arguments: dict[str, str | int] = {"model": params.model, "run": run, "rank": int(first["rank"])}
    arguments |= {"scaling": str(first["variant"]), "seed": str(first["seed"])}
    limit = settings.limit if isinstance(settings, HubBenchmarks) else None
    return {"model": name, "model_args": arguments, "limit": limit}


def rows_of(run: str, build: Path) -> Path:
    """Returns the row file with the scores of a run, in the pipeline's folder build/<model>.

    Args:
        run: `base`, `untrained`, `main`, or a run of the sweep such as r8-s0.
        build: that folder.
    """
    if swept := re.fullmatch(r"r(\d+)-s\d+", run):
        return build / "sweep" / "rows" / f"r{swept[1]}" / "score.tsv"
    folder = build / "base-rows" if run in ("base", "untrained") else build
    return folder / "score.tsv"


def write(rows: Path, benchmarks: Path, run: str, out: Path, params: Params) -> None:
    """Writes the results JSON of a run to `out`.

    Args:
        rows: a row file of `score`, `base-rows` or `sweep-score`.
        benchmarks: metrics of the stage `benchmarks`.
        run: the run.
        out: the file to write.
        params: the parameters.
    """
    write_json(out, results(read_files(rows), run, read_json(benchmarks), params))
