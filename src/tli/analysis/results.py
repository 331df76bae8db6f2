"""Everything that was measured of one model: one frame of rows, and the metrics of the stages (all tables).

A row is one number: model, base, variant, rank, seed, set, item, view, measure, value, with the stage that measured it
and the name of its run: `base`, `main` (the paper's configuration), or `r8-s0` (rank 8, seed 0 of the sweep).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from tli.analysis.premises import Premises, read_premises
from tli.analysis.table import Cell, Table
from tli.config.parameters import MicroworldModel, Params
from tli.data.benchmarks.prompts import CORRECTED
from tli.io.errors import UserError
from tli.io.files import sha256_of
from tli.io.rows import read_rows
from tli.io.structured import read_json, read_yaml

Value = float | int | str | None
Measured = dict[str, Value]  # flat key -> value; None where a statistic is undefined

# stage -> the row files that it writes under build/MODEL; {rank} is each of sweep.ranks
FILES: Mapping[str, Sequence[str]] = {
    "quantize": ["quantize.tsv"],
    "scan": ["scan.tsv"],
    "train": ["train.tsv", "sweep/train/r{rank}.tsv"],
    "similarity": ["base-rows/similarity.tsv", "similarity.tsv", "sweep/rows/r{rank}/similarity.tsv"],
    "bfloat16": ["bfloat16.tsv"],
    "score": ["base-rows/score.tsv", "score.tsv", "sweep/rows/r{rank}/score.tsv"],
    "translate": ["translate.tsv"],
    "tsne": ["tsne.tsv"],
    "benchmarks": ["benchmarks/baselines.tsv"],
}
METRICS = ("words", "microworld", "base", "benchmarks")  # stages whose counts stand in results/MODEL/STAGE.json
COLUMNS = ("model", "base", "stage", "run", "variant", "rank", "seed", "set", "item", "view", "measure", "value")


class Results:
    """The results of one model.

    Attributes:
        frame: every measured row, with the columns COLUMNS.
        metrics: stage -> its counts, as flat keys.
        published: what paper/reported.yaml says of the published work.
        tables: the tables that are already computed, by name.
        study: the folder with the rows of the study's keys (analysis/study.py), which are too many to read at once.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        metrics: Mapping[str, Measured],
        published: Mapping[str, Any],
        premises: Premises,
        pairs_sha256: str = "",
        study: Path | None = None,
    ) -> None:
        self.frame = frame
        self.metrics = metrics
        self.published = published
        self.premises = premises
        self.pairs_sha256 = pairs_sha256
        self.study = study
        self.tables: dict[str, Table] = {}

    def of(self, stage: str) -> Rows:
        """The rows of one stage; those of the base, the paper's configuration and the sweep together."""
        return self._by_stage[stage]

    @cached_property
    def _by_stage(self) -> dict[str, Rows]:
        return {stage: Rows(self.frame[self.frame["stage"] == stage], stage) for stage in FILES}

    @property
    def values(self) -> dict[str, Cell]:
        """Key NAME/ROW/COLUMN -> value, of the tables that are already computed."""
        return {key: value for table in self.tables.values() for key, value in table.values().items()}


def read_results(build: Path, metrics: Path, published: Path, params: Params) -> Results:
    """Reads every row file of a model.

    Args:
        build: build/MODEL. metrics: results/MODEL. published: paper/reported.yaml.

    Raises:
        UserError: a file is missing or broken, two rows are the same, or a run of the sweep has no rows.
    """
    base = main_base(params)
    parts = []
    for stage, patterns in FILES.items():
        for pattern in patterns:
            for rank in params.sweep.ranks if "{rank}" in pattern else [None]:
                path = build / pattern.format(rank=rank)
                if rank is not None and not path.is_file():
                    raise UserError(f"{path}: no rows of rank {rank}, which sweep.ranks lists; run `dvc repro`")
                rows = read_rows(path)
                check_unique(path, rows)
                if rank is not None and stage != "score":
                    _check_runs(path, rows, rank, params)
                parts.append(rows.assign(model=params.model, base=base, stage=stage)[list(COLUMNS)])
    frame = pd.concat(parts, ignore_index=True)
    _check_scores(frame, build, params)
    flat_metrics = {stage: flat(read_json(metrics / f"{stage}.json", "metrics of a stage")) for stage in METRICS}
    scored = params.active.benchmarks.source != "none"
    premises = read_premises(build / "benchmarks" / "items.jsonl") if scored else {}
    pairs_sha256 = sha256_of(build / "pairs.tsv")
    return Results(frame, flat_metrics, load_yaml(published), premises, pairs_sha256, build / "study")


def check_unique(path: Path, rows: pd.DataFrame) -> None:
    """Raises UserError if two rows of a file are the same."""
    names = ["run", "set", "item", "view", "measure"]
    twice = rows.duplicated(names)
    if twice.any():
        first = " ".join(str(value) for value in rows.loc[twice, names].iloc[0])
        raise UserError(f"{path}: expected one row for {first}, got two; remove the file and run `dvc repro`")


def _check_scores(frame: pd.DataFrame, build: Path, params: Params) -> None:
    """Every set that the base is scored on has rows of each run of the sweep that scores it."""
    scores = frame[(frame["stage"] == "score") & (frame["measure"] == "correct")]
    measured = set(zip(scores["run"], scores["set"], strict=True))
    for set_ in scores.loc[scores["run"] == "base", "set"].unique():
        for rank, seed in product(params.sweep.ranks, params.sweep.seeds):
            if (
                params.sweep_scores(set_.replace(CORRECTED, ""), rank, seed)
                and (run_name(rank, seed), set_) not in measured
            ):
                path = build / "sweep" / "rows" / f"r{rank}" / "score.tsv"
                raise UserError(f"{path}: no rows of {run_name(rank, seed)} for {set_}; run `dvc repro`")


def _check_runs(path: Path, rows: pd.DataFrame, rank: int, params: Params) -> None:
    """Every seed of a rank has rows."""
    runs = set(rows["run"])
    for seed in params.sweep.seeds:
        if run_name(rank, seed) not in runs:
            raise UserError(
                f"{path}: no rows of {run_name(rank, seed)}, though sweep.seeds lists {seed}; run `dvc repro`"
            )


def main_base(params: Params) -> int:
    """The number of a model's own base: its seed; 0 for a model that was not trained here."""
    model = params.active.model
    return model.seed if isinstance(model, MicroworldModel) else 0


def run_name(rank: int, seed: int) -> str:
    """The name of a run of the sweep."""
    return f"r{rank}-s{seed}"


class Rows:
    """Look-ups in rows: (run, set, view, measure) gives item -> value, in the files' order.

    Args:
        frame: rows in which no two are the same. name: what an error message calls them.
    """

    def __init__(self, frame: pd.DataFrame, name: str) -> None:
        self.frame = frame
        self.path = f"rows of the stage {name}"
        self._groups: dict[tuple[str, str, str, str], dict[str, float | str]] = {}
        columns = (frame[column].tolist() for column in ("run", "set", "view", "measure", "item", "value"))
        for run, set_, view, measure, item, value in zip(*columns, strict=True):
            self._groups.setdefault((run, set_, view, measure), {})[item] = value

    @property
    def runs(self) -> list[str]:
        """The runs, in the file's order."""
        return list(dict.fromkeys(key[0] for key in self._groups))

    def sets(self, measure: str) -> list[str]:
        """The sets that hold `measure`, in the file's order."""
        return list(dict.fromkeys(key[1] for key in self._groups if key[3] == measure))

    def views(self, run: str, set_: str, measure: str) -> list[str]:
        """The views at which a run's set holds `measure`, in the file's order."""
        return [key[2] for key in self._groups if (key[0], key[1], key[3]) == (run, set_, measure)]

    def has(self, run: str, set_: str, view: str, measure: str) -> bool:
        return (run, set_, view, measure) in self._groups

    def each(self, run: str, set_: str, view: str, measure: str) -> dict[str, float]:
        """Item -> value. Raises UserError where the file has no such rows."""
        if not self.has(run, set_, view, measure):
            raise UserError(
                f"{self.path}: expected rows of run {run}, set {set_}, view {view}, measure {measure}, found none; "
                "run `dvc repro`, which measures them"
            )
        return {item: float(value) for item, value in self._groups[run, set_, view, measure].items()}

    def one(self, run: str, set_: str, view: str, measure: str, item: str = "-") -> float:
        """One value. Raises UserError where the file has no such row."""
        values = self.each(run, set_, view, measure)
        if item not in values:
            raise UserError(
                f"{self.path}: expected item {item} of {run} {set_} {view} {measure}, got {', '.join([*values][:3])}; "
                "run `dvc repro`"
            )
        return values[item]

    def text(self, run: str, set_: str, item: str, measure: str) -> str:
        """A value as text, view `-`; `-` where there is none."""
        return str(self._groups.get((run, set_, "-", measure), {}).get(item, "-"))

    def matched(self, runs: tuple[str, str], set_: str, view: str, measure: str) -> tuple[list[float], list[float]]:
        """The values of two runs on the same items, in one order.

        Raises UserError where the items differ: a paired test on unequal items would be wrong.
        """
        first = self.each(runs[0], set_, view, measure)
        second = self.each(runs[1], set_, view, measure)
        if first.keys() != second.keys():
            odd = sorted(first.keys() ^ second.keys())
            raise UserError(
                f"{self.path}: expected the items of {runs[0]} in {set_} for {runs[1]}, {len(odd)} differ "
                f"({odd[0]} first); run `dvc repro`, which measures both on one list"
            )
        return list(first.values()), [second[item] for item in first]


def flat(value: object, prefix: str = "") -> Measured:
    """A nested mapping as dotted keys; a list of plain values becomes one text, one of mappings (a log) is left out."""
    if isinstance(value, Mapping):
        dotted: Measured = {}
        for key, item in value.items():
            dotted |= flat(item, f"{prefix}.{key}" if prefix else str(key))
        return dotted
    if isinstance(value, list | tuple):
        if any(isinstance(item, Mapping) for item in value):
            return {}
        return {prefix: ", ".join(str(item) for item in value)}
    if isinstance(value, bool):
        return {prefix: str(value).lower()}
    return {prefix: value if value is None or isinstance(value, int | float) else str(value)}


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of the project's own that holds a mapping; UserError where it does not."""
    loaded = read_yaml(path, trusted=True)
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: expected a mapping, got {type(loaded).__name__}; restore the file from git")
    return loaded
