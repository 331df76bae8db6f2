"""Whole runs on synthetic rows: what every stage before the paper and the report leaves, for one model or several.

Folders are those of dvc.yaml: build/MODEL, results/MODEL, paper/figures/MODEL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic import fabricate, verdict_files
from tiny import ROOT
from tli.config import parameters
from tli.config.benchmarks import NoBenchmarks
from tli.config.parameters import Params
from tli.stages import tables, verify

SMOKE = ROOT / "tests" / "smoke" / "params.yaml"


def smoke_models() -> tuple[Params, Params]:
    """The smoke parameters for two models of unlike form: SmolLM2 without items, and the micro-world with items."""
    microworld = parameters.load(SMOKE, model="microworld")
    loaded = parameters.load(ROOT / "params.yaml", model="smollm2").active
    smollm2 = loaded.model_copy(update={"benchmarks": NoBenchmarks(source="none")})
    both = {"models": ("smollm2", "microworld"), "profiles": {**microworld.profiles, "smollm2": smollm2}}
    return microworld.model_copy(update={**both, "model": "smollm2"}), microworld.model_copy(update=both)


def finished(root: Path, *models: Params, **options: Any) -> dict[str, dict[str, Any]]:
    """Writes a run of `models` under `root`; model -> the arguments of its stage `tables`, and `verify`, a file."""
    runs = {}
    for number, params in enumerate(models):
        model = params.model
        results = root / "results" / model
        made = fabricate(root, params, seed=number, pairs=(8, 4), items=20, **options)
        made |= {"out": results / "tables.json", "figures_out": root / "paper" / "figures" / model}
        made |= {"plots_out": results / "plots", "headline": results / "headline.json"}
        tables.run(**made)
        judge(made, results / "verify.json", params)
        runs[model] = made | {"verify": results / "verify.json"}
    return runs


def judge(made: dict[str, Any], out: Path, params: Params) -> None:
    """The stage `verify`."""
    verify.run(tables=made["out"], files=verdict_files(), params=params, out=out)
