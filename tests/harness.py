"""lm-evaluation-harness on local rows: its own tasks, YAML files and functions, files in place of the hub's data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from lm_eval.api.task import ConfigurableTask

from tiny import SHARED
from tli.data.benchmarks.prompts import TEXTS, Source
from tli.model import checkpoint

# The real items, as far as they are here: (task, language) -> file of the split that the harness scores.
REAL = {
    ("xcopa", "en"): "copa/copa.val.en.jsonl",
    ("xcopa", "sw"): "xcopa/sw/test.sw.jsonl",
    ("xcopa", "it"): "xcopa/it/test.it.jsonl",
    ("xcopa", "zh"): "xcopa/zh/test.zh.jsonl",
    ("xnli", "en"): "xnli/xnli.dev.en.jsonl",
    ("xnli", "sw"): "xnli/xnli.dev.sw.jsonl",
}


def in_float32(model: Any) -> Any:
    """The same 4-bit model computing in float32, where batches of other shapes agree to the fourth digit.

    Unpacked for each product, as elsewhere here: bitsandbytes' own kernel for processors takes no width such as 96.
    """
    checkpoint.disable_repacking(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.is_floating_point() else parameter.data
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
    return model.eval()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def real(task: str, language: str) -> list[dict[str, Any]] | None:
    """The real items of a task and language, or None where they are not here."""
    file = SHARED / REAL[task, language]
    return read(file) if file.is_file() else None


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def sources(task: str, language: str, records: list[dict[str, Any]]) -> list[Source]:
    """Records as the stage `benchmarks` has them."""
    texts = [{name: record[name] for name in TEXTS[task]} for record in records]
    return [
        Source(f"{task}.{language}.{number:04}", task, language, "test", record["label"], text)
        for number, (record, text) in enumerate(zip(records, texts, strict=True))
    ]


def task_of(task: str, language: str, records: Path, folder: Path) -> ConfigurableTask:
    """The harness's task for our task and language, on the rows of `records` (JSON lines)."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    files = {"xnli": f"xnli/xnli_{language}.yaml", "xcopa": f"xcopa/default_{language}.yaml"}
    relative = "super_glue/copa/default.yaml" if (task, language) == ("xcopa", "en") else files[task]
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / relative)
    split = config.get("test_split") or config["validation_split"]
    for name in ("tag", "training_split", "validation_split", "test_split", "dataset_name"):
        config.pop(name, None)
    given = {"data_files": {split: str(records)}, "cache_dir": str(folder)}
    return ConfigurableTask(config=config | {"dataset_path": "json", "dataset_kwargs": given, "test_split": split})


def asked(task: ConfigurableTask) -> list[tuple[str, list[str]]]:
    """(context, continuations) of every row, as the task hands them to a model."""
    found = []
    for doc in task.eval_docs:
        requests = task.construct_requests(doc, task.fewshot_context(doc, num_fewshot=0))
        (context,) = {request.args[0] for request in requests}
        found.append((context, [request.args[1] for request in requests]))
    return found


def evaluate(lm: Any, *tasks: ConfigurableTask) -> dict[str, Any]:
    """What `lm_eval.simple_evaluate` returns, without its description of the machine and its list of all tasks."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    for task in tasks:
        task.set_config(key="num_fewshot", value=0)
    loaded = TaskManager(include_defaults=False).load(list(tasks))
    found: dict[str, Any] = evaluate(lm=lm, task_dict=loaded, log_samples=True, bootstrap_iters=1)
    return found
