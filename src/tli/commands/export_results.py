"""`tli export-results`: writes a run's benchmark scores like the results JSON of lm-evaluation-harness.

A task has the harness's name (`xcopa_sw`, `xnli_sw`, `copa`) only if items, split and prompts are the same. The
micro-world's items, corrected questions and other splits have names that the harness does not use.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

from tli.analysis.results import Measured, Rows
from tli.analysis.row_file import read_files
from tli.analysis.scores import CLASSES, CORRECTED, TASKS, Shown, each, released_items, shown, written_here
from tli.config.benchmarks import FileBenchmarks, GivenBenchmarks, HubBenchmarks
from tli.config.parameters import HubModel, Params
from tli.config.section import HubRepo
from tli.data.benchmarks.prompts import COPA_TEST
from tli.data.benchmarks.released import scored_split
from tli.io.errors import UserError
from tli.io.files import atomic_dir, write_text
from tli.io.structured import read_json, write_json

VERSION = 1.0  # of the tasks in lm-evaluation-harness 0.4.13


def task_name(task: Shown, params: Params) -> str:
    """Returns the harness's name of the task, or a name that shows the difference."""
    language = task.set.partition(".")[2]
    if params.active.benchmarks.source == "microworld":
        return f"micro_world_{task.task}_form_{language}"
    if written_here(params):
        return f"natural_{task.task}_style_{language}"
    if task.task == COPA_TEST:
        return "copa_test"
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
    for task in shown(rows, counts, params, *TASKS):
        if not rows.has(run, task.set, "-", "correct"):
            continue  # the sweep may be scored on some sets only
        name = task_name(task, params)
        correct = [*each(rows, run, task.set, "correct").values()]
        released = counts.get(f"{task.task}.{task.set.partition('.')[2]}.{task.split}.released", len(correct))
        version = VERSION if released_items(params) and CORRECTED not in task.set else None
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


def samples(rows: Rows, run: str, counts: Measured, params: Params) -> dict[str, list[dict[str, Any]]]:
    """Returns task -> a record of each item, with the keys of the harness's `samples_TASK.jsonl` but its texts.

    `doc` has the item's id instead of its text, and `target` the index of the right choice; `arguments` and the hashes
    are left out. A response is a log-likelihood and whether it is the greedy continuation, which is null: it is not
    computed here.
    """
    tasks: dict[str, list[dict[str, Any]]] = {}
    for task in shown(rows, counts, params, *TASKS):
        if not rows.has(run, task.set, "-", "correct"):
            continue
        name = task_name(task, params)
        options = range(len(CLASSES[task.task]))
        log_p = [each(rows, run, task.set, f"loglik.{option}") for option in options]
        labels, correct = (each(rows, run, task.set, measure) for measure in ("label", "correct"))
        tasks[name] = [
            {
                "doc_id": number,
                "doc": {"id": item},
                "target": str(int(labels[item])),
                "resps": [[[str(of_option[item]), None]] for of_option in log_p],
                "filtered_resps": [[str(of_option[item]), None] for of_option in log_p],
                "filter": "none",
                "metrics": ["acc"],
                "acc": correct[item],
            }
            for number, item in enumerate(correct)
        ]
    return tasks


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
    elif isinstance(settings, FileBenchmarks):
        files = [
            file
            for file in settings.files
            if (file.task, file.language, file.split) == (task.task, language, task.split)
        ]
        dataset = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {task.split: files[0].path}, "sha256": files[0].sha256},
        }
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
    limit = settings.limit if isinstance(settings, GivenBenchmarks) else None
    return {"model": name, "model_args": arguments, "limit": limit and limit.items}


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


def write(rows: Path, benchmarks: Path, run: str, out: Path, items: Path | None, params: Params) -> None:
    """Writes the results JSON of a run to `out`, and with `items` a file samples_TASK.jsonl of each task there.

    Args:
        rows: a row file of `score`, `base-rows` or `sweep-score`.
        benchmarks: metrics of the stage `benchmarks`.
        run: the run.
        out: the file to write.
        items: the folder to write, replaced as a whole.
        params: the parameters.
    """
    read, counts = read_files(rows), read_json(benchmarks)
    written = results(read, run, counts, params)
    if items is not None:
        with atomic_dir(items) as folder:
            for task, records in samples(read, run, counts, params).items():
                lines = (json.dumps(record) + "\n" for record in records)
                write_text(folder / f"samples_{task}.jsonl", "".join(lines))
    write_json(out, written)
